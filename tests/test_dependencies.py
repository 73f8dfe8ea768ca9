"""What is installed: every package locked with its hashes, within pyproject's bounds, its licence listed."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = {path.stem: path for path in (ROOT / "requirements").glob("*.txt")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OWN = PROJECT["project"]["name"]


def listed(*extras: str) -> list[Requirement]:
    """Return the direct dependencies with those of these extras, and of the extras they name."""
    optional = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in optional[extra])]
    found = [Requirement(text) for text in texts]
    inner = [
        Requirement(text)
        for one in found
        if one.name == OWN
        for name in one.extras
        for text in optional[name]
    ]
    return [one for one in (*found, *inner) if one.name != OWN]


def locked(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Return version and hashes of each package of a lock."""
    text = LOCKS[name].read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found, seen = {}, set()
    for line in lines:
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        package = Requirement(requirement)
        (pin,) = package.specifier
        assert pin.operator == "==", line
        one = canonicalize_name(package.name), str(package.marker)  # Pythons may need different versions
        assert one not in seen, line
        seen.add(one)
        found[canonicalize_name(package.name)] = (Version(pin.version), hashes)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_lock_names_a_place(name):
    assert all(
        hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes)
        for _, hashes in locked(name).values()
    )
    text = LOCKS[name].read_text(encoding="utf-8")
    assert not re.findall(r"://| @ |--(?!hash=)|^-|(?<!\w)/", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "extras"),
    [("base", []), ("dev", ["dev"]), ("docs", ["docs"]), ("ffcv", ["dev", "ffcv"])],
    ids=["base", "dev", "docs", "ffcv"],
)
def test_every_direct_dependency_is_locked_within_its_bounds(name, extras):
    lock = locked(name)
    for requirement in listed(*extras):
        version, _ = lock[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement


def test_the_locks_agree_with_each_other_and_with_the_build_system():
    base, dev, ffcv, build = (locked(name) for name in ("base", "dev", "ffcv", "build"))
    assert base.items() <= dev.items() <= ffcv.items()
    assert all(ffcv[name] == build[name] for name in build if name in ffcv)
    for text in PROJECT["build-system"]["requires"]:
        assert build[Requirement(text).name][0] in Requirement(text).specifier


def test_every_dependency_is_listed_once_with_a_lower_bound():
    of_dev = {"engines", "export", "lancedb", "parquet", "serve"}
    found = listed(*PROJECT["project"]["optional-dependencies"].keys() - of_dev)
    assert [name for name, count in Counter(one.name for one in found).items() if count > 1] == []
    assert [str(one) for one in found if not any(part.operator == ">=" for part in one.specifier)] == []


def test_the_malicious_releases_of_lightning_are_excluded():
    (lightning,) = [one for one in listed() if one.name == "pytorch-lightning"]
    assert not any(lightning.specifier.contains(version) for version in ("2.6.2", "2.6.3"))
    assert {"!=2.6.2", "!=2.6.3"} <= {str(part) for part in lightning.specifier}


def test_the_makefile_installs_nothing_without_hashes_but_this_package():
    lines = [
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if re.search(r"\$\((INSTALL|HASHED)\)|pip install", line)
    ]
    installing = [line for line in lines if not line.startswith(("INSTALL ", "HASHED "))]
    assert len(installing) == 7
    known = ("$(HASHED) -r ", "--require-hashes -r requirements/", "--no-deps -e .", "$(if $(TORCH_INDEX)")
    assert all(any(part in line for part in known) for line in installing)
    assert "--require-hashes" in next(line for line in lines if line.startswith("HASHED "))
    assert "--no-build-isolation" in next(line for line in lines if line.startswith("INSTALL "))


def test_the_licence_of_every_direct_dependency_is_listed_with_its_text():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8").partition("Data and fonts")[0]
    rows = dict(re.findall(r"^\| ([\w-]+) \| .+? \| (.+) \|$", page, flags=re.MULTILINE))
    rows.pop("package")
    assert {*rows} == {one.name for one in listed("dev", "docs", "ffcv")} and [*rows] == sorted(rows)
    for name, text in rows.items():
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:  # FFCV may be missing
            continue
        inside = [str(path.relative_to(path.parts[0])) for path in files if ".dist-info" in path.parts[0]]
        for path in re.findall(r"`((?:licenses/)?[A-Z]+[\w.]*)`", text.partition("none in the package")[0]):
            assert path in inside, name
        assert ("none in the package" in text) == (
            not any("LICENSE" in path or "COPYING" in path for path in inside)
        )


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_without_cuda_all_else_is_installed_as_it_is_locked(tmp_path):
    make = ["make", "-s", "-C", str(ROOT), f"VENV={tmp_path}"]
    subprocess.run([*make, f"{tmp_path}/cpu/dev.txt"], check=True)
    before, after = (path.read_text().split("\n") for path in (LOCKS["dev"], tmp_path / "cpu/dev.txt"))
    assert [line for line in before if line in after] == after  # nothing is changed
    names = {re.split("[= ]", line)[0] for line in before} - {re.split("[= ]", line)[0] for line in after}
    names.discard("")
    assert {"torch", "torchvision", "triton"} < names
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in names)
    plan = subprocess.run(
        [*make, "-n", "setup", "TORCH=cpu"], capture_output=True, text=True, check=True
    ).stdout
    assert f"-r {tmp_path}/cpu/dev.txt" in plan and "+cpu" in plan
