"""Continue a text with a trained language model: python generate.py run=mrl_e_gpt_tiny_python_stdlib_s0"""

import sys

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
@command(isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, print the text, and size and speed to where errors go."""
    from mrl_experiments.generate import generate

    generated = generate(cfg)
    print(generated.text)
    print(f"[{generated.summary}]", file=sys.stderr)


if __name__ == "__main__":
    launch(main)
