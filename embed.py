"""Embed data splits with trained runs: python embed.py run=mrl_resnet10t_kanji1k_s0"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch


@hydra.main(version_base="1.3", config_path="conf", config_name="embed")
@command(isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, write embeddings."""
    from mrl_experiments.embed import embed

    embed(cfg)


if __name__ == "__main__":
    launch(main)
