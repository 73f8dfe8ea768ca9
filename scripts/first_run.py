"""One training and what it shows: python scripts/first_run.py [options of train.py]

Trains, embeds val, evaluates and writes the report, each by its own command, which is printed. Interrupted,
the same command goes on. Without the system packages of Kanji it takes the digits.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrl_experiments.command import USER_ERROR, as_user_error, prepare_streams, show_error
from mrl_experiments.data.kanji.dictionary import KANJIDIC
from mrl_experiments.options.typed import completed, quoted, renamed
from mrl_experiments.places import CONF
from mrl_experiments.results import read_rows
from mrl_experiments.runs import Run, run_of

HERE = Path(__file__).parents[1]
DIGITS = "experiment=digits"
# About how long each part takes, on a Xeon with bfloat16: of Kanji, of the digits.
MINUTES = {
    "train.py": (6.0, 0.5),
    "embed.py": (0.6, 0.2),
    "evaluate.py": (0.3, 0.1),
    "report.py": (0.4, 0.4),
}
WIDTH = 50  # characters of the longest bar


def main(options: list[str]) -> int:
    """Run the commands one after the other; return the exit status of the first that fails."""
    if not KANJIDIC.exists() and not any(option.startswith(("data=", "experiment=")) for option in options):
        print(f"The fonts of Kanji are not installed (make setup, with the rights to): {DIGITS} instead.")
        options = [*options, DIGITS]
    options = completed([quoted(renamed(option)) for option in options])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", options)
    run = run_of(cfg)
    stored = [f"run={run.name}", f"root={cfg.root}"]
    commands = [
        ["train.py", *options],
        ["embed.py", *stored, "splits=[val]"],
        ["evaluate.py", *stored, "evaluation=trained_head"],
        ["report.py", f"root={cfg.root}", f"out={cfg.root}/report"],
    ]
    show_plan(commands, cfg.data.name)
    for command in commands:
        print(f"\n$ python {shlex.join(command)}", flush=True)
        began = time.monotonic()
        script = str(HERE / command[0])
        status = subprocess.run([sys.executable, script, *command[1:]], check=False).returncode
        if status:
            return status
        print(f"{command[0]}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    show_accuracy(run, cfg.data.name)
    print(f"\nthe page: {cfg.root}/report/index.html")
    return 0


def show_plan(commands: list[list[str]], data: str) -> None:
    """Print what will be run, and about how long each part takes where that is known."""
    known = {"kanji1k": 0, "digits": 1}.get(data)
    table = Table("step", "command", "minutes", title="what will be run, with minutes on two cores")
    for number, command in enumerate(commands, 1):
        minutes = "" if known is None else f"{MINUTES[command[0]][known]:g}"
        table.add_row(str(number), escape(shlex.join(command)), minutes)
    Console().print(table)


def show_accuracy(run: Run, data: str) -> None:
    """Draw the top-1 of each dim that was trained as a bar."""
    rows = read_rows(run.results("linear", data, "prefix"))
    top1 = {row.dim: row.value for row in rows if row.metric == "top1" and row.trained and row.split == "val"}
    print(f"\n{run.name}: top-1 on val by the number of dims that are read")
    for dim, value in sorted(top1.items()):
        print(f"{dim:>6}  {'█' * round(WIDTH * value):<{WIDTH}}  {value:6.1%}  {4 * dim:>6,} bytes")


if __name__ == "__main__":
    prepare_streams()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        show_error(as_user_error(error))
        sys.exit(USER_ERROR)
