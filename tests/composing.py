"""Configurations as the commands compose them."""

from typing import Any

from commands import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf


def composed(command: str, *overrides: str) -> DictConfig:
    """Return the configuration of a root script."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(command, list(overrides))


def source_options(data: str) -> dict[str, Any]:
    """Return the arguments of the source that an option of data has."""
    options = OmegaConf.to_container(composed("train", f"data={data}").data.source, resolve=True)
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items() if key != "_target_"}


def loss_options(loss: str, **changed: Any) -> DictConfig:
    """Return the options of a loss, without those of a command."""
    options = OmegaConf.to_container(composed("train", f"loss={loss}").loss, resolve=True)
    merged = OmegaConf.merge(options, changed)
    assert isinstance(merged, DictConfig)
    return merged
