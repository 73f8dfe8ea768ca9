"""The layers of ARCHITECTURE.md: every module imports downwards only."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mrl_experiments"
GROUND = {
    "adaptor_file",
    "errors",
    "files",
    "nesting",
    "heads",
    "embeddings",
    "examples",
    "results",
    "metric_names",
    "text_tables",
    "cost",
    "nested_accuracy",
    "locks",
    "limits",
    "names",
    "packages",
    "directions",
    "notices",
    "loops",
    "progress",
    "trained_heads",
    "deferred",
}
LIBRARY = {"models", "losses", "reductions", "metrics", "adaptive", "search", "evaluations"}
USED = {"search": {"adaptive", "metrics"}, "evaluations": {"adaptive", "metrics", "search"}}
PROGRAM = {
    "data",
    "training",
    "report",
    "vega",
    "line_chart",
    "result_files",
    "paper",
    "runs",
    "identity",
    "stored",
    "trust",
    "build",
    "construct",
    "checkpoint",
    "command",
    "sweeps",
    "temporary",
    "first_line",
    "embed",
    "generate",
    "loaded",
    "evaluate",
    "evaluation_jobs",
    "evaluation_tables",
    "next_commands",
    "export",
    "adaptor_export",
    "engines",
    "external",
    "looks",
    "reproduce",
    "gradcam",
    "options",
    "places",
    "serve",
}
SCRIPTS = {"cli"}  # what is typed; nothing imports it


def module_name(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("mrl_experiments.")}


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    own = module_name(path)
    if own in GROUND:
        allowed = GROUND
    elif own in LIBRARY:
        allowed = GROUND | {own} | USED.get(own, set())
    else:
        assert own in PROGRAM | SCRIPTS, f"{own} has no layer yet: add it to ARCHITECTURE.md and to this test"
        allowed = GROUND | LIBRARY | PROGRAM
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_program_layer_knows_hydra(path):
    if module_name(path) not in PROGRAM | SCRIPTS:
        assert not {"hydra", "omegaconf"} & {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
