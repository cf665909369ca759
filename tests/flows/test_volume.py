"""Some hundred rows in several shards: exactly one row out for each row in."""

import json

import pyarrow as pa
import torch

from flows.edit import edit_dataset
from flows.interchange import import_latents
from manifests.building import instructions
from tasks.directions import RelevanceConfig
from tasks.manifest_files import build_manifest
from tasks.runs import run_folder, run_ledger

IMAGES, PROMPTS = 30, 10


def test_rows_out_are_rows_in(tmp_path, models):
    root, manifest = str(tmp_path / "ws"), str(tmp_path / "edits.parquet")
    torch.save(torch.randn(IMAGES, 8, 28), tmp_path / "w.pt")
    import_latents(root, str(tmp_path / "w.pt"), models=models, device="cpu", batch_size=64)
    targets = [f"a face number {i}" for i in range(PROMPTS - 2)]
    prompts = instructions(targets, [2.0], num_channels=20)
    prompts += instructions(
        ["an old face"], [1.0], method="optimize", options=json.dumps({"steps": 1})
    )
    # The last prompt has no channel at this threshold.
    prompts += instructions(["a tall face"], [2.0], beta=0.999)
    names = [f"w-{i:05d}" for i in range(IMAGES - 1)] + ["stranger"]
    rows = build_manifest(names, prompts, manifest)
    assert rows == IMAGES * PROMPTS
    edit_dataset(
        root,
        manifest,
        models=models,
        relevance=RelevanceConfig(num_images=1, num_statistics=50, mode="fast"),
        device="cpu",
        batch_size=64,
        shard_size=45,
    )
    table = pa.concat_tables(run_ledger(run_folder(root, "run")).results())
    assert len(table) == len(set(table["pair_id"].to_pylist())) == rows
    statuses = table["status"].to_pylist()
    assert statuses.count("no_latent") == PROMPTS
    assert statuses.count("no_channel") == IMAGES - 1
    assert statuses.count("ok") == rows - PROMPTS - (IMAGES - 1)
