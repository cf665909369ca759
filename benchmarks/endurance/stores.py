"""Two thousand edits in a directory and on S3: as many rows out as in, and all of it equal.

The demo photographs are aligned, inverted and edited with the demo models, at many strengths, once
in a directory and once in a bucket of a real S3 API on loopback. Images, tables and arrays must be
the same. Run it with `python -m benchmarks.endurance.stores`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from importlib import resources

import pyarrow as pa
from prefect.testing.utilities import prefect_test_harness

from benchmarks.endurance.comparison import count_compared, differences
from benchmarks.endurance.faults import BUCKET, s3_server
from flows.embedded_server import end_server_with_command
from flows.pipeline import run_pipeline
from tasks.directions import RelevanceConfig
from tasks.runs import run_folder, run_ledger
from tasks.store.folders import Folder

_RELEVANCE = RelevanceConfig(num_images=2, num_statistics=500, mode="fast")


def edit_everywhere(roots: list[str], prompts: int) -> dict[str, int]:
    """Run the pipeline in every root with `prompts` rows a face; count what is not as it should."""
    tables = []
    for root in roots:
        lines = [f"a face with hat {i},global,{1 + i / 50:.2f},20" for i in range(prompts)]
        table = "\n".join(["target_prompt,method,alpha,num_channels", *lines])
        Folder(root).write("prompts.csv", table.encode())
        photos = str(resources.files("demo") / "photos")
        url = Folder(root).url_of("prompts.csv")
        run_pipeline(photos, url, f"{root}/ws", relevance=_RELEVANCE, batch_size=32, device="cpu")
        results = run_ledger(run_folder(f"{root}/ws", "run")).results()
        tables.append(pa.concat_tables(results).select(["pair_id", "status"]))
        faces = {row["image_id"] for row in _faces(f"{root}/ws")}
        statuses = dict(Counter(tables[-1]["status"].to_pylist()))
        print(f"{root}: {len(faces) * prompts} rows in, {len(tables[-1])} out, {statuses}")
    differing = [line for root in roots[1:] for line in differences(f"{roots[0]}/ws", f"{root}/ws")]
    for line in differing[:10]:
        print(f"  {line}")
    print(f"{len(differing)} differences, compared {count_compared(f'{roots[0]}/ws')}")
    rows = len(faces) * prompts
    return {
        "rows out are rows in": sum(len(table) != rows for table in tables),
        "no row comes twice": sum(len(set(t["pair_id"].to_pylist())) != rows for t in tables),
        "every row is edited": sum({*t["status"].to_pylist()} != {"ok"} for t in tables),
        "all stores hold the same": len(differing),
    }


def _faces(workspace: str) -> list[dict[str, str]]:
    from tasks.photos.faces import faces_table

    rows: list[dict[str, str]] = faces_table(workspace).to_pylist()
    return [row for row in rows if row["status"] == "ok"]


def main() -> None:
    """Run the program."""
    end_server_with_command()
    parser = argparse.ArgumentParser(description="The same edits in a directory and on S3.")
    parser.add_argument("--prompts", type=int, default=154, help="rows for each of 13 faces")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(),
        prefect_test_harness(server_startup_timeout=280),
    ):
        failed = edit_everywhere([folder, f"s3://{BUCKET}/stores"], arguments.prompts)
    wrong = [name for name, count in failed.items() if count]
    for name in wrong:
        print(f"FAILED {name}")
    print(f"stores: {len(failed) - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
