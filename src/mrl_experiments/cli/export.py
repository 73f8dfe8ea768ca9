"""Write a run for use elsewhere: mrl-export run=mrl_resnet10t_digits_s0 format=hub"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("export", isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write the folder or hand the vectors over."""
    if cfg.target:
        from mrl_experiments.engines.targets import hand_over

        hand_over(cfg)
    else:
        from mrl_experiments.export.write import export

        export(cfg)


if __name__ == "__main__":
    main()
