"""A dry run: what it says of rows and shards, and that it leaves everything as it was."""

import io
import json
from pathlib import Path

import pytest
import torch

from flows import forecast
from flows.cli import app
from flows.edit import edit_dataset
from flows.interchange import import_latents
from tasks.directions import RelevanceConfig
from tasks.edits import edit_pairs_shard
from tasks.manifest_files import build_manifest, read_prompts
from tasks.report import run_report
from tasks.report.run_report import write_report
from tasks.runs import RunError, run_folder, run_ledger
from tasks.selection import Redo
from tasks.store.folders import Folder

RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")
PROMPTS = """target_prompt,method,alpha,num_channels,beta,options
a smiling face,global,1;2,20,,
a round face,global,1,,0.1,
a face with glasses,optimize,1,,,"{""steps"": 2}"
a face with red hair,mapper,1,,,"{""steps"": 2, ""mapper_type"": ""style_space""}"
"""
FACES, ASKED, SHARD = 4, 5, 8


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(forecast, "SAMPLE_SECONDS", 0.05)


@pytest.fixture
def prompts(tmp_path) -> str:
    path = tmp_path / "prompts.csv"
    path.write_text(PROMPTS)
    return str(path)


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_edits_are_estimated_from_what_is_done_and_nothing_is_written(tmp_path, models, prompts):
    root, manifest = str(tmp_path / "ws"), str(tmp_path / "edits.parquet")
    torch.save(torch.randn(FACES, 8, 28), tmp_path / "w.pt")
    import_latents(root, str(tmp_path / "w.pt"), models=models, device="cpu")
    names = [f"w-{index:05d}" for index in range(FACES)]
    build_manifest(names, read_prompts(prompts), manifest)
    options = {"models": models, "relevance": RELEVANCE, "device": "cpu", "shard_size": SHARD}

    def estimate(**more):
        before = files(tmp_path)
        told = edit_dataset(root, manifest, dry_run=True, price_per_hour=36.0, **options, **more)
        assert files(tmp_path) == before
        stages = {stage["stage"]: stage for stage in told.facts["stages"]}
        assert told.price == pytest.approx(0.01 * told.all_seconds)
        assert told.all_seconds == sum(stage["seconds"] for stage in stages.values())
        return told, stages

    told, stages = estimate()
    assert told.counts == {"rows": 20, "done": 0, "shards": 3}
    assert [*stages] == ["networks", "relevance", "mappers", "edit"]
    assert all(stages[name]["seconds"] > 0 for name in ("relevance", "mappers", "edit"))
    assert stages["edit"]["bytes"] > 20 * 1000
    edit_dataset(root, manifest, **options)
    # A log of two steps is as long as one of one.
    mappers = sum(path.stat().st_size for path in Path(root, "mappers").rglob("*.*"))
    assert stages["mappers"]["bytes"] == pytest.approx(mappers, rel=0.05)
    folder = run_folder(root, "run")
    with pytest.raises(RunError, match="image_format: got 'webp', begun with 'png'"):
        estimate(image_format="webp")
    build_manifest(names[:2], read_prompts(prompts), manifest)
    with pytest.raises(RunError, match="got another manifest than it was begun with: 10 rows"):
        estimate()
    assert estimate(update=True)[0].counts == {"rows": 10, "done": 10, "shards": 0}
    build_manifest(names, read_prompts(prompts), manifest)
    told, stages = estimate()
    assert told.counts == {"rows": 20, "done": 20, "shards": 0}
    assert (stages["relevance"]["seconds"], stages["mappers"]["seconds"]) == (0, 0)
    assert (stages["edit"]["seconds"], stages["edit"]["bytes"]) == (0, 0)
    # No channel of random directions passes the threshold: those rows may be done again.
    failed = [row["status"] for t in run_ledger(folder).results() for row in t.to_pylist()]
    assert estimate(retry_failed="no_channel")[0].counts["done"] == 20 - failed.count("no_channel")
    Path(folder.url, "_commits", "shard-00002.json").unlink()
    assert estimate()[0].counts == {"rows": 20, "done": 16, "shards": 1}
    assert edit_pairs_shard(folder.url, "cpu", 2) == {"ok": 4}


def test_a_run_is_estimated_before_there_is_a_workspace(
    capsys, tmp_path, models, prompts, monkeypatch
):
    from demo.portraits.scene import render_scenes, sample_scenes
    from demo.portraits.sheet import to_image

    (tmp_path / "photos").mkdir()
    scene = next(scene for scene in sample_scenes(20, 7) if len(scene.placements) == 1)
    sink = io.BytesIO()
    to_image(render_scenes([scene])[0]).save(sink, "JPEG", quality=92)
    for name in ("anna", "berta"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(sink.getvalue())
    (tmp_path / "photos" / "broken.jpg").write_bytes(sink.getvalue()[:500])
    words = ["run", str(tmp_path / "photos"), prompts, str(tmp_path / "ws"), "--models", models]
    words += ["--num-images", "1", "--num-statistics", "50", "--mode", "fast", "--device", "cpu"]
    before, reported, seen = files(tmp_path), [], []

    def report(url: str, **options):
        reported.extend(row for t in run_ledger(Folder(url)).results() for row in t.to_pylist())
        written = write_report(url, **options)
        seen.append(len(json.loads(Path(written.summary).read_text())["judgement"]["looks"]))
        return written

    monkeypatch.setattr(run_report, "write_report", report)
    assert app.meta(["--json", *words, "--dry-run", "--price-per-hour", "3.6"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert files(tmp_path) == before
    # The report is rehearsed with all pairs, each with a picture of its own.
    asked = {(row["image_id"], row["target_prompt"], row["alpha"]) for row in reported}
    pictures = [row["output_sha256"] for row in reported if row["status"] == "ok"]
    assert len(reported) == len(asked) == 2 * ASKED
    assert len({*pictures}) == len(pictures) > 0
    stages = {stage["stage"]: stage for stage in told["facts"]["stages"]}
    assert stages["align"]["units"] == 3
    assert stages["invert"]["units"] == 2
    assert told["counts"] == {"rows": 2 * ASKED, "done": 0, "shards": 1}
    assert all(stages[name]["seconds"] > 0 for name in ("align", "invert", "edit", "evaluate"))
    assert told["price"] == pytest.approx(told["all_seconds"] / 1000)
    # Directions that are there are another workspace's than the one that the sample is edited in.
    measured = [word for word in words[4:] if word != prompts]
    assert app.meta(["relevance", str(tmp_path / "ws"), *measured]) == 0
    capsys.readouterr()
    assert app.meta(["--json", *words, "--dry-run"]) == 0
    stages = {s["stage"]: s for s in json.loads(capsys.readouterr().out)["facts"]["stages"]}
    assert (stages["relevance"]["seconds"], stages["invert"]["units"]) == (0, 2)
    assert stages["evaluate"]["seconds"] > 0
    assert app.meta(words) == 0
    capsys.readouterr()
    report = tmp_path / "ws/runs/run/report"
    written = sum(path.stat().st_size for path in report.rglob("*") if path.is_file())
    assert stages["evaluate"]["bytes"] == pytest.approx(written, rel=0.25)
    assert app.meta(["--json", *words, "--dry-run"]) == 0
    stages = {s["stage"]: s for s in json.loads(capsys.readouterr().out)["facts"]["stages"]}
    assert stages["edit"]["seconds"] == 0
    assert stages["evaluate"]["seconds"] > 0
    # Networks look at edits again in a rehearsal, wherever the latents are.
    assert seen[0] == seen[-1] > 0
    assert app.meta([*words, "--dry-run", "--crop-size", "512"]) == 2
    assert "crop_size: got 512, expected 256 as for the faces" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_part_of_a_run_is_not_estimated(tmp_path):
    with pytest.raises(RunError, match="dry_run: got it with --only"):
        edit_dataset(str(tmp_path), "edits.csv", redo=Redo(only_prompt=("a hat",)), dry_run=True)
