"""Several evaluations in one command, each with options of its own: 'evaluation=[knn,retrieval]'."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from mrl_experiments.errors import UserError
from mrl_experiments.options.check import check

# Groups, and what is chosen if none is typed.
USUAL = {"evaluation": ["trained_head"], "reduction": ["prefix"]}
# Below these keys is what Hydra would put into one place: lists of choices, and options of one choice.
LISTS, OPTIONS = "several.choices", "several.options"
GROUP = "|".join(USUAL)
CHOICE, OPTION = re.compile(rf"({GROUP})=(.+)"), re.compile(rf"({GROUP})\.(\w+)(\..+)")
LIST = re.compile(r"\[\s*\w+(\s*,\s*\w+)*\s*\]")
SOLE = {"reduction.file=": "reduction.adaptor.file="}  # options that one choice alone has
OURS = re.compile(rf"\+\+(?:{re.escape(LISTS)}\..+|{re.escape(OPTIONS)}\.({GROUP})\.(\w+)(\..+))")


def told_apart(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which Hydra finds one choice for each group; `each` reads the others.

    Example:
        >>> told_apart(["evaluation=[knn,retrieval]", "evaluation.knn.k=[3]", "dims=[8]"])
        ['evaluation=knn', '++several.choices.evaluation=[knn,retrieval]', \
'++several.options.evaluation.knn.k=[3]', 'dims=[8]']
    """
    chosen = {match[1]: match[2] for match in map(CHOICE.fullmatch, arguments) if match}
    names = {group: re.findall(r"\w+", chosen[group]) if group in chosen else USUAL[group] for group in USUAL}
    told: list[str] = []
    for typed in arguments:
        of_all, _, value = typed.partition("=")
        own = SOLE.get(f"{of_all}=", "")
        is_own = own and own.split(".")[1] in names[own.split(".")[0]]
        argument = own + value if is_own else typed
        choice, option = CHOICE.fullmatch(argument), OPTION.fullmatch(argument)
        if choice and LIST.fullmatch(choice[2]):
            group = choice[1]
            told += [f"{group}={names[group][0]}", f"++{LISTS}.{group}=[{','.join(names[group])}]"]
        elif option and option[2] in names[option[1]]:
            told.append(f"++{OPTIONS}.{argument}")
        else:
            told.append(argument)
    return told


def each(cfg: DictConfig, command: str) -> Iterator[tuple[DictConfig, Mapping[str, str]]]:
    """Yield the configuration of each combination of choices, checked, and the choice of each group.

    Args:
        cfg: What Hydra composed from the command line of `told_apart`.
        command: The script's name without .py.

    Raises:
        UserError: For a choice or an option that there is not.
    """
    hydra = HydraConfig.get()
    chosen = {group: [str(hydra.runtime.choices[group])] for group in USUAL}
    if "several" not in cfg:
        yield cfg, {group: names[0] for group, names in chosen.items()}
        return
    chosen |= {str(group): list(names) for group, names in cfg.several.get("choices", {}).items()}
    for names in itertools.product(*chosen.values()):
        choice = dict(zip(chosen, names, strict=True))
        try:
            one = compose(hydra.job.config_name, _overrides(hydra.overrides.task, choice))
        except HydraException as error:
            text = "\n".join(str(cause) for cause in (error, error.__cause__) if cause)
            raise UserError(text, remedy="--help shows the options") from error
        check(one, command)
        yield one, choice


def _overrides(typed: Sequence[str], choice: Mapping[str, str]) -> list[str]:
    """Return what is typed as if one choice alone were; its own options come last, and so win."""
    shared = [text for text in typed if not (OURS.fullmatch(text) or CHOICE.fullmatch(text))]
    own = [
        f"{match[1]}{match[3]}"
        for match in map(OURS.fullmatch, typed)
        if match and match[1] and choice[match[1]] == match[2]
    ]
    return [*(f"{group}={name}" for group, name in choice.items()), *shared, *own]
