"""The order in which chains of a plan run side by side."""

import time

import pytest

from mrl_experiments.reproduce.execution import Reproduction
from mrl_experiments.reproduce.plan import Chain, Step
from mrl_experiments.runs import Run


def chain(folder, name, source=""):
    steps = [Step(verb, (name,), (folder / f"{name}-{verb}",), ()) for verb in ("train.py", "embed.py")]
    return Chain(Run(folder / name), "digits", steps, source)


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """Carry out chains with commands that only take time; return what failed, and all beginnings and ends."""
    events = []

    def run(*plan, failing=()):
        def execute(self, step, log):
            name = (step.arguments[0], step.verb)
            events.append(("begins", *name))
            time.sleep(0.1 if step.verb == "train.py" else 0.5)
            events.append(("ends", *name))
            return int(name in failing)

        monkeypatch.setattr(Reproduction, "_execute", execute)
        minutes = {"train": 1, "embed": 1, "evaluate": 1}
        return Reproduction(plan, minutes, 3, tmp_path / "logs").run(), events

    return run


def test_a_run_that_starts_from_another_waits_for_its_training_alone(tmp_path, carried_out):
    plan = [chain(tmp_path, "ff"), chain(tmp_path, "mrl"), chain(tmp_path, "tuned", source="ff")]
    failed, events = carried_out(*plan)
    assert not failed and len(events) == 12
    begun = events.index(("begins", "tuned", "train.py"))
    assert events.index(("ends", "ff", "train.py")) < begun < events.index(("ends", "ff", "embed.py"))
    assert events.index(("begins", "mrl", "train.py")) < events.index(("ends", "ff", "train.py"))


def test_it_does_not_wait_for_ever_when_that_training_fails(tmp_path, carried_out):
    plan = [chain(tmp_path, "ff"), chain(tmp_path, "tuned", source="ff")]
    failed, events = carried_out(*plan, failing={("ff", "train.py"), ("tuned", "train.py")})
    assert [problem.split(":")[0] for problem in failed] == ["train.py ff", "train.py tuned"]
    assert ("begins", "ff", "embed.py") not in events


def test_a_source_that_is_trained_already_is_not_waited_for(tmp_path, carried_out):
    for verb in ("train.py", "embed.py"):
        (tmp_path / f"ff-{verb}").touch()
    failed, events = carried_out(chain(tmp_path, "ff"), chain(tmp_path, "tuned", source="ff"))
    assert not failed and {name for _, name, _ in events} == {"tuned"}
