"""Continue a text with a trained language model: python generate.py run=mrl_e_gpt_tiny_python_stdlib_s0"""

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
@command(isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, print the text."""
    from mrl_experiments.generate import generate

    print(generate(cfg))


if __name__ == "__main__":
    launch(main)
