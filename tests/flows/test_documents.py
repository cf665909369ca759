"""What the documents say: commands exist, examples run, messages and links are there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App

from flows.cli import _with_statuses, app
from flows.edit import edit_dataset
from flows.evaluate import evaluate_run
from flows.help_examples import EXAMPLES
from flows.interchange import import_latents
from flows.manifest_commands import build_edit_manifest
from tasks.models import open_models

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_COMMAND = re.compile(r"^ {4,}(styleclip .*)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_MESSAGE = re.compile(r"^\*\*`(.+?)`\*\*", re.MULTILINE)
_FILE = re.compile(r"`((?:tests|flows|tasks|manifests|styleclip_ops|benchmarks|demo)/[\w/]+\.\w+)`")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands() -> list[str]:
    shown = [line for lines in EXAMPLES.values() for line in lines]
    return shown + [line for path in DOCUMENTS for line in _COMMAND.findall(text_of(path))]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_that_is_shown_is_one(line):
    words = [*_with_statuses(shlex.split(line, comments=True)[1:])]
    chosen = app.meta if words[:1] == ["--json"] else app
    chosen.parse_args(words, exit_on_error=False, print_error=False)


def names_of(commands: App, prefix: str = "") -> set[str]:
    names = {name for name in commands if not name.startswith("-")}
    inner = {name: names_of(commands[name], f"{prefix}{name} ") for name in names}
    return {prefix + name for name in names if not inner[name]}.union(*inner.values())


def test_every_command_shows_examples():
    assert names_of(app) == {*EXAMPLES} - {""}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(path):
    links = {link: path.parent / link for link in _LINK.findall(text_of(path))}
    files = {name: ROOT / name for name in _FILE.findall(text_of(path))}
    assert [name for name, target in {**links, **files}.items() if not target.exists()] == []


def test_messages_that_troubleshooting_explains_are_ours():
    folders = ("flows", "tasks", "manifests", "styleclip_ops")
    code = " ".join(text_of(path) for name in folders for path in (ROOT / name).rglob("*.py"))
    # Literals that lines divide are one message.
    code = re.sub(r'"\s+f?"', "", code)
    messages = _MESSAGE.findall(text_of(ROOT / "docs/troubleshooting.md"))
    assert messages
    for message in messages:
        pieces = [p for p in re.split(r"\.\.\.|\[.*?\]|'\w+'|\d+", message) if len(p) > 8]
        assert [p for p in pieces if p.strip(" ;,") not in code] == [], message


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, models):
    """A workspace `ws` with a run `smiles`, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("documents")
    generator = open_models(models, "cpu").generator
    latents = np.random.default_rng(0).normal(size=(2, generator.num_ws, generator.config.w_dim))
    np.save(folder / "latents.npy", latents.astype("float32"))
    ws, edits = str(folder / "ws"), str(folder / "edits.parquet")
    import_latents(ws, str(folder / "latents.npy"), models=models)
    build_edit_manifest(ws, edits, target=["a smiling face"], method="optimize", alpha=[1.0])
    edit_dataset(ws, edits, run="smiles", models=models)
    evaluate_run(ws, run="smiles")
    return folder


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("example", _EXAMPLE.findall(text_of(ROOT / "docs/formats.md")))
def test_examples_of_reading_what_is_stored_run(example, workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    exec(compile(example, "docs/formats.md", "exec"), {})  # noqa: S102
    assert "import" in example
