"""Embed data splits with trained runs: mrl-embed run=mrl_resnet10t_kanji1k_s0"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch
from mrl_experiments.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="embed")
@command(isolate=True)
def run(cfg: DictConfig) -> None:
    """Compose the configuration, write embeddings."""
    from mrl_experiments.embed import embed

    embed(cfg)


def main() -> None:
    """Run the command as it was typed."""
    launch(run)


if __name__ == "__main__":
    main()
