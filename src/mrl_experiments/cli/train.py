"""Train one nested representation: mrl-train model=resnet50 loss=mrl"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("train", isolate=True)
def main(cfg: DictConfig) -> float | None:
    """Compose the configuration, train or resume its run."""
    from mrl_experiments.first_line import print_first_line

    print_first_line(cfg)

    from mrl_experiments.training.train import train  # which loads torch, Lightning and timm

    return train(cfg)


if __name__ == "__main__":
    main()
