"""Embed data splits with trained runs: mrl-embed run=mrl_resnet10t_kanji1k_s0"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("embed", isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write embeddings."""
    from mrl_experiments.embed import embed

    embed(cfg)


if __name__ == "__main__":
    main()
