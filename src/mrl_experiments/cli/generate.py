"""Continue a text with a trained language model: mrl-generate run=mrl_e_gpt_tiny_python_stdlib_s0"""

import sys

import hydra
from omegaconf import DictConfig

from mrl_experiments.command import command, launch
from mrl_experiments.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="generate")
@command(isolate=True)
def run(cfg: DictConfig) -> None:
    """Compose the configuration, print the text, and size and speed to where errors go."""
    from mrl_experiments.generate import generate

    generated = generate(cfg)
    print(generated.text)
    print(f"[{generated.summary}]", file=sys.stderr)


def main() -> None:
    """Run the command as it was typed."""
    launch(run)


if __name__ == "__main__":
    main()
