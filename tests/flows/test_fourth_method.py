"""docs/add-a-method.md, followed word for word on a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.interchange import import_latents
from tasks.models import open_models

ROOT = Path(__file__).parents[2]
MOST_LINES = 60


def _call(tree: Path, *words: str, status: int = 0) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},  # noqa: TID251
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def changes() -> str:
    text = (ROOT / "docs/add-a-method.md").read_text(encoding="utf-8")
    found = re.search(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_a_fourth_method_takes_under_sixty_lines_and_edits(tmp_path, models, changes):
    assert len(re.findall(r"^[+-](?![+-])", changes, re.MULTILINE)) < MOST_LINES
    tree = tmp_path / "tree"
    for package in ("flows", "tasks", "manifests", "styleclip_ops"):
        shutil.copytree(ROOT / package, tree / package)
    subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],  # noqa: S607
        cwd=tree,
        input=changes,
        text=True,
        check=True,
    )
    generator = open_models(models, "cpu").generator
    random = np.random.default_rng(0)
    latents = random.normal(size=(2, generator.num_ws, generator.config.w_dim))
    np.save(tmp_path / "faces.npy", latents.astype("float32"))
    direction = random.normal(size=generator.config.w_dim).astype("float32")
    np.save(tmp_path / "age.npy", direction)
    ws = str(tmp_path / "ws")
    import_latents(ws, str(tmp_path / "faces.npy"), models=models)
    options = json.dumps({"direction": str(tmp_path / "age.npy")}).replace('"', '""')
    rows = [f'faces-0000{i},young,linear,{alpha},"{options}"' for i in (0, 1) for alpha in (0, 2)]
    (tmp_path / "edits.csv").write_text(
        "\n".join(["image_id,target_prompt,method,alpha,options", *rows])
    )
    words = ["--no-server", "--json", "edit", ws, str(tmp_path / "edits.csv"), "--models", models]
    assert _call(tree, *words)["counts"] == {"ok": 4}
    assert _call(tree, *words, "--update")["counts"] == {}
    tune = ["tune", ws, str(tmp_path / "tuned.parquet"), "--prompts", str(tmp_path / "prompts.csv")]
    (tmp_path / "prompts.csv").write_text(f'target_prompt,method,options\nyoung,linear,"{options}"')
    tuned = _call(tree, *words[:2], *tune, "--models", models, status=1)
    assert "young" in json.dumps(tuned)
    header = "image_id,target_prompt,method,options"
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", direction)
    np.save(tmp_path / "words.npy", ["age"])
    wrong = ("gone.npy", "empty.npy", "several.npz", "words.npy")
    rows = ["faces-00000,young,linear,", f'faces-00001,young,linear,"{options}"']
    rows += [f'faces-00000,young,linear,"{options.replace("age.npy", name)}"' for name in wrong]
    (tmp_path / "some.csv").write_text("\n".join([header, *rows]))
    words[4] = str(tmp_path / "some.csv")
    counts = _call(tree, *words, "--run", "some")["counts"]
    assert counts == {"ok": 1, "failed": 5}
    pictures = {path.name: path.read_bytes() for path in Path(ws, "runs/run/images").rglob("*.png")}
    assert len(pictures) == len(set(pictures.values())) == 4
