"""Memory, and time a row, stay flat from ten thousand to a million manifest rows.

Every stage runs in a process of its own, at every size, on a workspace with one face for ten rows,
and tells its peak (VmHWM). A dummy stands in for the networks of an edit: it fills rows with
numbers and writes no image. Everything else is the product's own: faces, latents, manifests, the
frozen plans, the ledger, commits, results, and the report.

A stage passes if its peak at the largest size is below 1.3 times that at the smallest, or if it
grew by less than 100 bytes a row between the two largest: commands that load no networks are small,
so that the first says little of them. What grows, per row: 12 to 40 bytes of an index that finds
ids which come twice, and about 60 bytes in the report, which reads its numbers column by column.
The time that a row takes at the largest size must be below 1.3 times that at the second smallest:
at the smallest it is mostly the start.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = [10_000, 100_000, 1_000_000]
PROMPTS, ALPHAS = [f"a face with hat number {i}" for i in range(5)], [2.0, 4.0]
_SHARD, _BATCH = 2_048, 512
_LARGEST_RATIO, _MOST_BYTES = 1.3, 100
_FACES_SHARD = 4_096


def main() -> None:
    """Measure all stages at all sizes and exit with 1 if one grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--without-prefect", action="store_true", help="call the tasks themselves")
    parser.add_argument("--stage", nargs=3, metavar=("STAGE", "FOLDER", "ROWS"))
    arguments = parser.parse_args()
    if arguments.stage:
        stage, folder, rows = arguments.stage
        _do(stage, Path(folder), int(rows), not arguments.without_prefect)
        return
    failed = volume(arguments.rows, with_prefect=not arguments.without_prefect)
    print(f"volume: {2 * len(_STAGES) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


def volume(sizes: list[int], with_prefect: bool) -> int:
    """Measure, print a table, and return how many stages grow."""
    told: dict[str, list[dict[str, float]]] = {stage: [] for stage in _STAGES}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for stage in ("prepare", *_STAGES):
                command = [sys.executable, "-m", "benchmarks.endurance.volume"]
                command += ["--stage", stage, folder, str(rows)]
                command += [] if with_prefect else ["--without-prefect"]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
                facts = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{stage:<9} {rows:>9,} rows: peak {facts['peak']:6.0f} MB, "
                    f"{1000 * facts['seconds'] / rows:6.2f} s per 1,000 rows"
                )
                sys.stdout.flush()
                if stage in told:
                    told[stage].append(facts)
    return _verdict(sizes, told)


def _verdict(sizes: list[int], told: dict[str, list[dict[str, float]]]) -> int:
    failed = 0
    print(f"\n{'stage':<9} " + " ".join(f"{rows:>12,}" for rows in sizes) + "  ratio  bytes a row")
    for stage, measured in told.items():
        ratio = measured[-1]["peak"] / measured[0]["peak"]
        grown = 2**20 * (measured[-1]["peak"] - measured[-2]["peak"]) / (sizes[-1] - sizes[-2])
        peaks = " ".join(f"{facts['peak']:>9.0f} MB" for facts in measured)
        flat = ratio < _LARGEST_RATIO or grown < _MOST_BYTES
        failed += not flat
        verdict = "flat" if flat else f"GROWS, expected {_LARGEST_RATIO} or {_MOST_BYTES} bytes"
        print(f"{stage:<9} {peaks}  {ratio:5.2f}  {grown:11.0f}  {verdict}")
    return failed + _verdict_on_time(sizes, told)


def _verdict_on_time(sizes: list[int], told: dict[str, list[dict[str, float]]]) -> int:
    failed = 0
    print(f"\n{'stage':<9} " + " ".join(f"{rows:>12,}" for rows in sizes) + "  ms a row")
    for stage, measured in told.items():
        each = [1000 * f["seconds"] / rows for rows, f in zip(sizes, measured, strict=True)]
        ratio = each[-1] / each[min(1, len(each) - 1)]
        flat = ratio < _LARGEST_RATIO
        failed += not flat
        verdict = "constant" if flat else f"GROWS, expected below {_LARGEST_RATIO}"
        times = " ".join(f"{value:>12.3f}" for value in each)
        print(f"{stage:<9} {times}  {ratio:5.2f}  {verdict}")
    return failed


def _do(stage: str, folder: Path, rows: int, with_prefect: bool) -> None:
    began = time.monotonic()
    if stage == "prepare":
        _prepare(folder, rows)
    else:
        _STAGES[stage](folder, rows, with_prefect)
    facts = {"seconds": time.monotonic() - began, "peak": _peak()}
    print(json.dumps(facts))


def _peak() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status: got no VmHWM, expected Linux")


def _prepare(folder: Path, rows: int) -> None:
    """Write a workspace of faces and their latents, as alignment and inversion leave them."""
    import pyarrow as pa

    from benchmarks.endurance.small_bundle import write_small_bundle
    from manifests.schemas import FACES
    from tasks.latents import FACE_UNITS, LatentStore, latent_folder
    from tasks.models import open_models
    from tasks.photos.faces import faces_ledger
    from tasks.photos.listing import PHOTOS
    from tasks.store.folders import Folder

    workspace = str(folder / "ws")
    models = open_models(write_small_bundle(folder), "cpu")
    faces = faces_ledger(workspace)
    store = LatentStore(latent_folder(Folder(workspace), models))
    store.create(models, _FACES_SHARD)
    ids = [f"face-{i:07d}" for i in range(rows // (len(PROMPTS) * len(ALPHAS)))]
    for shard, start in enumerate(range(0, len(ids), store.shard_size)):
        part = ids[start : start + store.shard_size]
        photos = {"image_id": part, "source_uri": [f"{folder}/photos/{name}.jpg" for name in part]}
        faces.plan_shard(shard, pa.table(photos, PHOTOS))
        found = dict.fromkeys(FACES.names) | {"status": "ok", "crop_sha256": "0" * 64}
        given = [{"image_id": name, "source_uri": uri} for name, uri in zip(*photos.values())]  # noqa: B905
        faces.commit(shard, pa.Table.from_pylist([found | one for one in given], FACES))
        units = {"image_id": part, "crop_uri": [""] * len(part), "w_plus_uri": [""] * len(part)}
        store.ledger.plan_shard(shard, pa.table(units, FACE_UNITS))
        store.grow()
        _write_latents(store, shard, part)


def _write_latents(store: Any, shard: int, part: list[str]) -> None:
    import numpy as np
    import pyarrow as pa

    from manifests.schemas import LATENTS
    from tasks.latents import Latents

    draw = np.random.default_rng(shard)
    shapes = {name: getattr(store.none(), name).shape[1:] for name in Latents.__dataclass_fields__}
    values = {
        name: draw.normal(size=(len(part), *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    nothing = dict.fromkeys(LATENTS.names) | {"status": "ok", "source_sha256": ""}
    first = shard * store.shard_size
    rows = [nothing | {"image_id": name, "row": first + i} for i, name in enumerate(part)]
    store.write(shard, Latents(**values), range(len(part)), rows)
    store.ledger.commit(shard, pa.Table.from_pylist(rows, LATENTS))


def _build(folder: Path, rows: int, _: bool) -> None:
    from flows.manifest_commands import build_edit_manifest

    summary = build_edit_manifest(
        str(folder / "ws"), str(folder / "edits.parquet"), target=PROMPTS, alpha=ALPHAS
    )
    _require(summary.counts["rows"], rows)


def _validate(folder: Path, rows: int, _: bool) -> None:
    from flows.manifest_commands import validate_edit_manifest

    summary = validate_edit_manifest(str(folder / "edits.parquet"), workspace=str(folder / "ws"))
    _require(summary.counts["sound"], rows)


def _freeze(folder: Path, rows: int, _: bool) -> None:
    from tasks.frozen import freeze_manifest
    from tasks.manifest_files import Manifest

    manifest = Manifest(str(folder / "edits.parquet"))
    _require(freeze_manifest(_run(folder), manifest, _SHARD), rows)


def _edit(folder: Path, rows: int, with_prefect: bool) -> None:
    from tasks.edits import Editor

    Editor.edit = _dummy_edit  # type: ignore[method-assign, assignment]
    if with_prefect:
        from flows.edit import edit_dataset

        edit_dataset(
            str(folder / "ws"),
            str(folder / "edits.parquet"),
            run="volume",
            models=str(folder / "bundle.json"),
            relevance=_relevance(),
            device="cpu",
            batch_size=_BATCH,
            shard_size=_SHARD,
        )
    else:
        _edit_without_prefect(folder)
    from tasks.runs import run_ledger

    ledger = run_ledger(_run(folder))
    _require(sum(len(table) for table in ledger.results()), rows)


def _edit_without_prefect(folder: Path) -> None:
    from tasks.edits import edit_pairs_shard
    from tasks.runs import open_run, run_ledger, settings_for

    run, bundle = _run(folder), str(folder / "bundle.json")
    open_run(run, settings_for(str(folder / "ws"), bundle, "cpu", "png", "files"))
    for shard in run_ledger(run).pending():
        edit_pairs_shard(run.url, "cpu", shard, batch_size=_BATCH)


def _dummy_edit(_: Any, batch: Any) -> list[Any]:
    """Fill in rows as an edit does, without networks and images."""
    import numpy as np

    from manifests.schemas import METRICS
    from tasks.store.folders import sha256

    names = [*METRICS, "clip_cosine_inversion"]
    draws = np.random.default_rng(len(batch.rows)).uniform(0, 1, (len(batch.rows), len(names)))
    for row, values in zip(batch.rows, draws.tolist(), strict=True):
        digest = sha256(row["pair_id"].encode())
        row |= dict(zip(names, values, strict=True))
        row |= {"edit_key": digest, "output_sha256": digest, "status": "ok", "seconds": 0.1}
        row |= {"output_uri": f"/nowhere/images/{row['image_id']}/{row['pair_id']}.png"}
    return []


def _evaluate(folder: Path, rows: int, _: bool) -> None:
    from tasks.report.run_report import write_report
    from tasks.report.scoring import Criteria

    # Fewer resamples than a report has, which take time and no memory.
    _require(write_report(_run(folder).url, Criteria(resamples=50)).pairs, rows)


def _run(folder: Path) -> Any:
    from tasks.runs import run_folder

    return run_folder(str(folder / "ws"), "volume")


def _relevance() -> Any:
    from tasks.directions import RelevanceConfig

    return RelevanceConfig(num_images=1, num_statistics=50, mode="fast")


def _require(got: int, expected: int) -> None:
    if got != expected:
        raise RuntimeError(f"rows: got {got:,}, expected {expected:,}")


_STAGES: dict[str, Callable[[Path, int, bool], None]] = {
    "build": _build,
    "validate": _validate,
    "freeze": _freeze,
    "edit": _edit,
    "evaluate": _evaluate,
}


if __name__ == "__main__":
    main()
