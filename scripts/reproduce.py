"""The paper's core on Kanji, from nothing to the report: python scripts/reproduce.py [profile]

Reads a profile (src/mrl_experiments/reproduce/profiles/), prints the plan, then trains, embeds and evaluates
run after run, several side by side with one thread each. What is finished is skipped: interrupted, the same
command goes on.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from hydra import initialize_config_dir
from rich.console import Console

from mrl_experiments.command import USER_ERROR, as_user_error, prepare_streams, show_error
from mrl_experiments.errors import UserError
from mrl_experiments.places import CONF
from mrl_experiments.reproduce.execution import Reproduction
from mrl_experiments.reproduce.plan import PROFILES, chains, read_profile
from mrl_experiments.reproduce.publication import publish


def profile_path(name: str) -> Path:
    """Find a profile by name or path. Raises UserError that lists the ones there are."""
    path = Path(name) if name.endswith(".yaml") else PROFILES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise UserError(f"no profile {name}", expected=f"{known}, or a yaml file like those in {PROFILES}")
    return path


def reproduce(arguments: argparse.Namespace) -> int:
    """Carry out a profile; return the exit status."""
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}", expected="a whole number from 1", remedy="leave it out")
    path = profile_path(arguments.profile)
    profile, root = read_profile(path), arguments.root
    on_gpu = torch.cuda.is_available()
    plan = chains(profile, root, trainer="gpu" if on_gpu else "cpu")
    jobs = arguments.jobs or (1 if on_gpu else os.cpu_count() or 1)
    work = root / "reproduce" / path.stem
    reproduction = Reproduction(plan, profile.minutes, jobs, work / "logs")
    reproduction.describe(Console(width=110))
    if arguments.plan:
        return 0
    failed = [] if arguments.collect else reproduction.run()
    for problem in failed:
        print(f"failed: {problem}", file=sys.stderr)
    out = arguments.out or work
    for warning in publish(plan, root, out, f"make reproduce PROFILE={arguments.profile}"):
        print(f"note: {warning}", file=sys.stderr)
    print(f"page: {root / 'report' / 'index.html'}   rows, tables, figures: {out}")
    return 1 if failed else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", nargs="?", default="full", help="full, medium, ..., or a yaml file")
    parser.add_argument("--plan", action="store_true", help="print the plan only")
    parser.add_argument("--collect", action="store_true", help="run nothing, only gather the rows there are")
    parser.add_argument("--jobs", type=int, help="runs side by side (default: one a core; one on a GPU)")
    parser.add_argument("--root", type=Path, default=Path("outputs"), help="where runs and the page go")
    parser.add_argument(
        "--out", type=Path, help="where rows, tables and figures go: results/<name> to commit them"
    )
    prepare_streams()
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return reproduce(arguments)
    except KeyboardInterrupt:
        print("stopped: what was running has saved; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        show_error(as_user_error(error))
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
