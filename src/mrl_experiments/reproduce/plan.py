"""What a profile asks for: for each run, the commands that make it and what they leave on disk."""

from dataclasses import dataclass
from glob import glob
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig

from mrl_experiments.embeddings import META
from mrl_experiments.runs import Run, run_of


@dataclass(frozen=True)
class Step:
    """One command; finished once all its products are there, each newer than every source."""

    verb: str
    arguments: tuple[str, ...]
    products: tuple[Path, ...]
    sources: tuple[Path, ...]  # paths or globs

    @property
    def finished(self) -> bool:
        """Whether there is nothing to do."""
        if not all(path.exists() for path in self.products):
            return False
        made = min(path.stat().st_mtime for path in self.products)
        return all(
            Path(source).stat().st_mtime <= made for path in self.sources for source in glob(str(path))
        )


@dataclass(frozen=True)
class Chain:
    """The steps of one run, in order: each reads what an earlier one wrote.

    source: the name of the run whose backbone this one starts from, or "".
    """

    run: Run
    data: str
    steps: list[Step]
    source: str = ""


def chains(profile: DictConfig, root: Path) -> list[Chain]:
    """Return the chain of each run, seed after seed, so that an early stop leaves whole tables.

    Those that start from another run come last.
    """
    found: dict[str, Chain] = {}
    for seed in sorted({seed for group in profile.groups for seed in group.get("seeds", profile.seeds)}):
        for group in profile.groups:
            if seed in group.get("seeds", profile.seeds):
                for overrides in group.runs:
                    train = [*profile.train, *group.get("train", ()), *overrides.split()]
                    chain = _chain([*train, f"seed={seed}", f"root={root}"])
                    _extend(found.setdefault(chain.run.name, chain), group, root)
    return sorted(found.values(), key=lambda chain: bool(chain.source))


def _chain(overrides: list[str]) -> Chain:
    cfg = compose("train", overrides)
    run = run_of(cfg)
    training = Step("train.py", tuple(overrides), (run.finished,), ())
    return Chain(run, cfg.data.name, [training], cfg.init_from or "")


def _extend(chain: Chain, group: DictConfig, root: Path) -> None:
    run, shared = chain.run, [f"run={chain.run.name}", f"root={root}"]
    for command in group.get("embed", ()):
        arguments = [*shared, *command.split()]
        cfg = compose("embed", arguments)
        folders = [
            run.embeddings(cfg.data.name if cfg.get("data") else chain.data, split) for split in cfg.splits
        ]
        metas = tuple(folder / META for folder in folders)
        chain.steps.append(Step("embed.py", tuple(arguments), metas, (run.finished,)))
    for command in group.evaluate:
        arguments = [*shared, *command.split()]
        cfg = compose("evaluate", arguments, return_hydra_config=True)
        data, chosen = cfg.data.name if cfg.get("data") else chain.data, cfg.hydra.runtime.choices
        product = run.results(chosen.evaluation, data, chosen.reduction)
        metas = (run.embeddings(data, "*") / META,)
        chain.steps.append(Step("evaluate.py", tuple(arguments), (product,), metas))
