"""The whole job on a device beside the processor: nothing mixes the two, and the results agree."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.evaluate import evaluate_run
from flows.pipeline import run_pipeline
from flows.tune import tune_strengths
from flows.verify import verify_run
from styleclip_ops.strength import StrengthTarget
from tasks.checks.doctor import diagnose
from tasks.directions import RelevanceConfig
from tasks.runs import run_folder, run_ledger

PHOTO = Path(__file__).parents[2] / "demo" / "photos" / "grace_hopper.jpg"
RELEVANCE = RelevanceConfig(num_images=2, num_statistics=50, mode="fast")
PROMPTS = """target_prompt,method,alpha,num_channels,options
a smiling face,global,1;2,20,
a face with glasses,optimize,1,,"{""steps"": 3}"
an old face,optimize,1,,"{""steps"": 3, ""space"": ""style"", ""start"": ""samples""}"
a face with red hair,mapper,1,,"{""steps"": 2, ""mapper_type"": ""style_space""}"
a face with a hat,mapper,1,,"{""steps"": 2}"
"""


def edit_all(place: Path, models: str, device: str) -> pa.Table:
    (place / "photos").mkdir(parents=True)
    shutil.copy(PHOTO, place / "photos")
    prompts, root = place / "prompts.csv", str(place)
    prompts.write_text(PROMPTS)
    given = {"models": models, "relevance": RELEVANCE, "device": device}
    summary = run_pipeline(str(place / "photos"), str(prompts), root, **given)
    assert summary.counts == {"ok": 6}
    return pa.concat_tables(run_ledger(run_folder(root, "run")).results()).sort_by("pair_id")


def test_the_job_gives_there_what_it_gives_here(tmp_path, models, device):
    here = edit_all(tmp_path / "here", models, "cpu")
    there = edit_all(tmp_path / "there", models, device)
    for metric in ("clip_cosine", "directional_edit", "image_edit", "identity_edit"):
        expected = here[metric].to_numpy()
        # Kernels are chosen by device, and optimization carries their roundings on.
        np.testing.assert_allclose(there[metric].to_numpy(), expected, atol=0.02)

    root = str(tmp_path / "there")
    assert verify_run(root, device=device).counts["wrong"] == 0
    found = [*diagnose(root, models, device=device, channels=20, images=2)]
    assert {finding.verdict for finding in found} == {"sound"}
    assert evaluate_run(root, models=models, device=device).counts["ok"] == 6
    tuned = tune_strengths(
        root,
        f"{root}/tuned.parquet",
        prompts=f"{root}/prompts.csv",
        goal=StrengthTarget(directional=-1, identity=-1, gain=-2),
        alpha=[0.5, 1.5],
        num_channels=[5, 40],
        bisections=1,
        sample=1,
        relevance=RELEVANCE,
        models=models,
        device=device,
    )
    assert tuned.counts == {"reached": 5}
