"""What a command is about to do, in a line that is there before libraries are loaded."""

import os

from omegaconf import DictConfig

from mrl_experiments.runs import run_name
from mrl_experiments.sweeps import visible_gpus
from mrl_experiments.training.settled import refuse_early, settle_name


def print_first_line(cfg: DictConfig) -> None:
    """Print a training's run, method, model, data and device, once however many processes it has.

    Raises:
        UserError: If a run of this name has another configuration.
    """
    settle_name(cfg)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    wanted = cfg.trainer.get("accelerator")
    gpu = wanted in ("gpu", "cuda") or (wanted == "auto" and visible_gpus())
    device = "a GPU" if gpu else "the CPU" if wanted in ("cpu", "auto") else wanted
    made_of = f"loss={cfg.loss.name} model={cfg.model.name} data={cfg.data.name}"
    print(f"{run_name(cfg)}: {made_of} on {device}", flush=True)
    refuse_early(cfg)
