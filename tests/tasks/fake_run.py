"""A run as the edit stage leaves it, with drawn faces and made-up scores."""

import io
import json
import math
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
from PIL import Image, ImageDraw

from manifests.schemas import EDITS, FACES, LATENTS, RESULTS
from tasks.provenance import png_bytes
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger

HOSTILE = (
    '<img src=x onerror="alert(1)">\n</script><script>alert(2)</script> \u202eright\u202c 😀 $x^2$'
    " שלום مرحبا {{ 7 * 7 }} " + "w" * 5_000 + " and so on" * 500
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


@dataclass(frozen=True)
class FakeRun:
    """A run as the edit stage leaves it, with drawn faces and made-up scores."""

    workspace: Folder
    num_faces: int = 5
    side: int = 64
    plan: list[tuple[str, str, tuple[float, ...]]] = field(default_factory=lambda: PLAN)
    seed: int = 0
    tar: bool = False
    name: str = "autumn"
    models: str = "models.json"
    better: float = 0.0
    copies: bool = False

    @property
    def folder(self) -> Folder:
        return self.workspace / "runs" / self.name

    def write(self, waiting: int = 0) -> None:
        rows = [*self._rows()]
        values = {
            "name": self.name,
            "workspace": self.workspace.url,
            "models": self.models,
            "latents": (self.workspace / "latents/feed").url,
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
            self.workspace.write(f"inversions/feed/face-{number}.png", inversion)
            digests = {"crop_sha256": sha256(crop)}
            digests |= {"source_sha256": sha256(b"photo" if self.copies else crop)}
            rows.append(_face(f"face-{number}", "ok", **digests))
        known = [row["image_id"] for row in rows]
        blank = dict.fromkeys(LATENTS.names) | {"status": "ok", "source_sha256": ""}
        latents = [blank | {"image_id": name, "row": row} for row, name in enumerate(known)]
        store = Ledger(self.workspace / "latents/feed", LATENTS)
        store.plan_shard(0, pa.table({"image_id": known}))
        store.commit(0, pa.Table.from_pylist(latents, LATENTS))
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
                        row["directional_edit"] += math.copysign(self.better, row["alpha"])
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
        return png_bytes(image.resize((side, side), Image.Resampling.LANCZOS), {})


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


def _tar(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return sink.getvalue()
