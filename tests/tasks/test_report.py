"""Reports: what they say, what they show, and what must not get into them."""

import base64
import hashlib
import io
import json
import math
import random
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect, sync_playwright

import tasks.report
from manifests.schemas import EDITS, FACES, RESULTS
from tasks.evaluation import evaluate_rows
from tasks.ledger import Ledger
from tasks.page import tile_side
from tasks.report import write_report
from tasks.report_notes import reader_notes
from tasks.report_rows import collect_rows
from tasks.runs import RunError
from tasks.scoring import Criteria
from tasks.storage import Folder, sha256

HOSTILE = (
    '<img src=x onerror="alert(1)">\n</script><script>alert(2)</script> \u202eright\u202c 😀 $x^2$'
)
PLAN = [
    ("a smiling face", "global", (2.0, 4.0, 6.0)),
    ("a smiling face", "mapper", (0.5, 1.0)),
    ("a face with red hair", "global", (2.0, 4.0, 6.0)),
    ("a face with red hair", "optimize", (1.0,)),
    (HOSTILE, "global", (4.0, -4.0)),
    (HOSTILE, "mapper", (1.0,)),
]
SHORT = [("a smiling face", "global", (2.0, 4.0, 6.0))]
QUICK = Criteria(resamples=40)


@dataclass(frozen=True)
class FakeRun:
    """A run as the edit stage leaves it, with drawn faces and made-up scores."""

    workspace: Folder
    num_faces: int = 5
    side: int = 64
    plan: list[tuple[str, str, tuple[float, ...]]] = field(default_factory=lambda: PLAN)
    seed: int = 0
    tar: bool = False

    @property
    def folder(self) -> Folder:
        return self.workspace / "runs" / "autumn"

    def write(self, waiting: int = 0) -> None:
        rows = [*self._rows()]
        values = {
            "name": "autumn",
            "workspace": self.workspace.url,
            "models": "models.json",
            "fingerprints": {"generator": "9f" * 32, "clip": "c1" * 32, "judge": "c1" * 32},
            "code_version": "0.1.0",
        }
        self.folder.write("run.json", json.dumps(values).encode())
        self._faces()
        ledger = Ledger(self.folder, RESULTS)
        half = len(rows) // 2
        for shard, part in enumerate((rows[:half], rows[half:])):
            table = pa.Table.from_pylist(part, RESULTS)
            ledger.plan_shard(shard, table.select(EDITS.names))
            ledger.commit(shard, table)
        if waiting:
            units = pa.Table.from_pylist(rows[:waiting], RESULTS).select(EDITS.names)
            ledger.plan_shard(2, units)

    def _faces(self) -> None:
        ledger, rows = Ledger(self.workspace / "faces", FACES), []
        for number in range(self.num_faces):
            crop = self.draw(number, "", 0.0, 2 * self.side)
            inversion = self.draw(number, "", 0.5, self.side)
            self.workspace.write(f"crops/face-{number}.png", crop)
            self.workspace.write(f"inversions/face-{number}.png", inversion)
            rows.append(_face(f"face-{number}", "ok", crop_sha256=sha256(crop)))
        rows += [_face("crowd", "no_face"), _face("torn", "unreadable")]
        table = pa.Table.from_pylist(rows, FACES)
        ledger.plan_shard(0, table.select(["source_uri"]))
        ledger.commit(0, table)

    def _rows(self) -> Iterator[dict[str, object]]:
        chance, count, members = random.Random(self.seed), 0, dict[str, bytes]()
        tar_url = (self.folder / "images").url_of("shard-00000.tar")
        for number in range(self.num_faces):
            for prompt, method, alphas in self.plan:
                for alpha in alphas:
                    row = dict.fromkeys(RESULTS.names) | {
                        "pair_id": f"{count:016x}",
                        "image_id": f"face-{number}",
                        "neutral_prompt": "a face",
                        "target_prompt": prompt,
                        "method": method,
                        "alpha": alpha,
                        "num_channels": 20 if method == "global" else None,
                        "status": "ok",
                        "shard": 0,
                        "generator_fingerprint": "9f" * 32,
                        "clip_fingerprint": "c1" * 32,
                        "judge_fingerprint": "c1" * 32,
                        "code_version": "0.1.0",
                    }
                    count += 1
                    if count % 13 == 0:
                        row |= {"status": "no_channel", "error": "no channel passes <beta>"}
                    else:
                        row |= _scores(chance, prompt, method, alpha)
                        picture = self.draw(number, prompt, alpha, self.side)
                        if self.tar:
                            members[f"{count}.png"] = picture
                            row["output_uri"] = f"{tar_url}#{count}.png"
                        else:
                            folder = self.folder / "images" / f"face-{number}"
                            folder.write(f"{count}.png", picture)
                            row["output_uri"] = folder.url_of(f"{count}.png")
                        row["output_sha256"] = sha256(picture)
                    yield row
        if members:
            (self.folder / "images").write("shard-00000.tar", _tar(members))

    def draw(self, number: int, prompt: str, alpha: float, side: int) -> bytes:
        """A face as PNG; the strength bends its mouth."""
        chance = random.Random(number)
        colors = [tuple(chance.randint(60, 220) for _ in range(3)) for _ in range(3)]
        image = Image.new("RGB", (256, 256), colors[0])
        draw = ImageDraw.Draw(image)
        draw.ellipse((48, 20, 208, 200), fill=colors[1])
        draw.ellipse((60, 40, 196, 236), fill=colors[2])
        for x in (98, 158):
            draw.ellipse((x - 12, 108, x + 12, 128), fill="white")
            draw.ellipse((x - 6, 112, x + 6, 126), fill="black")
        lift = 5 * alpha
        mouth = (98, 190 - lift), (128, 196 + lift), (158, 190 - lift)
        draw.line(mouth, fill=(150, 40, 50), width=9)
        return _png(image.resize((side, side), Image.Resampling.LANCZOS))


def _face(image_id: str, status: str, **values: object) -> dict[str, object]:
    error = None if status == "ok" else status
    given = {"image_id": image_id, "source_uri": f"photos/{image_id}.jpg", "status": status}
    return dict.fromkeys(FACES.names) | given | {"error": error} | values


def _scores(chance: random.Random, prompt: str, method: str, alpha: float) -> dict[str, float]:
    power = {"global": alpha / 6, "mapper": alpha * 0.8, "optimize": alpha * 0.9}[method]
    ease = {"a smiling face": 1.0, "a face with red hair": 0.5}.get(prompt, 0.2)
    direction = ease * math.tanh(1.2 * power) * 0.45 + chance.gauss(0, 0.06)
    identity = 1 - 0.45 * abs(power) ** 1.5 + chance.gauss(0, 0.04)
    inversion = 0.72 + chance.gauss(0, 0.05)
    cosine = 0.22 + 0.08 * direction
    return {
        "clip_cosine_inversion": 0.22,
        "clip_cosine": cosine,
        "clip_score": 100 * cosine,
        "directional_edit": direction if chance.random() > 0.05 else math.nan,
        "directional_total": direction * 0.8,
        "image_inversion": 0.85 + chance.gauss(0, 0.02),
        "image_edit": 0.97 - 0.2 * abs(power),
        "image_total": 0.83 - 0.2 * abs(power),
        "identity_inversion": inversion,
        "identity_edit": identity,
        "identity_total": identity * inversion,
        "seconds": {"global": 0.07, "mapper": 0.08, "optimize": 9.0}[method]
        * chance.lognormvariate(0, 0.3),
    }


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


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
    run = FakeRun(Folder(str(tmp_path_factory.mktemp("workspace"))))
    run.write(waiting=7)
    write_report(run.folder.url, QUICK)
    return run


def test_the_same_report_from_any_store(root):
    run = FakeRun(Folder(root), num_faces=1, plan=SHORT)
    run.write()
    summary = write_report(run.folder.url, QUICK)
    assert (summary.pairs, summary.failed, summary.waiting) == (3, 0, 0)
    assert summary.page == report_of(run).url_of("index.html")
    document = Document(report_of(run))
    assert len(document.pairs["edits"]) == 3
    for address in document.values("img", "src"):
        assert report_of(run).read(address)
    (source, inversion) = document.pairs["faces"][0][1:]
    assert [source[1], inversion[1]] == [
        "../../../crops/face-0.png",
        "../../../inversions/face-0.png",
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
    text = Document(report_of(finished)).text
    assert "7 planned pairs have no result yet" in text
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
    assert notes(faces) == ["Another CLIP judges than the one that steered the edits."]
    assert notes([faces[0], other | faces[0]], 1200) == [
        "The CLIP that steered a row judges it in 1 of 2 rows.",
        "1,200 planned pairs have no result yet: the run is not finished.",
        "The rows come from 2 different generator networks.",
        "The rows come from 2 different judge networks.",
        "Pair ids come again in other rows: 1 times.",
        "Few faces (1): the intervals are rough.",
    ]
    (unscored,) = [n for n in notes([other | faces[0]]) if "success" in n]
    assert unscored == "No pair could be judged a success or not: scores are missing."


def test_a_second_report_reads_no_edited_image_again(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=2, plan=SHORT)
    run.write()
    write_report(run.folder.url, QUICK)
    before = report_of(run).read("index.html")
    shutil.rmtree(tmp_path / "runs/autumn/images")
    steps: list[tuple[int, int]] = []
    write_report(run.folder.url, QUICK, lambda done, total: steps.append((done, total)))
    assert report_of(run).read("index.html") == before
    assert steps[-1] == (2 * 2 + 6, 2 * 2 + 6)


def test_altered_and_lost_images_are_not_shown(tmp_path):
    run = FakeRun(Folder(str(tmp_path)), num_faces=1, plan=SHORT)
    run.write()
    images = tmp_path / "runs/autumn/images/face-0"
    (images / "1.png").write_bytes((images / "2.png").read_bytes())
    (images / "3.png").unlink()
    (tmp_path / "inversions/face-0.png").write_bytes(b"no picture")
    summary = write_report(run.folder.url, QUICK)
    assert "2 edited images are absent, damaged or altered." in summary.notes
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
    assert not [note for note in summary.notes if "absent" in note]


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
    monkeypatch.setattr(tasks.report, "GALLERY_LIMIT", 10)
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
    narrow = page.locator(".summary, .card").evaluate_all(
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
    assert "pair=" not in page.evaluate("location.hash")
    page.goto(f"file://{report_of(finished).url}/index.html{link}")
    page.reload()
    expect(viewer).to_be_visible()
    assert page.locator("[name=method]").input_value() == "mapper"


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
