"""Parts of a run are done again by prompt, image, status or date, and nothing else is touched."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
import torch

from flows.edit import edit_dataset
from flows.interchange import import_latents
from flows.summary import Summary
from tasks.directions import RelevanceConfig
from tasks.outputs import read_image
from tasks.runs import RunError, run_folder, run_ledger
from tasks.selection import Redo, commit_dates
from tasks.store.folders import sha256

RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")
IMAGES = ("face-00000", "face-00001", "nobody")
PROMPTS = ("a sad face", "an old face")


@pytest.fixture
def workspace(tmp_path, models) -> str:
    """Two latents, and a run of two prompts for them and for one who is not there."""
    torch.save(torch.randn(2, 8, 28), tmp_path / "face.pt")
    root = str(tmp_path / "ws")
    import_latents(root, str(tmp_path / "face.pt"), models=models, device="cpu")
    write_manifest(tmp_path, *IMAGES)
    return root


def write_manifest(folder, *images: str) -> None:
    lines = [f"{image},{prompt},10" for prompt in PROMPTS for image in images]
    header = "image_id,target_prompt,num_channels"
    (folder / "edits.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture
def summarize(workspace, models):
    def call(**options) -> Summary:
        named = {name: options.pop(name) for name in options.keys() & Redo.__dataclass_fields__}
        given = {"relevance": RELEVANCE, "device": "cpu", "models": models, "shard_size": 3}
        given["redo"] = Redo(**named)
        return edit_dataset(workspace, f"{workspace}/../edits.csv", **given | options)

    return call


@pytest.fixture
def edit(summarize):
    return lambda **options: dict(summarize(**options).counts)


@pytest.fixture
def rows(workspace):
    def read() -> dict[tuple[str, str], dict]:
        table = pa.concat_tables(run_ledger(run_folder(workspace, "run")).results())
        return {(r["image_id"], r["target_prompt"]): r for r in table.to_pylist()}

    return read


def changed(before: dict, after: dict) -> set[tuple[str, str]]:
    # Seconds differ whenever a row is made again.
    return {key for key in before if before[key] != after[key]}


def test_parts_of_a_run_are_done_again_and_the_rest_stays(edit, rows):
    assert edit() == {"ok": 4, "no_latent": 2}
    first = rows()
    assert edit(only_prompt=["an * face"]) == {"ok": 2, "no_latent": 1}
    second = rows()
    assert changed(first, second) == {(name, "an old face") for name in IMAGES[:2]}
    assert edit(only_image=["face-00000"], only_prompt=["a sad face"]) == {"ok": 1}
    third = rows()
    assert changed(second, third) == {("face-00000", "a sad face")}
    assert edit(only_status="no_latent") == {"no_latent": 2}
    assert edit(only_image=["face-*"], retry_failed="all") == {}
    for key, row in rows().items():
        assert row["output_sha256"] == first[key]["output_sha256"]
        if row["status"] == "ok":
            assert sha256(read_image(row["output_uri"])) == row["output_sha256"]


def test_results_are_done_again_by_date_until_none_is_older(workspace, edit, rows):
    edit()
    between = datetime.now(UTC)
    assert edit(only_prompt=["a sad face"]) == {"ok": 2, "no_latent": 1}
    dates = commit_dates(run_ledger(run_folder(workspace, "run")), 0)
    assert all(date > between for date in dates.values())
    first = rows()
    # Those of the other prompt are older; then none is, so that the same command ends.
    assert edit(before=between.isoformat()) == {"ok": 2, "no_latent": 1}
    assert changed(first, rows()) == {(name, "an old face") for name in IMAGES[:2]}
    assert edit(before=between.isoformat()) == {}
    assert edit(since=between.isoformat(), only_image=["face-00001"]) == {"ok": 2}
    assert edit(since="2999-01-01") == {}


def test_rows_keep_their_date_when_others_of_their_shard_are_done_again(workspace, edit):
    edit()
    ledger = run_ledger(run_folder(workspace, "run"))
    before = commit_dates(ledger, 0)
    edit(only_image=["face-00001"])
    after = commit_dates(ledger, 0)
    same = [key for key in before if before[key] == after[key]]
    assert (len(before), len(same), ledger.read_commit(0).generation) == (3, 2, 1)


def test_what_was_never_done_is_done_only_as_a_whole(tmp_path, edit, summarize):
    edit()
    write_manifest(tmp_path, *IMAGES, "stranger")
    told = summarize(update=True, only_image=["face-00000"])
    assert dict(told.counts) == {"ok": 2}
    assert "2 rows never done: give this command without --only-..." in told.line
    assert edit(only_image=["stranger"]) == {"no_latent": 2}
    assert edit() == {}


def test_a_selection_of_a_new_run_does_not_say_that_all_is_done(summarize, edit):
    told = summarize(only_prompt=["an * face"], shard_size=64)
    assert dict(told.counts) == {}
    assert told.line.startswith("edit: nothing done in ")
    assert "6 rows never done: give this command without --only-..." in told.line
    assert "all in /" not in told.line
    assert edit(shard_size=64) == {"ok": 4, "no_latent": 2}
    assert "nothing left to do" in summarize(since="2999-01-01", shard_size=64).line


REFUSED = {
    "only_prompt: got 'a sad fase', which no row of .* has": {"only_prompt": ["a sad fase"]},
    "only_image: got 'anna', which no row": {"only_image": ["anna", "face-*"]},
    "only_status: got lost, expected some of ok, no_latent": {"only_status": "lost"},
    "since: got 'yesterday', expected a date as 2026-11-25": {"since": "yesterday"},
}


def test_a_selection_that_names_nothing_is_refused(edit):
    edit()
    for message, options in REFUSED.items():
        with pytest.raises(RunError, match=message):
            edit(**options)
