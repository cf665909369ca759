"""Edits of images whose latents are lost: rows with a status, and no end of the shard."""

from pathlib import Path

import numpy as np
import zarr

from tasks.edits import edit_pairs_shard
from tasks.runs import run_ledger, shards_to_do


def latents(ws) -> zarr.Group:
    (path,) = Path(ws.root).glob("latents/*/*.zarr")
    return zarr.open_group(path, mode="r+")


def test_a_latent_that_is_lost_fails_its_own_rows(finished):
    group = latents(finished)
    kept = group["w_plus"][1], group["source_identity"][2]
    group["w_plus"][1, 3, 5] = np.nan
    group["source_identity"][2, 0] = np.inf
    finished.edit("lost")
    rows = finished.results("lost").to_pylist()
    told = {row["image_id"]: row["error"] for row in rows if row["status"] == "failed"}
    assert [row["status"] for row in rows].count("ok") == 8
    assert told.keys() == {"anna.face1", "berta"}
    assert "row 1 of" in told["anna.face1"]
    assert "got NaN or infinity in w_plus, expected numbers" in told["anna.face1"]
    assert "got NaN or infinity in source_identity" in told["berta"]
    assert "remove the commit of shard 0" in told["berta"]
    assert "--retry-failed" in told["berta"]

    group["w_plus"][1], group["source_identity"][2] = kept
    run = finished.run("lost")
    for shard in shards_to_do(run, ["failed"]):
        edit_pairs_shard(run.url, "cpu", shard, ["failed"])
    again = {row["pair_id"]: row["output_sha256"] for row in finished.results("lost").to_pylist()}
    assert set(finished.results("lost")["status"].to_pylist()) == {"ok"}
    kept_rows = {r["pair_id"]: r["output_sha256"] for r in rows if r["status"] == "ok"}
    assert again | kept_rows == again


def test_a_missing_chunk_fails_the_rows_that_were_in_it(finished):
    (chunk,) = [
        p for p in Path(finished.root).glob("latents/*/*.zarr/w_plus/c/**/*") if p.is_file()
    ]
    chunk.unlink()
    finished.edit("lost")
    rows = finished.results("lost").to_pylist()
    assert len(rows) == 16
    assert all("got NaN or infinity in w_plus" in row["error"] for row in rows)
    assert run_ledger(finished.run("lost")).pending() == []
