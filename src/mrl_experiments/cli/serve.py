"""Serve a run over HTTP: mrl-serve run=mrl_resnet10t_digits_s0 index=digits-index split=train"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("serve", isolate=True)
def main(cfg: DictConfig) -> None:
    """Compose the configuration, answer requests."""
    from mrl_experiments.serve.start import serve

    serve(cfg)


if __name__ == "__main__":
    main()
