"""A report of ten thousand pairs stays fluent: it is made, opened in a browser, filtered, scrolled.

A workspace is written as the stages leave it, with drawn pictures and made-up scores. Its report is
made by the product, and opened from its folder in the chromium of the system, at desktop and phone
width. Times are those of the browser, from the action until the next frame that shows its outcome.

Each action has a limit, the page asks for nothing outside of its workspace, the console stays
empty, and at opening no more thumbnails are read than a page of the gallery and the examples show.
Run it with `python -m benchmarks.endurance.gallery`; a slow machine gets `--patience 5`.
"""

import argparse
import colorsys
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, sync_playwright

from manifests.schemas import EDITS, FACES, METRICS, RESULTS
from tasks.report.run_report import write_report
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger

PROMPTS = [f"a face with hat number {number}" for number in range(10)]
ALPHAS = [1.0, 2.0, 3.0, 4.0, 5.0]
_SHARD = 1_000
_SIDE = 64
# Thumbnails that a page may read at opening: a page of cards, and strips near the window.
_MOST_READ = 400
# Seconds.
_LIMITS = {
    "open": 4.0,
    "filter by prompt": 0.3,
    "sort by score": 0.3,
    "filter by range": 0.3,
    "turn a page": 0.3,
    "open a pair": 0.3,
    "next pair": 0.2,
    "longest frame of a scroll": 0.3,
}
_WIDTHS = {"desktop": 1280, "phone": 390}

# Acts, and resolves with the seconds until a frame has shown the outcome.
_TIMED = """(act) => new Promise((resolve) => {
  const began = performance.now();
  new Function(act)();
  requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - began) / 1000)));
})"""
# Scrolls the gallery's page from end to end, and resolves with the longest time of a frame.
_SCROLL = """() => new Promise((resolve) => {
  let last = performance.now(), longest = 0;
  const end = document.documentElement.scrollHeight;
  let at = 0;
  const step = (now) => {
    longest = Math.max(longest, now - last);
    last = now;
    at += 400;
    scrollTo({ top: at, behavior: "instant" });
    at < end ? requestAnimationFrame(step) : resolve(longest / 1000);
  };
  requestAnimationFrame(step);
})"""
_ACTIONS = {
    "filter by prompt": "const f = document.forms[0]; f.elements.prompt.selectedIndex = 3; "
    "f.dispatchEvent(new Event('input'))",
    "filter by range": "const f = document.forms[0]; f.elements.prompt.value = ''; "
    "f.elements.low.value = 0.2; f.dispatchEvent(new Event('input'))",
    "sort by score": "const f = document.forms[0]; f.elements.order.value = 'down'; "
    "f.dispatchEvent(new Event('input'))",
    "turn a page": "document.getElementById('next').click()",
    "open a pair": "document.querySelector('.card').click()",
    "next pair": "document.getElementById('next-pair').click()",
}


def main() -> None:
    """Make the report, open it at both widths, and exit with 1 if something is slow or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all limits")
    parser.add_argument("--keep", help="folder to leave the workspace and its report in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(arguments.keep or place).resolve()
        page = make_report(folder, arguments.pairs)
        passed, failed = visit_all(page, folder, arguments.pairs, arguments.patience)
    print(f"gallery: {passed} passed, {failed} failed")
    sys.exit(failed > 0)


def make_report(folder: Path, pairs: int) -> str:
    """Write a workspace of so many pairs and its report; return the path of the page."""
    began = time.monotonic()
    run = Folder(str(folder / "runs" / "gallery"))
    _write_run(Folder(str(folder)), run, pairs)
    written = time.monotonic()
    report = write_report(run.url)
    size = Path(report.page).stat().st_size
    print(f"{report.pairs:,} pairs drawn in {written - began:.0f} s", flush=True)
    print(f"report made in {time.monotonic() - written:.0f} s, page of {size / 1e6:.1f} MB")
    return report.page


def visit_all(page: str, folder: Path, pairs: int, patience: float) -> tuple[int, int]:
    """Use the page at every width; print times, and return how many checks passed and failed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise RuntimeError("browser: got none, expected chromium or google-chrome in PATH")
    passed = failed = 0
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width in _WIDTHS.items():
            for what, value, right in _visit(browser, width, page, folder, pairs, patience):
                passed, failed = passed + right, failed + (not right)
                print(f"{name:<8} {what:<28} {value:>12}  {'' if right else 'FAILED'}")
        browser.close()
    return passed, failed


def _visit(
    browser: Browser, width: int, url: str, folder: Path, pairs: int, patience: float
) -> Iterator[tuple[str, str, bool]]:
    context = browser.new_context(viewport={"width": width, "height": 844})
    page, asked, said = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    times = {"open": _open(page, url)}
    read = sum("/thumbs/" in one for one in asked)
    for what, act in _ACTIONS.items():
        times[what] = float(page.evaluate(_TIMED, act))
        if what == "filter by prompt":
            shown = int(page.locator("#count").inner_text().split()[0].replace(",", ""))
            yield "pairs of a prompt", f"{shown:,}", shown == pairs // len(PROMPTS)
    page.keyboard.press("Escape")
    times["longest frame of a scroll"] = float(page.evaluate(_SCROLL))
    for what, seconds in times.items():
        yield what, f"{seconds:.3f} s", seconds <= patience * _LIMITS[what]
    yield "thumbnails read at opening", f"{read}", 0 < read <= _MOST_READ
    outside = [one for one in asked if not one.startswith((f"file://{folder}", "data:"))]
    yield "requests outside", f"{len(outside)}", not outside
    yield "messages in the console", f"{len(said)}", not said
    context.close()


def _open(page: Page, url: str) -> float:
    began = time.monotonic()
    page.goto(f"file://{url}", wait_until="domcontentloaded")
    page.locator(".card").first.wait_for()
    return time.monotonic() - began


def _write_run(workspace: Folder, run: Folder, pairs: int) -> None:
    random = np.random.default_rng(0)
    faces = -(-pairs // (len(PROMPTS) * len(ALPHAS)))
    names = [f"face-{number:04d}" for number in range(faces)]
    for number, name in enumerate(names):
        (workspace / "crops").write(f"{name}.png", _drawn(number, 0, 0.0))
        (workspace / "inversions/feed").write(f"{name}.png", _drawn(number, 0, 0.2))
    blank = dict.fromkeys(FACES.names) | {"status": "ok"}
    given = [blank | {"image_id": name, "source_uri": f"photos/{name}.jpg"} for name in names]
    ledger = Ledger(workspace / "faces", FACES)
    ledger.plan_shard(0, pa.table({"source_uri": [row["source_uri"] for row in given]}))
    ledger.commit(0, pa.Table.from_pylist(given, FACES))
    values = {
        "name": run.name,
        "workspace": workspace.url,
        "latents": f"{workspace.url}/latents/feed",
    }
    run.write("run.json", json.dumps(values).encode())
    rows = [*_rows(run, names, pairs, random)]
    ledger = Ledger(run, RESULTS)
    for shard, start in enumerate(range(0, len(rows), _SHARD)):
        table = pa.Table.from_pylist(rows[start : start + _SHARD], RESULTS)
        ledger.plan_shard(shard, table.select(EDITS.names))
        ledger.commit(shard, table)


def _rows(
    run: Folder, names: list[str], pairs: int, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for count in range(pairs):
        place, prompt = divmod(count, len(PROMPTS))
        number, alpha = place % len(names), ALPHAS[place // len(names) % len(ALPHAS)]
        picture = _drawn(number, prompt + 1, alpha)
        (run / "images").write(f"{count}.png", picture)
        row = dict.fromkeys(RESULTS.names) | {
            "pair_id": f"{count:016x}",
            "image_id": names[number],
            "neutral_prompt": "a face",
            "target_prompt": PROMPTS[prompt],
            "method": ("global", "mapper")[prompt % 2],
            "alpha": alpha,
            "status": "ok",
            "shard": count // _SHARD,
            "generator_fingerprint": "g",
            "code_version": "0",
            "output_uri": (run / "images").url_of(f"{count}.png"),
            "output_sha256": sha256(picture),
            "seconds": float(random.lognormal(-2, 0.3)),
            "clip_cosine_inversion": 0.2,
        }
        scores = random.uniform(0, 0.6, len(METRICS)).tolist()
        yield row | dict(zip(METRICS, scores, strict=True))


def _drawn(number: int, hat: int, alpha: float) -> bytes:
    """A face with a hat that grows with the strength, as PNG."""
    skin, cloth = (
        tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, 0.5, value))
        for hue, value in ((number * 0.618, 0.8), (hat * 0.37, 0.5))
    )
    image = Image.new("RGB", (_SIDE, _SIDE), (225, 220, 210))
    draw = ImageDraw.Draw(image)
    draw.ellipse((14, 10, 50, 60), fill=skin)
    for x in (25, 39):
        draw.ellipse((x - 3, 30, x + 3, 35), fill=(30, 30, 30))
    draw.line((25, 48 - alpha, 32, 48 + alpha, 39, 48 - alpha), fill=(120, 30, 40), width=2)
    if hat:
        draw.rectangle((12, 14 - 2 * alpha, 52, 18), fill=cloth)
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


if __name__ == "__main__":
    main()
