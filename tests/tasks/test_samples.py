"""A glance at a run: numbers as in its rows, pictures that open."""

import io

import pytest
from PIL import Image

from tasks.report import samples
from tasks.report.samples import glance_at


@pytest.mark.parametrize("run", ["single", "tarred"])
def test_a_glance_shows_means_and_pictures(finished, run):
    glance = glance_at(finished.run(run).url, count=3)
    rows = finished.results(run).to_pandas()
    assert sum(result["rows"] for result in glance.results) == len(rows)
    for result in glance.results:
        own = rows[rows["target_prompt"] == result["target_prompt"]]
        own = own[own["alpha"] == result["alpha"]]
        assert result["ok"] == (own["status"] == "ok").sum()
        assert result["identity_edit"] == pytest.approx(own["identity_edit"].mean(), abs=1e-3)
    assert len(glance.samples) == 3
    for sample in glance.samples:
        for content in (sample.before, sample.after):
            assert max(Image.open(io.BytesIO(content)).size) <= 112


def test_a_glance_at_a_large_run_is_at_a_part(finished, monkeypatch):
    monkeypatch.setattr(samples, "MOST_SHARDS", 1)
    glance = glance_at(finished.run("single").url, count=2)
    assert (glance.shards, glance.of) == (1, 3)
    assert sum(result["rows"] for result in glance.results) < 16
    assert len(glance.samples) == 2


def test_pictures_that_are_lost_are_left_out(finished):
    (finished.folder / "runs/single").remove_all("images")
    assert glance_at(finished.run("single").url).samples == []


def test_a_glance_at_damaged_tars_shows_no_pictures(finished):
    images = finished.folder / "runs/tarred/images"
    for name in images.names(".tar"):
        images.write(name, images.read(name)[:700])
    assert glance_at(finished.run("tarred").url).samples == []
