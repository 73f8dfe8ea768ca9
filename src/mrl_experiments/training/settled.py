"""Options that follow from others before a run is told apart by them: from its weights, or from its past."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mrl_experiments.errors import UserError
from mrl_experiments.identity import settle_tag, without_new_keys
from mrl_experiments.options.typed import typed_keys
from mrl_experiments.runs import Run, is_trial, refuse_other_config, run_of

FROM_WEIGHTS = ("mean", "std", "center")  # of data.augment


def settle(cfg: DictConfig) -> None:
    """Complete a training's options in place, so that the run stores what it uses.

    `trainer.max_epochs` and its short form `epochs` become one, and `auto_tag` the tag that it means. A run
    that exists keeps what it was made with: keys that its source does not know are left out. Where
    `model.pretrained` is set, images are normalized and cropped as its weights want, unless the command line
    says otherwise. What differs is printed.
    """
    settle_name(cfg)
    stored = known.config if (known := known_run(cfg)) else None
    if stored is not None:
        without_new_keys(cfg.data, stored.data)
    if not cfg.model.get("pretrained") or "augment" not in cfg.data:
        return
    typed = typed_keys()
    if stored is not None:
        for key in FROM_WEIGHTS:
            if f"data.augment.{key}" not in typed:
                cfg.data.augment[key] = stored.data.augment[key]
    else:
        _take_from_weights(cfg, typed)


def settle_name(cfg: DictConfig) -> None:
    """Complete what the name of a run follows from, and how long it trains."""
    _settle_epochs(cfg)
    settle_tag(cfg)


def refuse_early(cfg: DictConfig) -> None:
    """Refuse a configuration that a run of its name contradicts, before libraries are loaded.

    Where pretrained weights have a say in the options, that is left to `settle`.

    Raises:
        UserError: As `refuse_other_config` does.
    """
    if not cfg.model.get("pretrained") and (run := known_run(cfg)):
        without_new_keys(cfg.data, run.config.data)
        refuse_other_config(run, cfg)


def known_run(cfg: DictConfig) -> Run | None:
    """Return the run that a configuration goes on with, if there is one."""
    run = run_of(cfg)
    return run if run.begun and run.config_path.exists() and not is_trial(cfg) else None


def _settle_epochs(cfg: DictConfig) -> None:
    """Move `trainer.max_epochs` into `epochs`: by either name it is the same run.

    Raises UserError where both are typed and differ, or where nothing says how long the schedule is.
    """
    most = cfg.trainer.get("max_epochs")
    if most is None:
        return
    if "epochs" in typed_keys() and cfg.epochs != most:
        raise UserError(f"epochs={cfg.epochs} and trainer.max_epochs={most} differ", remedy="leave one out")
    if most < 0 and (cfg.trainer.get("max_steps") or -1) < 0:
        raise UserError(
            "trainer.max_epochs=-1 without trainer.max_steps",
            expected="a length, which the schedule of the learning rate follows",
            remedy="set trainer.max_steps as well; trainer.max_time may end it earlier",
        )
    cfg.epochs, cfg.trainer.max_epochs = most, None


def _take_from_weights(cfg: DictConfig, typed: set[str]) -> None:
    wanted = weights_options(cfg.model.arch, cfg.model.pretrained, cfg.data.augment)
    if wanted is None:
        return
    own: Any = OmegaConf.to_container(cfg.data.augment, resolve=True)
    for key in FROM_WEIGHTS:
        name, value, ours = f"data.augment.{key}", wanted[key], own[key]
        if ours == value:
            continue
        if name in typed:
            _tell(f"{name}={ours} as given; the pretrained weights want {value}")
        else:
            _tell(f"{name}={value}, as the pretrained weights want, not the data's {ours}")
            cfg.data.augment[key] = value
    _tell(
        f"the pretrained weights want {wanted['interpolation']} interpolation; the loaders average over areas"
    )


def weights_options(arch: str, pretrained: str | bool, augment: Any) -> dict[str, Any] | None:
    """Return mean, std, center and interpolation of timm's weights; None for an architecture timm lacks.

    Weights in a folder may say them in its config.json.

    For data of one channel, mean and std are the averages over those of three, as their weights are summed;
    images that are not cropped stay whole.
    """
    import timm  # which takes seconds

    from mrl_experiments.models.pretrained import is_place, preprocessing

    tag = pretrained if isinstance(pretrained, str) and not is_place(pretrained) else ""
    name = f"{arch.split('.', maxsplit=1)[0]}.{tag}" if tag else arch
    try:
        kept = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that timm does not know: building the model says so
        return None
    if kept is None:
        return None
    wanted = {**kept.to_dict(), **preprocessing(pretrained)}
    single = len(augment.mean) == 1
    mean, std = ([sum(v) / len(v)] if single else list(v) for v in (wanted["mean"], wanted["std"]))
    center = augment.center if augment.center == 1 else wanted["crop_pct"]
    return {"mean": mean, "std": std, "center": center, "interpolation": wanted["interpolation"]}


def _tell(line: str) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only  # which takes seconds

    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(line, flush=True)
