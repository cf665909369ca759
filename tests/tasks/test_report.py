"""Reports: what they say, what they show, and what must not get into them."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

import tasks.report.run_report
from manifests.schemas import RESULTS
from tasks.report.evaluation import Estimate, Group, evaluate_rows
from tasks.report.judgement import Judgement, Look
from tasks.report.notes import missing_notes, reader_notes
from tasks.report.page import tile_side
from tasks.report.plots import frontier_plot, loss_plot
from tasks.report.rows import collect_rows
from tasks.report.run_report import write_report
from tasks.report.scoring import Criteria
from tasks.runs import RunError
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger

from fake_run import HOSTILE, PLAN, SHORT, FakeRun

MAPPED = [("a smiling face", "mapper", (1.0,))]
QUICK = Criteria(resamples=40)


class Document(HTMLParser):
    """The tags of a page, the texts of its scripts and styles, and its visible text."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._inside = ""
        self.feed(folder.read("index.html").decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.raw[self._inside].append(data)
        else:
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for found, attrs in self.tags if found == tag and name in attrs]

    @property
    def pairs(self) -> dict:
        return json.loads(self.raw["script"][0])


def report_of(run: FakeRun) -> Folder:
    return run.folder / "report"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FakeRun:
    """A run with its report, for tests that only read it."""
    workspace = Folder(str(tmp_path_factory.mktemp("workspace")))
    run, earlier = FakeRun(workspace, better=0.1), FakeRun(workspace, name="summer")
    run.write(waiting=7)
    earlier.write()
    write_report(run.folder.url, QUICK, others=[earlier.folder.url])
    return run


def test_the_same_report_from_any_store(root):
    run = FakeRun(Folder(root), num_faces=1, plan=SHORT)
    run.write()
    summary = write_report(run.folder.url, QUICK)
    assert (summary.pairs, summary.failed, summary.waiting) == (3, 0, 0)
    assert summary.page == report_of(run).url_of("index.html")
    document = Document(report_of(run))
    text = " ".join(document.text.split())
    assert "1 face, 1 prompt, by global. pairs3" in text
    assert "of 3 pairs and 1 face at all strengths" in text
    assert len(document.pairs["edits"]) == 3
    for address in document.values("img", "src"):
        assert report_of(run).read(address)
    (source, inversion) = document.pairs["faces"][0][1:]
    assert [source[1], inversion[1]] == [
        "../../../crops/face-0.png",
        "../../../inversions/feed/face-0.png",
    ]
    thumb, full, side = document.pairs["edits"][1]
    assert (full, side) == ("../images/face-0/2.png", 64)
    assert Image.open(io.BytesIO(report_of(run).read(thumb))).tobytes() == (
        Image.open(io.BytesIO(run.folder.read("images/face-0/2.png"))).tobytes()
    )


def test_rows_out_are_rows_in(finished):
    rows = pq.read_table(pa.BufferReader(report_of(finished).read("metrics.parquet")))
    results = pa.concat_tables(Ledger(finished.folder, RESULTS).results())
    assert rows.select(RESULTS.names).to_pandas().equals(results.to_pandas())
    asked = [r for r in rows.to_pylist() if r["success"] is not None]
    assert asked
    for got in asked:
        rose = got["clip_cosine"] > got["clip_cosine_inversion"]
        assert got["success"] == (rose and got["directional_edit"] >= 0.1)


def test_the_page_holds_the_values_of_the_rows(finished):
    columns = Document(report_of(finished)).pairs
    rows = pa.concat_tables(Ledger(finished.folder, RESULTS).results()).to_pylist()
    for place, row in enumerate(rows):
        shown = {
            name: columns["rows"][name][place] for name in ("pair_id", "alpha", "directional_edit")
        }
        value = row["directional_edit"]
        absent = value is None or math.isnan(value)
        want = {name: row[name] for name in ("pair_id", "alpha")}
        assert shown == want | {"directional_edit": None if absent else round(value, 4)}
        for name in ("target_prompt", "method", "status", "error"):
            assert columns["texts"][name][columns["rows"][name][place]] == (row[name] or "")
        assert (columns["edits"][place] is None) == (row["status"] != "ok")


def test_the_summary_is_strict_json_with_the_same_numbers(finished):
    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads(report_of(finished).read("summary.json"), parse_constant=refuse)
    assert summary["statuses"] == {"ok": 56, "no_channel": 4}
    assert summary["faces"] == {"ok": 5, "no_face": 1, "unreadable": 1}
    assert summary["waiting"] == 7
    rows = pq.read_table(pa.BufferReader(report_of(finished).read("metrics.parquet"))).to_pylist()
    for group in summary["by_alpha"]:
        keys = ("method", "target_prompt", "alpha")
        own = [r for r in rows if all(r[k] == group[k] for k in keys) and r["status"] == "ok"]
        values = [r["identity_edit"] for r in own]
        assert group["scores"]["identity_edit"]["mean"] == pytest.approx(sum(values) / len(values))
    assert {best["target_prompt"] for best in summary["best_strengths"]} == {p for p, *_ in PLAN}


def test_user_texts_are_text(finished):
    document = Document(report_of(finished))
    assert HOSTILE in document.text
    assert not document.values("img", "onerror")
    assert len(document.raw["script"]) == 2
    assert HOSTILE in document.pairs["texts"]["target_prompt"]
    svgs = [
        report_of(finished).read(address)
        for address in document.values("img", "src")
        if "svg" in address
    ]
    assert svgs
    assert not any(b"onerror" in svg or b"<script" in svg for svg in svgs)


def test_the_policy_allows_the_two_texts_of_the_page_and_nothing_else(finished):
    document = Document(report_of(finished))
    (policy,) = [p for p in document.values("meta", "content") if "default-src" in p]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, place in (("script", 1), ("style", 0)):
        digest = hashlib.sha256(document.raw[tag][place].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    addresses = [
        a for tag in ("a", "img", "link") for n in ("href", "src") for a in document.values(tag, n)
    ]
    assert not [a for a in addresses if re.match(r"\w+://|//", a)]
    assert not [attrs for _, attrs in document.tags if any(name.startswith("on") for name in attrs)]
    assert not [attrs for _, attrs in document.tags if "style" in attrs]


def test_notes_say_what_limits_the_numbers(finished):
    text = " ".join(Document(report_of(finished)).text.split())
    assert "of 67 pairs so far60" in text
    assert "The run is not finished: 7 planned pairs have no result yet" in text
    assert "The CLIP that judges is the one that steered the edits" in text
    assert "Few faces (5)" in text


def test_notes_on_judges_networks_and_repeated_pairs(tmp_path):
    def notes(rows: list[dict], waiting: int = 0) -> list[str]:
        table = pa.Table.from_pylist([blank | row for row in rows], RESULTS)
        collected = collect_rows([table], QUICK, tmp_path / "rows.parquet")
        return reader_notes(collected, evaluate_rows(collected, {}, QUICK), waiting, 0)

    blank = dict.fromkeys(RESULTS.names) | {"neutral_prompt": "a face", "target_prompt": "a smile"}
    blank |= {"method": "global", "alpha": 2.0, "status": "ok", "code_version": "0", "shard": 0}
    blank |= {"clip_cosine": 0.3, "clip_cosine_inversion": 0.2, "directional_edit": 0.4}
    blank |= {"generator_fingerprint": "g", "clip_fingerprint": "c", "judge_fingerprint": "j"}
    other = {"judge_fingerprint": "c", "generator_fingerprint": "h", "clip_cosine": None}
    faces = [{"image_id": f"face-{n}", "pair_id": f"{n}"} for n in range(20)]
    assert notes(faces) == [
        "Scored by a second CLIP, which did not steer the edits; look at the pictures as well."
    ]
    assert notes([faces[0], other | faces[0]], 1200) == [
        "The run is not finished: 1,200 planned pairs have no result yet.",
        "The CLIP that steered a row judges it in 1 of 2 rows.",
        "The rows come from 2 different generator networks.",
        "The rows come from 2 different judge networks.",
        "Pair ids come again in other rows: 1 times.",
        "Few faces (1): the intervals are rough.",
    ]
    lost = [face | {"identity_inversion": float(n > 2)} for n, face in enumerate(faces)]
    assert "3 of 20 faces are other people in the inversion already" in notes(lost)[1]
    (unscored,) = [n for n in notes([other | faces[0]]) if "success" in n]
    assert unscored == "No pair could be judged a success or not: scores are missing."


def test_an_edit_that_changes_something_else_is_not_just_called_a_success(tmp_path, monkeypatch):
    run = FakeRun(Folder(str(tmp_path)), num_faces=2, plan=SHORT)
    run.write()
    prompt, method = SHORT[0][:2]
    towards = {prompt: Estimate(2, 2, 0.3), "a hat": Estimate(2, 2, 0.4, 0.35, 0.5)}
    look = Look(method, prompt, 2.0, 2, towards, *[Estimate()] * 3)
    judgement = Judgement("CLIP", prompts=[*towards], looks=[look])
    monkeypatch.setattr("tasks.report.run_report.judge_pairs", lambda *_: judgement)
    summary = write_report(run.folder.url, QUICK)
    (note,) = [note for note in summary.notes if "change something else" in note]
    assert look.elsewhere_note in note
    assert summary.verdicts[0]["leads more to"] == "a hat"
    text = " ".join(Document(report_of(run)).text.split())
    assert "leads more to a hat" in text
    assert "its own CLIP says" in text


def test_labels_of_strengths_do_not_hide_each_other(finished):
    def group(alpha: float, mean: float) -> Group:
        scores = dict.fromkeys(("identity_edit", "directional_edit"), Estimate(1, 1, mean))
        return Group("global", "a smile", alpha, 1, 1, 1, {}, scores, Estimate())

    near = [group(1 + n / 8, 0.5 + n / 1e4) for n in range(8)]
    svg = frontier_plot({"global": [*near, group(9.25, 0.9)]}, QUICK).svg.decode()
    assert ">1<" in svg
    assert ">9.25<" in svg
    # Around one point there is room for four.
    assert sum(f">{one.alpha:g}<" in svg for one in near) == 4


def test_edits_that_lose_nothing_are_drawn_without_a_warning():
    kinds = ("identity_inversion", "identity_edit", "identity_total")
    kinds += ("image_inversion", "image_edit", "image_total")
    # As cosines of what did not change round.
    scores = dict.fromkeys(kinds, Estimate(1, 1, 1 + 1e-7))
    same = Group("global", "a smile", 1.0, 1, 1, 1, {}, scores, Estimate())
    assert b"<svg" in loss_plot({"global": same}).svg


@pytest.mark.parametrize(
    ("plan", "mine", "theirs", "others"),
    [
        (SHORT, {"directions_fingerprint": "a"}, {"directions_fingerprint": "b"}, ["directions"]),
        (SHORT, {"directions_fingerprint": "a"}, {"directions_fingerprint": "a"}, []),
        (SHORT, {"mappers": {"/ws/mappers/x": "a"}}, {}, []),
        (MAPPED, {"mappers": {"/a/x": "a", "/a/y": "b"}}, {"mappers": {"/b/x": "a"}}, []),
        (MAPPED, {"mappers": {"/a/x": "a"}}, {"mappers": {"/a/x": "b"}}, ["mappers"]),
    ],
)
def test_assets_that_differ_are_told_where_pairs_use_them(tmp_path, plan, mine, theirs, others):
    runs = []
    for name, more in (("autumn", mine), ("summer", theirs)):
        run = FakeRun(Folder(str(tmp_path)), num_faces=2, plan=plan, name=name)
        run.write()
        place = Path(run.folder.url, "run.json")
        place.write_text(json.dumps(json.loads(place.read_text()) | more))
        runs.append(run.folder.url)
    summary = json.loads(Path(write_report(runs[0], QUICK, others=runs[1:]).summary).read_text())
    assert summary["comparisons"][0]["others"] == others


def test_faces_of_equal_photographs_are_told(tmp_path):
    for name, copies in (("own", False), ("copied", True)):
        run = FakeRun(Folder(str(tmp_path / name)), num_faces=4, plan=SHORT, copies=copies)
        run.write()
        told = [note for note in write_report(run.folder.url, QUICK).notes if "copies" in note]
        assert [note.partition(" are")[0] for note in told] == ["3 of the faces"] * copies


def test_another_run_is_shown_beside_with_differences_and_drift(finished):
    summary = json.loads(report_of(finished).read("summary.json"))
    (compared,) = summary["comparisons"]
    assert (compared["name"], compared["pairs"], compared["others"]) == ("summer", 60, [])
    for difference in compared["differences"]:
        assert difference["paired"]
        change = difference["scores"]["directional_edit"]
        assert change["mean"] == pytest.approx(0.1)
        assert difference["scores"]["identity_edit"]["mean"] == 0
        assert difference["scores"]["failed"]["mean"] == 0
    told = [sentence for sentence in compared["drift"] if "directional edit better" in sentence]
    assert len(told) == len(compared["differences"]) == 6
    document = Document(report_of(finished))
    assert "Drift against summer in 6 of 6 prompts and methods" in " ".join(document.text.split())
    (other,) = document.pairs["others"]
    assert other["name"] == "summer"
    # The same drawing in both runs has one thumbnail.
    assert other["edits"] == [
        e and [e[0], e[1].replace("..", "../../summer", 1), e[2]] for e in document.pairs["edits"]
    ]
    changes = document.pairs["rows"]["change since summer"]
    assert {None if c is None else round(c, 3) for c in changes} <= {0.1, -0.1, None}


def test_other_runs_of_one_name_are_told_apart(tmp_path):
    run, *others = (
        FakeRun(Folder(str(tmp_path / place)), num_faces=2, name="summer", better=better)
        for place, better in {"mine": 0.1, "old": 0.0, "a/ws": 0.2, "b/ws": 0.3}.items()
    )
    for one in (run, *others):
        one.write()
    urls = [one.folder.url for one in others]
    write_report(run.folder.url, QUICK, others=urls)
    document = Document(report_of(run))
    names = [other["name"] for other in document.pairs["others"]]
    assert names == ["summer in old", *urls[1:]]
    assert {f"change since {name}" for name in names} < {*document.pairs["scores"]}


def test_a_drift_leads_to_its_comparison(tmp_path):
    workspace = Folder(str(tmp_path))
    names = {"autumn": 0.1, "same": 0.1, "summer": 0.0}
    run, *others = (
        FakeRun(workspace, num_faces=2, name=name, better=b) for name, b in names.items()
    )
    for one in (run, *others):
        one.write()
    write_report(run.folder.url, QUICK, others=[other.folder.url for other in others])
    links = Document(report_of(run)).values("a", "href")
    # The alarm; the contents come after it.
    assert next(link for link in links if "compared" in link) == "#compared-2"


def test_stages_are_told_with_what_they_lost(finished):
    summary = json.loads(report_of(finished).read("summary.json"))
    stages = {stage["name"]: stage for stage in summary["stages"]}
    assert stages["align"]["counts"] == {"ok": 5, "no_face": 1, "unreadable": 1}
    assert stages["edit"]["counts"] == {"ok": 56, "no_channel": 4}
    assert all(stage["seconds"] > 0 for stage in stages.values())
    text = " ".join(Document(report_of(finished)).text.split())
    assert re.search(r"align ?5 ?1 no face, 1 unreadable", text)
    assert re.search(r"faces and photographs not used ?2", text)


def test_a_second_report_reads_no_edited_image_again(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=2, plan=SHORT)
    run.write()
    write_report(run.folder.url, QUICK)
    before = report_of(run).read("index.html")
    for image in (tmp_path / "runs/autumn/images").rglob("*.png"):
        image.write_bytes(b"not read")
    steps: list[tuple[str, int, int]] = []
    write_report(run.folder.url, QUICK, lambda *step: steps.append(step))
    assert report_of(run).read("index.html") == before
    assert steps[-1] == ("pictures", 2 * 2 + 6, 2 * 2 + 6)


def test_images_that_went_since_are_shown_small_and_told(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=2, plan=SHORT)
    run.write()
    write_report(run.folder.url, QUICK)
    before = Document(report_of(run)).pairs["edits"]
    shutil.rmtree(tmp_path / "runs/autumn/images")
    summary = write_report(run.folder.url, QUICK)
    assert summary.missing == (*missing_notes(6, 0),)
    assert {*summary.missing} <= {*summary.notes}
    after = Document(report_of(run)).pairs["edits"]
    assert [edit[0] for edit in after] == [edit[0] for edit in before]
    assert all(edit[1] for edit in before)
    assert not any(edit[1] for edit in after)


def test_altered_and_lost_images_are_not_shown(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=1, plan=SHORT)
    run.write()
    images = tmp_path / "runs/autumn/images/face-0"
    (images / "1.png").write_bytes((images / "2.png").read_bytes())
    (images / "3.png").unlink()
    (tmp_path / "inversions/feed/face-0.png").write_bytes(b"no picture")
    summary = write_report(run.folder.url, QUICK)
    assert summary.missing == (*missing_notes(2, 1),)
    shown = Document(report_of(run)).pairs
    assert [place for place, edit in enumerate(shown["edits"]) if edit is None] == [0, 2]
    assert shown["faces"][0][2] is None


def test_images_in_a_tar_are_shown_without_a_link(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=1, plan=SHORT, tar=True)
    run.write()
    write_report(run.folder.url, QUICK)
    edits = Document(report_of(run)).pairs["edits"]
    assert [full for _, full, _ in edits] == [None] * 3
    assert len({thumb for thumb, _, _ in edits}) == len(SHORT[0][2])


def test_a_workspace_may_move(tmp_path):
    run = FakeRun(Folder(str(tmp_path / "old")), num_faces=1, plan=SHORT)
    run.write()
    shutil.move(tmp_path / "old", tmp_path / "new")
    summary = write_report(str(tmp_path / "new/runs/autumn"), QUICK)
    assert not [note for note in summary.notes if "images are absent" in note]


def test_a_row_cannot_make_the_report_read_elsewhere(tmp_path):
    secret = tmp_path / "elsewhere.png"
    Image.new("RGB", (8, 8)).save(secret)
    run = FakeRun(Folder(str(tmp_path / "workspace")), num_faces=1, plan=SHORT)
    run.write()
    ledger = Ledger(run.folder, RESULTS)
    rows = ledger.units(0).to_pylist() + ledger.units(1).to_pylist()
    for row, uri in zip(
        rows, (str(secret), f"{run.folder.url}/../../../elsewhere.png", "x"), strict=True
    ):
        row |= dict.fromkeys(set(RESULTS.names) - set(row))
        row |= {"status": "ok", "output_uri": uri, "pair_id": uri, "shard": 2, "code_version": "0"}
        row |= {"generator_fingerprint": "", "image_id": "../../elsewhere"}
    ledger.commit(2, pa.Table.from_pylist(rows, RESULTS))
    summary = write_report(run.folder.url, QUICK)
    assert summary.pairs == 6
    assert Document(report_of(run)).pairs["edits"][-3:] == [None] * 3
    assert Document(report_of(run)).pairs["faces"][-1] == ["../../elsewhere", None, None]


def test_a_run_without_results(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=0, plan=SHORT)
    run.folder.write("run.json", b"{}")
    summary = write_report(run.folder.url, QUICK)
    assert (summary.pairs, summary.failed) == (0, 0)
    assert "No results yet" in Document(report_of(run)).text
    with pytest.raises(RunError, match="expected the folder of a run"):
        write_report(str(tmp_path / "runs/winter"))


def test_a_gallery_has_a_limit_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.report.run_report, "GALLERY_LIMIT", 10)
    run = FakeRun(Folder(str(tmp_path)), num_faces=20, plan=SHORT)
    run.write()
    summary = write_report(run.folder.url, QUICK)
    document = Document(report_of(run))
    shown = document.pairs["rows"]["pair_id"]
    assert 10 <= len(shown) < 60
    assert f"The gallery holds {len(shown)} of 60 pairs, drawn evenly." in summary.notes
    linked = [
        a.removeprefix("#pair=") for a in document.values("a", "href") if a.startswith("#pair=")
    ]
    assert set(linked) <= set(shown)


@pytest.mark.parametrize(
    ("side", "tile"),
    [(32, 128), (64, 128), (96, 96), (127, 127), (128, 128), (1024, 128), (0, 128)],
)
def test_small_pictures_grow_by_whole_multiples(side, tile):
    assert tile_side(side) == tile
    assert side == 0 or side >= 128 or tile % side == 0


# The page in a browser


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if not BROWSER:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a browser, and all that it asked for or complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def count(self) -> int:
        return int(self.page.locator("#count").inner_text().split()[0])

    def cards(self) -> list[str]:
        return self.page.locator(".card").all_inner_texts()


@pytest.fixture(params=["desktop", "phone"])
def visit(request, browser, finished) -> Iterator[Visit]:
    wide = request.param == "desktop"
    context = browser.new_context(
        viewport={"width": 1280 if wide else 390, "height": 844},
        has_touch=not wide,
        color_scheme="light" if wide else "dark",
        reduced_motion="reduce",
    )
    visit = Visit(context.new_page())
    page = visit.page
    page.on("request", lambda asked: visit.requests.append(asked.url))
    page.on("requestfailed", lambda asked: visit.complaints.append(asked.url))
    page.on("console", lambda said: visit.complaints.append(said.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.goto(f"file://{report_of(finished).url}/index.html")
    yield visit
    assert visit.complaints == []
    inside = f"file://{finished.workspace.url}/"
    assert [url for url in visit.requests if not url.startswith((inside, "data:"))] == []
    context.close()


def test_the_page_fits_and_shows_all_its_pictures(visit):
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    narrow = page.locator(".verdicts, .prompt h3, .card").evaluate_all(
        "all => all.filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert narrow == 0
    shown = page.locator("#prompts img, #plots img, #run img, .card img")
    shown.evaluate_all(
        "all => Promise.all(all.map(image => { image.loading = 'eager'; return image.decode(); }))"
    )
    sizes = page.locator(".card img").evaluate_all("all => all.map(i => [i.width, i.height])")
    assert sizes
    assert {tuple(size) for size in sizes} == {(128, 128)}
    assert page.locator("h3 bdi", has_text="onerror").first.is_visible()


def test_a_phone_shows_every_strength_without_scripts(browser, finished):
    context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{report_of(finished).url}/index.html")
    hidden = page.locator("#prompts .film").evaluate_all(
        "all => all.filter(film => film.scrollWidth > film.clientWidth).length"
    )
    context.close()
    assert hidden == 0


def test_filters_narrow_and_orders_sort(visit):
    page = visit.page
    assert visit.count() == 60
    page.select_option("[name=prompt]", label="a smiling face")
    assert visit.count() == 25
    page.select_option("[name=method]", "global")
    page.select_option("[name=alpha]", "4")
    assert visit.count() == 5
    page.select_option("[name=order]", "down")
    values = [
        float(v) for text in visit.cards() for v in re.findall(r"directional edit (-?[\d.]+)", text)
    ]
    assert len(values) >= 3
    assert values == sorted(values, reverse=True)
    page.fill("[name=low]", str(values[1]))
    assert visit.count() == 2
    page.click("text=Clear")
    page.select_option("[name=status]", "no_channel")
    assert visit.count() == 4
    assert all("no channel passes <beta>" in text for text in visit.cards())
    page.fill("[name=face]", "no such face")
    assert visit.count() == 0


def test_pages_turn(visit):
    page = visit.page
    first = visit.cards()
    page.click("#next")
    assert "page 2 of" in page.locator("#page-number").inner_text()
    assert visit.cards() != first
    page.click("#first")
    assert visit.cards() == first
    page.click("#last")
    assert page.locator("#next").is_disabled()


def test_a_pair_opens_compares_and_has_a_link(visit, finished):
    page = visit.page
    page.select_option("[name=method]", "mapper")
    page.locator(".card").nth(1).click()
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    link = page.evaluate("location.hash")
    assert "method=mapper" in link
    page.keyboard.press("ArrowRight")
    after = page.evaluate("location.hash")
    assert after != link
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("location.hash") == link
    assert page.locator("#toggle-before").inner_text() == "Before: source"
    page.keyboard.press("b")
    assert page.locator("#toggle-before").inner_text() == "Before: inversion"
    side = page.locator("#stage").bounding_box()["width"]
    assert side % 64 == 0
    assert page.locator("#after").evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    page.keyboard.press("+")
    assert page.locator("#stage").bounding_box()["width"] == side * 1.5
    page.keyboard.press("0")
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 30)
    assert page.locator("#split").input_value() == "25"
    page.locator("#split").press("ArrowRight")
    assert page.locator("#split").input_value() == "26"
    assert "26%" in page.locator("#after").evaluate("i => getComputedStyle(i).clipPath")
    page.keyboard.press("Escape")
    expect(viewer).not_to_be_visible()
    # The address follows with the event of closing, which a busy browser sends later.
    expect(page).not_to_have_url(re.compile("pair="))
    page.goto(f"file://{report_of(finished).url}/index.html{link}")
    page.reload()
    expect(viewer).to_be_visible()
    assert page.locator("[name=method]").input_value() == "mapper"


def test_a_link_without_a_strength_shows_all_though_there_is_a_strength_of_0(visit):
    page = visit.page
    page.evaluate("document.querySelector('[name=alpha]').add(new Option('0', '0'))")
    page.evaluate("location.hash = '#method=mapper'")
    expect(page.locator("[name=method]")).to_have_value("mapper")
    assert page.locator("[name=alpha]").input_value() == ""
    page.evaluate("location.hash = '#method=mapper&alpha=0.0'")
    expect(page.locator("[name=alpha]")).to_have_value("0")


def test_another_run_stands_beside_a_pair(visit):
    page = visit.page
    page.select_option("[name=before]", "summer")
    page.select_option("[name=score]", "change since summer")
    page.select_option("[name=order]", "down")
    assert "change since summer 0.1" in visit.cards()[0]
    page.locator(".card").first.click()
    expect(page.locator("#toggle-before")).to_have_text("Before: summer")
    assert page.locator("#before").get_attribute("alt") == "summer"
    page.keyboard.press("b")
    expect(page.locator("#toggle-before")).to_have_text("Before: source")
    page.keyboard.press("Escape")
    page.click(".alarm a")
    expect(page.locator("#compared-1 h2")).to_have_text("Compared with summer")


def test_every_control_has_a_name_and_can_be_reached(visit):
    page = visit.page
    nameless = page.locator("a, button, select, input, [tabindex='0']").evaluate_all(
        """all => all.filter(one => !(one.textContent.trim() || one.getAttribute('aria-label') ||
            one.closest('label') || one.querySelector('img[alt]:not([alt=""])')))
            .map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#gallery"


def test_texts_stand_out_from_what_they_lie_on(visit):
    """The contrast that WCAG 2.2 AA asks of small text is 4.5."""
    ratios = visit.page.evaluate(
        """() => {
          const luminance = (color) => {
            const parts = color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const scale = color.startsWith("color(") ? 1 : 255;
            const [r, g, b] = parts.map((part) => part / scale)
              .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const under = (one) => {
            for (let at = one; at; at = at.parentElement) {
              const color = getComputedStyle(at).backgroundColor;
              if (!/, 0\\)|transparent/.test(color)) return color;
            }
            return getComputedStyle(document.body).backgroundColor;
          };
          const said = [...document.querySelectorAll("body *")].filter((one) =>
            [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) &&
            one.checkVisibility() && !one.closest("dialog, :disabled, script, style"));
          return said.map((one) => {
            const [a, b] = [getComputedStyle(one).color, under(one)].map(luminance);
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML.slice(0, 120)];
          }).filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert ratios == []


def test_a_failed_pair_says_why(visit):
    page = visit.page
    page.select_option("[name=status]", "no_channel")
    page.locator(".card").first.click()
    expect(page.locator("#absent")).to_have_text("no channel: no channel passes <beta>")


def test_links_of_strips_and_tables_lead_to_pairs(visit):
    page = visit.page
    page.locator(".film .chosen").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#plots summary").first.click()
    page.locator("#plots a", has_text="show").first.click()
    expect(page.locator("#count")).to_have_text("5 of 60 pairs")
    expect(page.locator("[name=alpha]")).to_have_value("2")
    # A prompt of any signs comes through the address.
    page.locator("#plots summary").last.click()
    page.locator("#plots a", has_text="show").last.click()
    expect(page.locator("[name=prompt]")).to_have_value(HOSTILE)
    method = page.locator("[name=method]").input_value()
    (alphas,) = [alphas for prompt, name, alphas in PLAN if (prompt, name) == (HOSTILE, method)]
    assert visit.count() == 5 * len(alphas)
    page.reload()
    expect(page.locator("[name=prompt]")).to_have_value(HOSTILE)


def test_plots_follow_the_color_scheme(visit):
    page = visit.page
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    plot = page.locator("#plots img").first
    plot.scroll_into_view_if_needed()
    picture = Image.open(io.BytesIO(plot.screenshot())).convert("L")
    # The paper of the page is most of a plot: what is drawn must differ from it.
    low, high = picture.getextrema()
    assert low < 60
    assert high > 150
    corner = picture.getpixel((picture.width - 3, 3))
    assert (corner < 60) == dark
