"""Evaluate stored embeddings: mrl-evaluate run=mrl_resnet50_imagenet1k_s0 evaluation=knn"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch
from mrl_experiments.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
@command(isolate=False)
def run(cfg: DictConfig) -> None:
    """Compose the configuration, write result rows."""
    from mrl_experiments.evaluate import Chosen, evaluate_all
    from mrl_experiments.options.several import each

    evaluate_all([Chosen(one, **choice) for one, choice in each(cfg, "evaluate")])


def main() -> None:
    """Run the command as it was typed."""
    launch(run)


if __name__ == "__main__":
    main()
