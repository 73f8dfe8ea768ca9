"""Continue a text with a trained language model: mrl-generate run=mrl_e_gpt_tiny_python_stdlib_s0"""

import sys

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("generate", isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, print the text, and mean dim and speed to where errors go."""
    from mrl_experiments.generate import generate

    generated = generate(cfg)
    print(generated.text)
    print(f"[{generated.summary}]", file=sys.stderr)


if __name__ == "__main__":
    main()
