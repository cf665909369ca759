"""The program that opens a large report: a tiny one passes, and what is slow or wrong fails."""

import shutil

import pytest

from benchmarks.endurance import gallery

PAIRS = 200


def test_a_small_report_passes_and_a_slow_or_short_one_fails(tmp_path, capsys, monkeypatch):
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium on this machine")
    monkeypatch.setattr(gallery, "PROMPTS", gallery.PROMPTS[:4])
    page = gallery.make_report(tmp_path, PAIRS)
    passed, failed = gallery.visit_all(page, tmp_path, PAIRS, patience=100)
    assert (passed, failed) == (24, 0)
    shown = capsys.readouterr().out
    assert "200 pairs drawn" in shown
    assert "longest frame of a scroll" in shown
    passed, failed = gallery.visit_all(page, tmp_path, 10 * PAIRS, patience=0)
    assert failed == 18
