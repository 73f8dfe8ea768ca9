"""Evaluate stored embeddings: mrl-evaluate run=mrl_resnet50_imagenet1k_s0 evaluation=knn"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("evaluate", isolate=False)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write result rows."""
    from mrl_experiments.evaluate import Chosen, evaluate_all
    from mrl_experiments.options.several import each

    evaluate_all([Chosen(one, **choice) for one, choice in each(cfg, "evaluate")])


if __name__ == "__main__":
    main()
