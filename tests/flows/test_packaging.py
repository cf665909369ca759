"""What `pip install .` takes along: every package of the product, and all files in it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# For those who have the repository.
NOT_INSTALLED = {"tests", "benchmarks"}


def test_every_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert {*wheel["packages"]} == packages - NOT_INSTALLED
    # The trainings of the demo models.
    assert wheel["exclude"] == ["demo/train"]
