"""Write a run for use elsewhere: mrl-export run=mrl_resnet10t_digits_s0 format=hub"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("export", isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write the folder."""
    from mrl_experiments.export.write import export

    export(cfg)


if __name__ == "__main__":
    main()
