"""Tuned strengths: a manifest that is sound, and whose edits score as was said."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.cli import app
from flows.edit import edit_dataset
from flows.interchange import import_latents
from flows.tune import tune_strengths
from manifests.errors import EditError
from styleclip_ops.errors import ConfigError
from styleclip_ops.strength import StrengthTarget
from tasks.directions import RelevanceConfig
from tasks.manifest_files import check_manifest
from tasks.runs import run_folder, run_ledger
from tasks.store.folders import read_url
from tasks.tuning import TuningError

RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")
EASY = StrengthTarget(directional=-1, identity=-1, gain=-2)
PROMPTS = """target_prompt,method,alpha,num_channels,options
a smiling <b>face</b>,global,1;2,20,
a face with glasses,optimize,1,,"{""steps"": 2}"
a face with red hair,mapper,1,,"{""steps"": 2, ""mapper_type"": ""style_space""}"
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, models) -> str:
    """Six random latents."""
    place = tmp_path_factory.mktemp("tuned")
    latents = torch.randn(6, 8, 28, generator=torch.Generator().manual_seed(2))
    torch.save(latents, place / "face.pt")
    (place / "prompts.csv").write_text(PROMPTS)
    import_latents(str(place), str(place / "face.pt"), models=models, device="cpu")
    return str(place)


def tune(workspace: str, models: str, **options):
    given = {"sample": 3, "relevance": RELEVANCE, "device": "cpu", "models": models} | options
    given = {"bisections": 2} | given
    return tune_strengths(workspace, f"{workspace}/tuned.parquet", **given)


def test_edits_of_the_tuned_manifest_score_as_the_tuning_said(workspace, models):
    summary = tune(
        workspace,
        models,
        prompts=f"{workspace}/prompts.csv",
        goal=EASY,
        alpha=[0.5, 1.5],
        num_channels=[5, 40],
    )
    assert (summary.counts, summary.facts["rows"]) == ({"reached": 3}, 18)
    manifest = f"{workspace}/tuned.parquet"
    assert [checked.errors for checked in check_manifest(manifest, "")] == [[]]
    options = {"relevance": RELEVANCE, "device": "cpu", "models": models, "shard_size": 9}
    edit_dataset(workspace, manifest, run="tuned", **options)
    rows = pa.concat_tables(run_ledger(run_folder(workspace, "tuned")).results()).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 18
    for said in summary.facts["prompts"]:
        assert (said["reached"], said["alpha"]) == (True, 0.5)
        own = [row for row in rows if row["target_prompt"] == said["target_prompt"]]
        assert {row["num_channels"] for row in own} == {said["num_channels"]}
        # Sample and check are all six images.
        for name in ("directional", "identity"):
            halves = [said[part][name]["mean"] for part in ("scores", "check")]
            mean = sum(row[f"{name}_edit"] or 0.0 for row in own) / 6
            assert sum(halves) / 2 == pytest.approx(mean, abs=1e-5)
    page = read_url(summary.facts["page"]).decode()
    assert "a smiling &lt;b&gt;face&lt;/b&gt;" in page
    assert page.count("data:image/svg+xml;base64,") == 3
    # Three faces of the sample, before and after.
    assert page.count("data:image/webp;base64,") == 18
    assert "<script" not in page


def test_a_target_that_nothing_reaches_gets_no_rows_unless_asked_for(workspace, models, capfd):
    hard = StrengthTarget(directional=1, identity=-1, gain=-2)
    asked = {"target": ["a sad face"], "goal": hard, "alpha": [1.0, 2.0], "num_channels": [5]}
    summary = tune(workspace, models, image=["face-0000[0-3]"], **asked)
    assert (summary.counts, summary.facts["rows"], summary.failed) == ({"not reached": 1}, 0, True)
    assert summary.wrote.endswith("/tuned.html")
    (said,) = summary.facts["prompts"]
    assert "expected at least 1" in said["limit"]
    assert "not reached, no rows are written; alpha" in capfd.readouterr().err
    summary = tune(workspace, models, image=["face-0000[0-3]"], best_effort=True, **asked)
    assert (summary.counts, summary.facts["rows"]) == ({"not reached": 1}, 4)
    assert "not reached, rows with it are written" in capfd.readouterr().err
    table = pq.read_table(f"{workspace}/tuned.parquet")
    assert set(table["image_id"].to_pylist()) == {f"face-{n:05d}" for n in range(4)}
    assert set(table["alpha"].to_pylist()) == {said["alpha"]}


def test_a_budget_that_cannot_be_tried_says_why_and_the_others_go_on(
    workspace, models, monkeypatch
):
    # The last of the usual budgets is more than this generator has.
    monkeypatch.setattr("tasks.tuning.BUDGETS", (5, 99_999))
    summary = tune(workspace, models, target=["old"], goal=EASY, alpha=[1.0])
    (said,) = summary.facts["prompts"]
    assert (said["reached"], said["num_channels"]) == (True, 5)
    assert "num_channels: got 99999" in said["budgets"][1]["limit"]


def test_bad_input_is_refused_before_any_work(workspace, models, capsys, monkeypatch):
    monkeypatch.setattr("flows.tune.make_assets", lambda *_: pytest.fail("made assets"))
    with pytest.raises(ValueError, match="expected one of --prompts TABLE and --target"):
        tune(workspace, models)
    with pytest.raises(ValueError, match=r"num_channels: got \[5\], expected none"):
        tune(workspace, models, target=["old"], method="mapper", num_channels=[5])
    with pytest.raises(EditError, match="'very very .* expected at most 77 tokens of CLIP, not 93"):
        tune(workspace, models, target=["very " * 90 + "old", "old"], goal=EASY)
    (Path(workspace) / "prompts.csv").write_text("target_prompt\nold\n")
    with pytest.raises(ValueError, match=r"prompts\.csv and neutral_prompt, method beside it"):
        tune(
            workspace,
            models,
            prompts=f"{workspace}/prompts.csv",
            neutral="a man",
            method="mapper",
        )
    with pytest.raises(ConfigError, match="alpha: got -1"):
        tune(workspace, models, target=["old"], alpha=[-1.0])
    with pytest.raises(TuningError, match="images: got 0 with a latent in .* named bob"):
        tune(workspace, models, target=["old"], image=["bob"])
    with pytest.raises(EditError, match="num_channels: got 5000, expected at most"):
        tune(workspace, models, target=["old"], num_channels=[5, 5000])
    words = ["--json", "tune", workspace, f"{workspace}/t.parquet", "--target", "x"]
    for option, least in (("--sample", 1), ("--sample-seed", 0)):
        with pytest.raises(SystemExit):
            app.meta([*words, option, str(least - 1)])
        assert f"Must be >= {least}" in " ".join(capsys.readouterr().err.split())
    assert app.meta([*words, "--identity", "1.5", "--models", models]) == 2
    assert "identity: got 1.5, expected -1 to 1" in " ".join(capsys.readouterr().err.split())


def test_json_holds_the_whole_frontier(workspace, models, capsys):
    words = ["--json", "tune", workspace, f"{workspace}/t.parquet", "--target", "a sad face"]
    words += ["--directional", "-1", "--gain", "-2", "--identity", "-1", "--num-channels", "5"]
    words += ["--alpha", "1", "--alpha", "2", "--num-images", "1", "--num-statistics", "50"]
    words += ["--mode", "fast", "--models", models, "--device", "cpu", "--sample", "1"]
    assert app.meta(words) == 0
    out = capsys.readouterr().out
    # Nor has one image an interval.
    assert "NaN" not in out
    (said,) = json.loads(out)["facts"]["prompts"]
    points = said["budgets"][0]["points"]
    assert [point["alpha"] for point in points] == [1.0, 2.0]
    assert [(point["gain"]["low"], point["gain"]["high"]) for point in points] == [(None, None)] * 2
