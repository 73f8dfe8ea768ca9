"""Evaluate stored embeddings: python evaluate.py run=mrl_resnet50_imagenet1k_s0 evaluation=knn"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@command(isolate=False)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write result rows."""
    from mrl_experiments.evaluate import Chosen, evaluate_all
    from mrl_experiments.options.several import each

    evaluate_all([Chosen(one, **choice) for one, choice in each(cfg, "evaluate")])


if __name__ == "__main__":
    launch(main)
