"""What tells two training configurations apart: all that changes the result, and nothing that does not."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

from mrl_experiments.options.typed import typed_overrides
from mrl_experiments.sweeps import visible_gpus

# Keys that may differ between two commands that mean the same run: where it is written, what is shown of it,
# and what it is computed on. Devices count with the images of a step.
NON_IDENTITY_KEYS = {
    "": ("id", "root", "debug", "logger", "run_name", "auto_tag", "trust", "optimized_metric", "compile"),
    "data": ("cache", "workers"),
    "trainer": (
        *("name", "accelerator", "devices", "num_nodes", "strategy"),
        *("progress", "log_every_n_steps", "checkpoint_minutes", "timeout_minutes", "profiler", "barebones"),
        *("enable_progress_bar", "enable_model_summary", "enable_autolog_hparams", "default_root_dir"),
        *("detect_anomaly", "num_sanity_val_steps", "use_distributed_sampler", "model_registry"),
        *("limit_test_batches", "limit_predict_batches", "inference_mode"),
    ),
}
NON_IDENTITY_CALLBACKS = {  # callbacks that change nothing of a run
    *(f"pytorch_lightning.callbacks.{name}" for name in ("ModelCheckpoint", "LearningRateMonitor")),
    *(f"pytorch_lightning.callbacks.{name}" for name in ("DeviceStatsMonitor", "RichProgressBar")),
    "mrl_experiments.training.throughput.Throughput",
}
# Options that were added, with what the runs of before were made with; not needed where that is null.
ADDED: dict[str, Any] = {
    **{"trainer.check_val_every_n_epoch": 1, "model.pretrained_by_order": False, "model.two_maps": False},
    **{"data.similarity": "cosine", "loss.similarity": "cosine", "loss.recipe": "paper"},
    "loss.weights_rise": 0,
}
BATCH, STEP = "data.batch_size", "data.batch_size of all processes"
ENDLESS = ("constant", "plateau", "step", "multistep", "none")  # schedules that no length ends
NAMED = {  # options that are in a run's name, and those that choose them
    *("model", "loss", "data", "seed", "label", "tag", "trainer", "model.name", "loss.name", "data.name"),
    *("loss.dim", "loss.dims"),
}


def ignored() -> set[str]:
    """Return the dotted keys that are no part of a run's identity."""
    return {".".join(filter(None, (group, key))) for group, keys in NON_IDENTITY_KEYS.items() for key in keys}


def identity(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Flatten a configuration to {dotted key: value}, without what changes no result.

    ~ in a path is the home folder, however it was typed.
    """
    return dict(_flat(config, "", ignored()))


def _flat(node: Mapping[Any, Any], path: str, left_out: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        mapping = isinstance(value, Mapping)
        watches = path == "callbacks" and mapping and value.get("_target_") in NON_IDENTITY_CALLBACKS
        if name in left_out or watches or (name == "callbacks" and not value):
            continue
        if mapping and value:
            yield from _flat(value, name, left_out)
        else:
            unlabelled = (name, value) == ("label", "")  # which only keeps a run from its recipe's name
            home = isinstance(value, str) and value.startswith("~")
            yield name, None if unlabelled else os.path.expanduser(value) if home else value


def differences(theirs: Mapping[Any, Any], ours: Mapping[Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {dotted key: (theirs, ours)} of what tells two configurations of a training apart.

    More processes with smaller batches are the same training as long as a step has as many images.
    """
    flat = [ADDED | identity(config) for config in (theirs, ours)]
    if flat[0].get(BATCH) is not None and flat[1].get(BATCH) is not None:
        for one, config in zip(flat, (theirs, ours), strict=True):
            one[STEP] = one.pop(BATCH) * processes(config.get("trainer") or {})
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = {key: (flat[0].get(key), flat[1].get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def processes(trainer: Mapping[Any, Any]) -> int:
    """Return how many processes a trainer starts; `auto` is a number of this machine's GPUs."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes") or 1
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    if isinstance(devices, list | tuple):
        return len(devices) * int(nodes)
    if devices in ("auto", -1, "-1"):
        devices = 1 if trainer.get("accelerator") == "cpu" else max(1, len(visible_gpus()))
    return int(devices) * int(nodes)


def fixed_length(config: Mapping[Any, Any]) -> str | None:
    """Return why a training cannot go on after its last epoch; None where it can.

    It can where the learning rate of a step does not depend on the number of epochs.
    """
    optim, loss = config.get("optim") or {}, config.get("loss") or {}
    schedule, epochs = optim.get("schedule"), config.get("epochs") or 0
    if schedule not in ENDLESS:
        shown = f"optim.schedule={schedule}" if schedule else f"optim={optim.get('name')}"
        return f"the learning rate of {shown} has come to its end: it follows from the number of epochs"
    if (optim.get("warmup_epochs") or 0) > epochs / 2:
        return f"its warm-up was cut to half of {epochs} epochs"
    if loss.get("weights_rise") and loss.get("nested", True):
        return f"the weights of few dims rose over {loss['weights_rise']} of {epochs} epochs"
    if loss.get("mode") == "universal":
        return "a universal slimmable network has measured its statistics at the end"
    return None


def without_new_keys(given: DictConfig, own: DictConfig) -> None:
    """Leave out keys of a source that a run's own data of the same name do not have."""
    if given.name == own.name and "source" in given and "source" in own:
        with open_dict(given):
            for key in set(given.source) - set(own.source):
                del given.source[key]


def settle_tag(cfg: DictConfig) -> None:
    """Turn `auto_tag`, where it is set, into the tag that it means, in place."""
    if cfg.get("auto_tag"):
        cfg.tag, cfg.auto_tag = automatic_tag(typed_overrides(), cfg.model) + cfg.tag, False


def automatic_tag(typed: list[str], model: Mapping[Any, Any]) -> str:
    """Return a tag that names the options that were typed, but for those that a run's name has anyway.

    Args:
        typed: Overrides of the command line, such as optim.lr=0.1.
        model: The options of the model.

    Example:
        >>> automatic_tag(["optim.lr=0.1", "loss=mrl", "seed=3", "optim=adamw_cosine"], {})
        '_lr0.1_optim-adamw_cosine'
    """
    named = NAMED | ignored() | ({"model.arch"} if model.get("name") == model.get("arch") else set())
    parts = []
    for override in sorted(typed):
        key, _, value = override.lstrip("+").partition("=")
        if key in named or key.startswith(("logger.", "hydra")):
            continue
        value = "-".join(filter(None, re.split(r"[^\w.+-]+", value.rpartition("/")[2])))
        parts.append(f"{key.rpartition('.')[2]}{value}" if "." in key else f"{key.lstrip('~')}-{value}")
    return "".join(f"_{part}" for part in parts)
