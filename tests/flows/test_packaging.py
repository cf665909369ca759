"""What `pip install .` takes along: every file that is no module and that a command opens."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


@pytest.mark.parametrize("package", SETUP["packages"])
def test_a_package_takes_its_files_along(package):
    folder = ROOT / package.replace(".", "/")
    inner = {ROOT / name.replace(".", "/") for name in SETUP["packages"]} - {folder}
    known = {
        path for pattern in SETUP["package-data"].get(package, ()) for path in folder.glob(pattern)
    }
    # The trainings of the demo models are for those who have the repository.
    left = {folder / "train", folder / "__pycache__", *inner}
    files = {
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {path for path in files - known if not left & {*path.parents}} == set()


def test_every_package_is_named():
    importing = ("flows", "tasks", "manifests", "styleclip_ops", "demo")
    found = {path.parent for name in importing for path in (ROOT / name).rglob("__init__.py")}
    named = {ROOT / name.replace(".", "/") for name in SETUP["packages"]}
    assert found - named == {ROOT / "demo/train"}
