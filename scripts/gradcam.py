"""Where a CNN looks at 8, 16, 32 and all dims: python scripts/gradcam.py mrl_resnet10t_kanji1k_s0

Writes Grad-CAM as PNG and SVG to <run>/figures: a row for each image, a column for each size, with the class
that this size predicts (Figure 9). Without --images it takes some that few dims get wrong and all dims right.
"""

import argparse
import sys
from pathlib import Path

from mrl_experiments.command import USER_ERROR, as_user_error, prepare_streams, show_error
from mrl_experiments.gradcam.figure import gradcam_figure
from mrl_experiments.runs import check_none_left_out, find_runs, readable


def numbers(text: str) -> list[int]:
    """Read numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def main() -> int:
    """Read the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="name or glob of finished runs under <root>/runs")
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--dims", type=numbers, help="8,16,32 (default: the three smallest and the full width)"
    )
    parser.add_argument("--images", type=numbers, help="numbers of images in the split (default: chosen)")
    parser.add_argument("--count", type=int, default=6, help="images to choose (default: 6)")
    parser.add_argument(
        "--layer", help="module of the timm model (default: the last stage of 4 x 4 cells or more)"
    )
    parser.add_argument("--root", type=Path, default=Path("outputs"), help="where runs are")
    parser.add_argument(
        "--cache", help="where data is prepared (default: MRL_DATA, or ~/.cache/mrl-experiments)"
    )
    parser.add_argument(
        "--trust", nargs="*", default=False, metavar="CLASS",
        help="classes of your own that config.yaml may build; none named: all of them (it can run code)",
    )  # fmt: skip
    prepare_streams()
    options = vars(parser.parse_args())
    options["trust"] = options["trust"] if options["trust"] != [] else True
    try:
        left_out: list[str] = []
        runs = find_runs(options.pop("root"), options.pop("run"))
        for _, paths in readable(runs, lambda run: gradcam_figure(run, **options), left_out):
            print(*paths, sep="\n")
        check_none_left_out(left_out)
    except Exception as error:
        show_error(as_user_error(error))
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
