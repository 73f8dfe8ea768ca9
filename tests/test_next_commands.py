"""Commands that messages and the report's page print can be pasted: here each is run."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from composing import composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from mrl_experiments.embed import embed
from mrl_experiments.errors import UserError, command_line
from mrl_experiments.evaluate import evaluate
from mrl_experiments.next_commands import next_command
from mrl_experiments.options.check import check
from mrl_experiments.options.typed import quoted
from mrl_experiments.report.page import Sources
from mrl_experiments.report.write import write_report
from mrl_experiments.results import read_rows
from mrl_experiments.training.train import train

TINY = ["model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=1", "loss.dims=[8,96]"]
TINY += ["trainer=cpu", "trainer.precision=32-true"]
SMALL = ["data=image_folder", "data.size=32", "data.loader=torch", "data.workers=0", "data.batch_size=8"]


def option(key, value):
    """Return an option as Hydra reads any value."""
    return shlex.split(command_line("train.py", {key: str(value)}))[-1]


def paste(command):
    """Run a printed command as a shell and a script would."""
    python, script, *typed = shlex.split(command)
    assert python == "python"
    name, typed = Path(script).stem, [quoted(argument) for argument in typed]
    cfg = composed(name, *typed)
    check(cfg, name)
    if name == "embed":
        embed(cfg)
    elif name == "evaluate":
        chosen = dict(argument.split("=", 1) for argument in typed)
        evaluate(cfg, chosen.get("evaluation", "trained_head"), chosen.get("reduction", "prefix"))
    else:
        assert name == "report"
        write_report(cfg.rows, Path(cfg.out), Path(cfg.root) / "runs", cfg.counterparts)


def following(capsys):
    """Return the command that was printed last."""
    return re.findall(r"^next: (.*)$", capsys.readouterr().out, re.MULTILINE)[-1]


def photographs(folder, names=("cat", "dog", "owl"), count=16, seed=0):
    """Paint pictures of several classes."""
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def page_commands(root, dataset):
    """Return the commands that the page names for the rows of a data set."""
    rows = [row for path in root.glob("runs/*/results/*.csv") for row in read_rows(path)]
    rows = [row for row in rows if row.dataset == dataset]
    sources = Sources(rows, root / "runs", root / "report")
    for number in range(len(rows)):
        sources.of(number, "top1")
    return [command for _, command, _ in sources.places]


@pytest.mark.parametrize(
    "value", ["mrl_*", "/my out", "it's $HOME", 'a"b', "a\\b", "a`b", "x;y", "[x]", "走", ""]
)
def test_a_shell_and_hydra_read_any_value_as_it_is(value):
    _, script, *words = shlex.split(command := command_line("embed.py", {"run": value}))
    shown = subprocess.run(
        ["sh", "-c", f"printf %s {command.partition(script)[2]}"], check=True, capture_output=True, text=True
    )
    assert [shown.stdout] == words
    assert OverridesParser.create().parse_override(words[0]).value() == value


def test_what_needs_no_other_quotes_has_double_ones():
    assert (
        command_line("embed.py", {"run": "mrl_*", "root": "/out"})
        == """python embed.py "run='mrl_*'" root=/out"""
    )


def test_from_training_to_the_page_on_data_of_ones_own(tmp_path, capsys):
    root = tmp_path / "it's $HOME, (out)"
    own = [*SMALL, "data.name=emoji", option("data.root", photographs(tmp_path / "my photos"))]
    train(composed("train", *TINY, *own, option("root", root)))
    paste(following(capsys))
    paste(following(capsys))
    paste(following(capsys))
    assert (root / "report" / "index.html").exists()
    others = photographs(tmp_path / "others", seed=1)
    options = ["data=image_folder", "data.size=32", "data.loader=torch", "data.workers=0"]
    embed(
        composed(
            "embed", option("root", root), "run=*", *options, "data.name=others", f"data.root={others}",
            "tta=flip", "trainer=cpu",
        )
    )  # fmt: skip
    paste(following(capsys))
    commands = {dataset: page_commands(root, dataset) for dataset in ("emoji", "others")}
    assert all(len(printed) == 1 for printed in commands.values())
    assert "data=" not in commands["emoji"][0]
    before = {path: path.read_bytes() for path in root.glob("runs/*/results/*.csv")}
    for printed in commands.values():
        paste(printed[0])
    assert before == {path: path.read_bytes() for path in root.glob("runs/*/results/*.csv")}


def test_a_remedy_names_what_is_missing_and_can_be_pasted(tmp_path, capsys):
    digits = ["data=digits", "data.loader=torch", "data.workers=0"]
    train(composed("train", *TINY, *digits, f"root={tmp_path}"))
    evaluation = composed("evaluate", f"root={tmp_path}", "run=*", "evaluation=knn", "queries=[val]")
    with pytest.raises(UserError) as nothing:
        evaluate(evaluation, "knn", "prefix")
    remedy = nothing.value.remedy
    assert remedy == next_command("embed.py", tmp_path, {"run": "mrl_tiny_digits_d8-96_s0"})
    embed(composed("embed", f"root={tmp_path}", "run=*", "splits=[train]", "trainer=cpu"))
    assert "next:" not in capsys.readouterr().out.partition("embeddings")[2]  # nothing to evaluate yet
    with pytest.raises(UserError, match="no embeddings of digits/val") as missing:
        evaluate(evaluation, "knn", "prefix")
    paste(missing.value.remedy)
    evaluate(evaluation, "knn", "prefix")


def test_data_of_another_name_need_their_folder_too(tmp_path):
    digits = ["data=digits", "data.loader=torch", "data.workers=0"]
    train(composed("train", *TINY, *digits, f"root={tmp_path}", "run_name=mine"))
    for typed, told in (
        (["data=kanji4k"], "run=mine data=kanji4k"),
        (["data=image_folder", "data.name=emoji"], "data.name=emoji data.root="),
    ):
        cfg = composed("evaluate", f"root={tmp_path}", "run=mine", *typed)
        with pytest.raises(UserError, match="has no embeddings of") as missing:
            evaluate(cfg, "trained_head", "prefix")
        assert told in missing.value.remedy
        _, script, *options = shlex.split(missing.value.remedy)
        check(composed(Path(script).stem, *options), "embed")


def test_an_installed_command_names_the_others_as_they_are_installed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/mrl-train", "epochs=1"])
    assert command_line("embed.py", {"run": "mrl_s0"}) == "mrl-embed run=mrl_s0"
