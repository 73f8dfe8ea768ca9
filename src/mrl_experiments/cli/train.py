"""Train one nested representation: mrl-train model=resnet50 loss=mrl"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch
from mrl_experiments.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
@command(isolate=True)
def run(cfg: DictConfig) -> float | None:
    """Compose the configuration, train or resume its run."""
    from mrl_experiments.first_line import print_first_line

    print_first_line(cfg)

    from mrl_experiments.training.train import train  # which loads torch, Lightning and timm

    return train(cfg)


def main() -> None:
    """Run the command as it was typed."""
    launch(run)


if __name__ == "__main__":
    main()
