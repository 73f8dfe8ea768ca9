"""The plan of a profile: for each run, its commands and the files that they write."""

from dataclasses import dataclass, field
from functools import cache
from glob import glob
from pathlib import Path

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrl_experiments.embeddings import META
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_text
from mrl_experiments.runs import Run, run_of

PROFILES = Path(__file__).parent / "profiles"  # full.yaml and others: what each trains and evaluates


@dataclass
class Group:
    """Runs of a profile that are evaluated alike.

    Attributes:
        runs: The options of each.
        evaluate: Those of each evaluate.py command.
        embed: Those of each embed.py command.
        train: Options of all its runs.
        seeds: Instead of the profile's.
    """

    runs: list[str]
    evaluate: list[str]
    embed: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)
    seeds: list[int] | None = None


@dataclass
class Minutes:
    """How long a command of each kind takes."""

    train: float
    embed: float
    evaluate: float


@dataclass
class Profile:
    """What a profile holds; `train` are options of all runs."""

    seeds: list[int]
    train: list[str]
    groups: list[Group]
    minutes: Minutes


@dataclass(frozen=True)
class Step:
    """One command; finished once all its products are there, each newer than every source."""

    verb: str
    arguments: tuple[str, ...]
    products: tuple[Path, ...]
    sources: tuple[Path, ...]  # paths or globs

    @property
    def finished(self) -> bool:
        """True if there is nothing to do."""
        if not all(path.exists() for path in self.products):
            return False
        made = min(path.stat().st_mtime for path in self.products)
        return all(
            Path(source).stat().st_mtime <= made for path in self.sources for source in glob(str(path))
        )


@dataclass(frozen=True)
class Chain:
    """The steps of one run, in order: each reads what an earlier one wrote.

    Attributes:
        source: The name of the run whose backbone this one starts from, or "".
    """

    run: Run
    data: str
    steps: list[Step]
    source: str = ""


def read_profile(path: Path) -> DictConfig:
    """Read a profile.

    Raises:
        UserError: If it is no YAML, or lacks a part.
    """
    try:
        profile = OmegaConf.merge(OmegaConf.structured(Profile), OmegaConf.create(read_text(path)))
        OmegaConf.to_container(profile, resolve=True, throw_on_missing=True)
    except (yaml.YAMLError, OmegaConfBaseException, AssertionError) as error:  # OmegaConf asserts a mapping
        raise UserError(
            f"{path} is no profile: {' '.join(str(error).split()) or 'it is no mapping'}",
            expected=f"a file like those in {PROFILES}",
            remedy="copy one of them, and change what differs",
        ) from error
    assert isinstance(profile, DictConfig)
    return profile


def chains(profile: DictConfig, root: Path, trainer: str = "cpu") -> list[Chain]:
    """Return the chain of each run, seed after seed, so that an early stop leaves whole tables.

    Those that start from another run come last.

    Args:
        trainer: The option for training and embedding.
    """
    found: dict[str, Chain] = {}
    for seed in sorted({seed for group in profile.groups for seed in (group.seeds or profile.seeds)}):
        for group in profile.groups:
            if seed in (group.seeds or profile.seeds):
                for overrides in group.runs:
                    train = [*profile.train, *group.train, *overrides.split()]
                    chain = _chain([*train, f"seed={seed}", f"root={root}", f"trainer={trainer}"])
                    _extend(found.setdefault(chain.run.name, chain), group, root, trainer)
    return sorted(found.values(), key=lambda chain: bool(chain.source))


def _chain(overrides: list[str]) -> Chain:
    cfg = compose("train", overrides)
    run = run_of(cfg)
    training = Step("train.py", tuple(overrides), (run.finished,), ())
    return Chain(run, cfg.data.name, [training], cfg.init_from or "")


def _extend(chain: Chain, group: DictConfig, root: Path, trainer: str) -> None:
    run, shared = chain.run, [f"run={chain.run.name}", f"root={root}"]
    for command in group.embed:
        arguments = (*shared, f"trainer={trainer}", *command.split())
        data, splits = _embedded(command)
        metas = tuple(run.embeddings(data or chain.data, split) / META for split in splits)
        chain.steps.append(Step("embed.py", arguments, metas, (run.finished,)))
    for command in group.evaluate:
        data, evaluation, reduction = _evaluated(command)
        product = run.results(evaluation, data or chain.data, reduction)
        metas = (run.embeddings(data or chain.data, "*") / META,)
        chain.steps.append(Step("evaluate.py", (*shared, *command.split()), (product,), metas))


@cache  # the same few commands for each of many runs
def _embedded(command: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the data set that a command names, if any, and its splits."""
    cfg = compose("embed", ["run=any", *command.split()])
    return cfg.data.name if cfg.get("data") else None, tuple(cfg.splits)


@cache
def _evaluated(command: str) -> tuple[str | None, str, str]:
    """Return the data set that a command names, if any, its evaluation and its reduction."""
    cfg = compose("evaluate", ["run=any", *command.split()], return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    return cfg.data.name if cfg.get("data") else None, chosen.evaluation, chosen.reduction
