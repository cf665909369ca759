"""A second look at saved pictures: against a plain recomputation, and with other judges."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.endurance.small_bundle import write_small_bundle
from styleclip_ops.lpips import Lpips
from tasks.models import read_models
from tasks.report.evaluation import Estimate, evaluate_rows
from tasks.report.judgement import Judgement, Look, judge_pairs
from tasks.report.rows import collect_rows
from tasks.report.scoring import Criteria
from tasks.run_tables import read_run
from tasks.store.folders import Folder

from fake_run import FakeRun

CRITERIA = Criteria(resamples=20)
PLAN = [("a smiling face", "global", (4.0,)), ("a face with red hair", "mapper", (1.0,))]
FACES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FakeRun:
    run = FakeRun(Folder(str(tmp_path_factory.mktemp("workspace"))), FACES, plan=PLAN)
    run.write()
    return run


def judged(run: FakeRun, models: str, tmp_path: Path) -> Judgement:
    tables = read_run(run.folder.url)
    rows = collect_rows(tables.ledger.results(), CRITERIA, tmp_path / "rows.parquet")
    evaluation = evaluate_rows(rows, {}, CRITERIA)
    return judge_pairs(rows, evaluation, tables.places, models, "cpu")


def embedded(clip, *contents: bytes) -> np.ndarray:
    found = []
    for content in contents:
        levels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
        image = torch.from_numpy(levels).permute(2, 0, 1)[None] / 127.5 - 1
        found.append(clip.embed_images(image)[0].double().numpy())
    return np.stack(found)


def test_entanglement_is_that_of_a_plain_recomputation(run, models, tmp_path):
    judgement = judged(run, models, tmp_path)
    clip = read_models(models, "cpu").clip
    assert [*judgement.prompts] == [prompt for prompt, *_ in PLAN]
    with torch.no_grad():
        texts = clip.embed_texts(["a face", *judgement.prompts]).double().numpy()
        for place, (prompt, method, _) in enumerate(PLAN):
            cosines = []
            for number in range(FACES):
                count = len(PLAN) * number + place + 1
                after, before = embedded(
                    clip,
                    run.folder.read(f"images/face-{number}/{count}.png"),
                    run.workspace.read(f"inversions/feed/face-{number}.png"),
                )
                change = after - before
                ways = texts[1:] - texts[0]
                lengths = np.linalg.norm(ways, axis=1) * np.linalg.norm(change)
                cosines.append(ways @ change / lengths)
            look = judgement.find(method, prompt)
            assert look is not None
            assert look.pairs == FACES
            means = [look.towards[name].mean for name in judgement.prompts]
            assert means == pytest.approx(np.mean(cosines, axis=0), abs=1e-5)
            assert look.directional.mean == pytest.approx(means[place], abs=1e-6)
            assert look.rose.low < look.rose.high


@pytest.mark.parametrize(
    ("own", "other", "elsewhere"),
    [
        (Estimate(9, 9, 0.30, 0.2, 0.4), Estimate(9, 9, 0.46, 0.4, 0.5), "glasses"),
        (Estimate(9, 9, 0.30, 0.2, 0.4), Estimate(9, 9, 0.46, 0.2, 0.7), ""),
        (Estimate(9, 9, 0.50, 0.4, 0.6), Estimate(9, 9, 0.46, 0.4, 0.5), ""),
        (Estimate(1, 1, 0.30), Estimate(1, 1, 0.46), ""),
        # Noise, where nothing goes anywhere.
        (Estimate(9, 9, -0.09, -0.1, -0.08), Estimate(9, 9, 0.09, 0.08, 0.1), ""),
        (Estimate(), Estimate(), ""),
    ],
)
def test_edits_that_lead_to_another_prompt_are_told(own, other, elsewhere):
    towards = {"sunglasses": own, "glasses": other}
    rest = dict.fromkeys(("directional", "rose", "lpips"), Estimate())
    look = Look("global", "sunglasses", 6.0, 9, towards, **rest)
    assert look.elsewhere == elsewhere
    told = "'sunglasses' by global leads more to 'glasses' (0.46) than to itself (0.30)"
    assert look.elsewhere_note == (told if elsewhere else "")


def test_what_is_absent_is_said(run, models, tmp_path):
    judgement = judged(run, models, tmp_path)
    # The rows name other networks than those of the bundle, so this CLIP did not steer them.
    assert judgement.another
    assert not judgement.scored
    assert judgement.looks[0].lpips.mean is None
    assert ["LPIPS is absent" in note for note in judgement.notes] == [True]
    (note,) = judged(run, str(tmp_path / "none.json"), tmp_path).notes
    assert "absent" in note
    assert "none.json" in note


def test_another_judge_lpips_and_a_frechet_distance(run, tmp_path):
    bundle = Path(write_small_bundle(tmp_path, seed=5))
    values = json.loads(bundle.read_text())
    random = torch.Generator().manual_seed(0)
    weights = {
        n: torch.rand(v.shape, generator=random) / 9 for n, v in Lpips().state_dict().items()
    }
    alexnet = {n: v for n, v in weights.items() if n.startswith("features")}
    linear = {f"lin{n[-1]}.model.1.weight": v for n, v in weights.items() if "linear" in n}
    for role, tensors in (("alexnet", alexnet), ("lpips", linear)):
        torch.save(tensors, tmp_path / f"{role}.pt")
        values[role] = {"uri": f"{role}.pt"}
    values["judge"] = values["clip"]
    bundle.write_text(json.dumps(values))
    judgement = judged(run, str(bundle), tmp_path)
    assert judgement.notes == ()
    assert judgement.another
    assert "CLIP clip (" in judgement.judge
    assert "32 px, antialiased bicubic" in judgement.judge
    assert {look.lpips.count for look in judgement.looks} == {FACES}
    assert all((look.lpips.mean or 0) > 0 for look in judgement.looks)
    assert set(judgement.frechet) == {"global", "mapper"}
    for distance in judgement.frechet.values():
        assert distance.num_samples == FACES
        assert not distance.reliable
        assert distance.value >= 0


def test_faces_without_a_photograph_are_looked_at_and_told(run, models, tmp_path):
    crop = Path(run.workspace.url, "crops/face-0.png")
    content = crop.read_bytes()
    try:
        crop.unlink()
        judgement = judged(run, models, tmp_path)
    finally:
        crop.write_bytes(content)
    assert [look.pairs for look in judgement.looks] == [FACES, FACES]
    assert {found.num_samples for found in judgement.frechet.values()} == {FACES - 1}
    assert "1 faces that were looked at have no aligned photograph" in judgement.notes[-1]


def test_prompts_that_the_judge_cannot_read_are_left_out(models, tmp_path):
    plan = [("very " * 100 + "old", "global", (4.0,)), *PLAN]
    run = FakeRun(Folder(str(tmp_path / "ws")), FACES, plan=plan)
    run.write()
    judgement = judged(run, models, tmp_path)
    assert [look.target_prompt for look in judgement.looks] == [prompt for prompt, *_ in PLAN]
    assert "2 of 3 prompts were looked at" in judgement.notes[0]


def test_altered_pictures_are_not_looked_at(run, models, tmp_path):
    image = Path(run.folder.url, "images/face-0/1.png")
    content = image.read_bytes()
    try:
        image.write_bytes(Path(run.folder.url, "images/face-0/2.png").read_bytes())
        looks = judged(run, models, tmp_path).looks
    finally:
        image.write_bytes(content)
    assert [look.pairs for look in looks] == [FACES - 1, FACES]
