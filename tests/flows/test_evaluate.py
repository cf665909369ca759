"""The command `evaluate` with other runs: what it prints, and what Prefect shows."""

import json

from prefect.client.orchestration import get_client

from flows.cli import app
from tasks.store.folders import Folder

from fake_run import SHORT, FakeRun


def test_other_runs_by_name_by_folder_and_in_another_workspace(capsys, tmp_path):
    here, there = Folder(str(tmp_path / "here")), Folder(str(tmp_path / "there"))
    mine = FakeRun(here, num_faces=3, plan=SHORT, better=0.2)
    others = [FakeRun(here, 3, plan=SHORT, name="summer"), FakeRun(there, 3, plan=SHORT)]
    for run in (mine, *others):
        run.write()
    assert (
        app.meta(["--json", "evaluate", mine.folder.url, "summer", there.url, "--run", "autumn"])
        == 0
    )
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["counts"] == {"ok": 9, "not ok": 0, "waiting": 0, "drifted": 2}
    assert all("better by" in sentence for sentence in told["facts"]["drift"])
    words = " ".join(err.split())
    assert "drift: global, 'a smiling face': directional edit better by 0.200" in words
    assert "against the run autumn in there" in words
    summary = json.loads((mine.folder / "report").read("summary.json"))
    assert [one["name"] for one in summary["comparisons"]] == ["summer", "autumn in there"]
    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact.data for artifact in client.read_latest_artifacts()}
    assert len(json.loads(artifacts["drift"])) == 4
    (verdict,) = json.loads(artifacts["verdicts"])
    assert verdict["prompt"] == "a smiling face"
    assert verdict["success"].endswith(")")


def test_runs_without_a_common_pair_are_told_apart(capsys, tmp_path):
    here = Folder(str(tmp_path))
    mine = FakeRun(here, num_faces=1, plan=SHORT)
    FakeRun(here, num_faces=1, plan=[(*SHORT[0][:2], (3.0,))], name="summer").write()
    mine.write()
    assert app.meta(["evaluate", mine.folder.url, "summer"]) == 0
    assert "no pair of summer is in this run: other alpha\n" in capsys.readouterr().err
    page = (mine.folder / "report").read("index.html").decode()
    assert "No pair is in both runs</b>: other alpha." in page


def test_a_workspace_and_the_name_of_a_run(capsys, tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=1, plan=SHORT)
    run.write()
    assert app.meta(["evaluate", str(tmp_path), "--run", "autumn"]) == 0
    assert "report/index.html" in capsys.readouterr().out
    assert app.meta(["evaluate", run.folder.url, "winter"]) == 2
    assert "holds no run.json" in " ".join(capsys.readouterr().err.split())
