"""Photographs become crops and rows: one row a photograph and face, whatever the bytes are."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import tasks.photos.crops
import tasks.photos.faces
import tasks.store.folders
from styleclip_ops.alignment import align_face
from styleclip_ops.errors import ConfigError
from tasks.checks.verification import check_faces
from tasks.photos.alignment import (
    AlignmentConfig,
    align_photos_shard,
    faces_not_mended,
    plan_photos,
    require_same_alignment,
    shards_to_align,
)
from tasks.photos.crops import NOT_MENDED, cut_face
from tasks.photos.decoding import PhotoError, fetch_photo
from tasks.photos.detection import face_detector
from tasks.photos.faces import copied_photos, faces_ledger, faces_table, outdated_faces
from tasks.photos.listing import distinct_id, list_photos
from tasks.photos.listing_table import ListingError
from tasks.provenance import CODE_VERSION, png_bytes, read_facts
from tasks.store.folders import Folder, read_url, sha256, split_url
from tasks.store.ledger import COMMITS, Ledger, LedgerError

from published import golden

PHOTOS = Path(__file__).parents[2] / "demo" / "photos"


def upload(folder: Folder, *names: str) -> Folder:
    for name in names:
        folder.write(name, (PHOTOS / name).read_bytes())
    return folder


def align(workspace: str, source: str, **options) -> list[dict]:
    parameters = {"crop_size": 64, "faces": "largest", "minimum_face": 100} | options
    for shard in plan_photos(workspace, source, 2):
        align_photos_shard(workspace, shard, **parameters)
    return faces_table(workspace).to_pylist()


def test_photographs_are_known_whatever_way_leads_to_them(tmp_path, monkeypatch):
    upload(Folder(str(tmp_path / "here/p")), "astronaut.png")
    monkeypatch.chdir(tmp_path / "here")
    (row,) = align("../here/ws", "p")
    assert row["source_uri"] == str(tmp_path / "here/p/astronaut.png")
    assert row["crop_uri"] == str(tmp_path / "here/ws/crops/astronaut.png")
    ways = (
        "../here/p",
        "./p/",
        "p/../p/astronaut.png",
        "../here/p/*.png",
        f"{tmp_path}/here/../here/p",
    )
    for source in ways:
        assert align("ws", source) == [row]
    # What a workspace holds itself is no photograph.
    assert align("../here/ws", "../here/../here") == [row]


def test_photographs_without_a_face_are_looked_at_again_when_asked(root):
    photos = upload(Folder(f"{root}/in"), "astronaut.png", "nobody.jpg", "not-a-picture.jpg")
    workspace = f"{root}/workspace"
    before = {row["image_id"]: row for row in align(workspace, photos.url)}
    photos.write("not-a-picture.jpg", (PHOTOS / "astronaut.png").read_bytes())
    assert plan_photos(workspace, photos.url, 2, ["no_face"]) == [0]
    assert plan_photos(workspace, photos.url, 2, ["unreadable", "no_face"]) == [0, 1]
    retry = {"retry": ["unreadable"]}
    assert align_photos_shard(workspace, 0, 64, "largest", 100, **retry) == {}
    assert shards_to_align(faces_ledger(workspace), ["unreadable"]) == [1]
    assert align_photos_shard(workspace, 1, 64, "largest", 100, **retry) == {"ok": 1}
    after = {row["image_id"]: row for row in faces_table(workspace).to_pylist()}
    assert after.pop("not-a-picture")["quad"] == before["astronaut"]["quad"]
    assert before.pop("not-a-picture")["status"] == "unreadable"
    assert after == before
    assert plan_photos(workspace, photos.url, 2, ["unreadable"]) == []


class SignedLinks(BaseHTTPRequestHandler):
    """Photographs behind links with a signature; one is kept from us, one may be mended."""

    mended = False
    # What links hold that have not expired.
    valid = ""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        broken = name == "broken.jpg" and not self.mended
        content = b"no picture" if broken else (PHOTOS / "astronaut.png").read_bytes()
        kept = name == "secret.jpg" or self.valid not in self.path
        self.send_response(403 if kept else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_photographs_behind_signed_links_are_looked_at_again(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), SignedLinks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ("whole", "broken", "secret")
    links = [
        f"http://127.0.0.1:{server.server_port}/{n}.jpg?X-Amz-Signature=hunter2" for n in names
    ]
    listing = tmp_path / "list.csv"
    listing.write_text("".join(f"{row}\n" for row in ("path", *links)))
    workspace = str(tmp_path / "ws")
    rows = {row["image_id"]: row for row in align(workspace, str(listing))}
    assert {name: row["status"] for name, row in rows.items()} == {
        "whole": "ok",
        "broken": "unreadable",
        "secret": "unreadable",
    }
    assert "hunter2" not in str(rows)
    assert [*check_faces(faces_ledger(workspace))] == []
    SignedLinks.mended = True
    for shard in shards_to_align(faces_ledger(workspace), ["unreadable"]):
        align_photos_shard(workspace, shard, 64, "largest", 100, ["unreadable"])
    server.shutdown()
    server.server_close()
    assert Counter(row["status"] for row in faces_table(workspace).to_pylist()) == {
        "ok": 2,
        "unreadable": 1,
    }


def test_every_photograph_has_its_row_on_every_store(root):
    photos = upload(Folder(f"{root}/in"), "astronaut.png", "nobody.jpg", "not-a-picture.jpg")
    workspace = f"{root}/workspace"
    assert plan_photos(workspace, photos.url, 2) == [0, 1]
    assert align_photos_shard(workspace, 0, 64, "largest", 100) == {"ok": 1, "no_face": 1}
    assert align_photos_shard(workspace, 1, 64, "largest", 100) == {"unreadable": 1}
    assert plan_photos(workspace, photos.url, 2) == []
    found, nobody, text = faces_table(workspace).to_pylist()

    content = read_url(found["crop_uri"])
    assert (split_url(found["crop_uri"])[1], sha256(content)) == (
        "astronaut.png",
        found["crop_sha256"],
    )
    assert found["crop_uri"] == Folder(workspace).url_of("crops/astronaut.png")
    quad = np.reshape(found["quad"], (4, 2))
    np.testing.assert_allclose(quad, golden("astronaut")["det0_quad"].numpy(), atol=2)
    assert (found["face_index"], found["num_faces"], found["error"]) == (0, 1, None)
    assert (found["width"], found["height"]) == (512, 512)
    assert found["score"] > 0.8
    source = (PHOTOS / "astronaut.png").read_bytes()
    assert found["source_sha256"] == sha256(source)
    assert read_facts(content) == {
        "kind": "crop",
        "image_id": "astronaut",
        "source_sha256": sha256(source),
        "quad": quad.tolist(),
        "code_version": CODE_VERSION,
    }
    assert (nobody["status"], nobody["num_faces"], nobody["width"]) == ("no_face", 0, 512)
    assert nobody["error"] == "found no face of about 91 px or more"
    assert (text["status"], text["num_faces"], text["width"]) == ("unreadable", None, None)
    assert "of something else, expected an image" in text["error"]
    for row in (nobody, text):
        assert (row["face_index"], row["quad"], row["crop_uri"]) == (None, None, None)


def test_the_crop_is_that_of_the_published_recipe(tmp_path):
    upload(Folder(str(tmp_path / "in")), "astronaut.png")
    (row,) = align(str(tmp_path), str(tmp_path / "in"), crop_size=256, minimum_face=60)
    crop = np.int16(Image.open(row["crop_uri"]))
    difference = np.abs(crop - golden("astronaut")["det0_aligned_e4e_256"].numpy())
    # The quad may differ by a pixel.
    assert difference.mean() < 3


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        ("largest", {("pair-1", "ok"): 1, ("person-4", "ok"): 1}),
        ("all", {("pair-1", "ok"): 1, ("pair-1.face1", "ok"): 1, ("person-4", "ok"): 1}),
        ("reject_several", {("pair-1", "several_faces"): 1, ("person-4", "ok"): 1}),
    ],
)
def test_the_policy_decides_on_several_faces(tmp_path, faces, expected):
    photos = upload(Folder(str(tmp_path / "in")), "pair-1.jpg", "person-4.jpg")
    rows = align(str(tmp_path), photos.url, faces=faces, minimum_face=280)
    assert Counter((row["image_id"], row["status"]) for row in rows) == expected
    pair = [row for row in rows if "pair" in row["image_id"]]
    assert {row["num_faces"] for row in pair} == {2}
    if faces == "all":
        assert [row["face_index"] for row in pair] == [0, 1]
        quads = [np.reshape(row["quad"], (4, 2)) for row in pair]
        sides = [np.linalg.norm(quad[3] - quad[0]) for quad in quads]
        assert sides[0] > sides[1]
        crops = [np.int16(Image.open(row["crop_uri"])) for row in pair]
        assert np.abs(crops[0] - crops[1]).mean() > 20
    if faces == "reject_several":
        assert pair[0]["error"] == "got 2 faces, expected one"
        assert pair[0]["quad"] is None


def test_bystanders_below_the_limit_do_not_reject_a_photograph(tmp_path):
    photos = upload(Folder(str(tmp_path / "in")), "pair-1.jpg")
    # The two quads have sides of about 340 and 320 px.
    (row,) = align(str(tmp_path), photos.url, faces="reject_several", minimum_face=330)
    assert (row["status"], row["num_faces"], row["face_index"]) == ("ok", 2, 0)


def test_a_face_below_the_limit_is_too_small(tmp_path):
    photos = upload(Folder(str(tmp_path / "in")), "person-1.jpg")
    (row,) = align(str(tmp_path), photos.url, minimum_face=400)
    assert (row["status"], row["num_faces"], row["crop_uri"]) == ("too_small", 1, None)
    assert row["error"].startswith("got a quad of 1")
    assert row["error"].endswith(" px, expected 400")
    assert row["quad"] is not None
    assert not (tmp_path / "crops").exists()


def test_no_bytes_stop_a_shard(tmp_path):
    picture = (PHOTOS / "person-4.jpg").read_bytes()
    files = {
        "cut.jpg": picture[:9000],
        "empty.jpg": b"",
        "text.png": b"no picture",
        "bomb.gif": b"GIF89a" + b"\xff" * 7 + b"\0" * 20,
        "mislabelled.png": picture,
        "thin.png": png_bytes(Image.new("RGB", (4000, 1)), {}),
        "dot.png": png_bytes(Image.new("RGBA", (1, 1)), {}),
    }
    for name, content in files.items():
        Folder(str(tmp_path / "in")).write(name, content)
    listing = tmp_path / "in" / "list.csv"
    names = [*files, "missing.jpg", "text.png/inside.jpg"]
    listing.write_text("\n".join(["path", *names]))
    rows = align(str(tmp_path), str(listing))
    assert len(rows) == len(names)
    statuses = {Path(row["source_uri"]).name: row["status"] for row in rows}
    expected = dict.fromkeys((Path(name).name for name in names), "unreadable")
    assert statuses == expected | {
        "mislabelled.png": "ok",
        "thin.png": "no_face",
        "dot.png": "no_face",
    }
    assert all((row["error"] is None) == (row["status"] == "ok") for row in rows)


def test_crops_carry_nothing_private(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "home of a person"
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    (tmp_path / "in").mkdir()
    with Image.open(PHOTOS / "person-4.jpg") as photo:
        photo.save(tmp_path / "in" / "a.jpg", exif=exif, comment="home of a person", quality=90)
    (row,) = align(str(tmp_path), str(tmp_path / "in"))
    with Image.open(row["crop_uri"]) as crop:
        assert set(crop.info) == {"styleclip"}
        assert len(crop.getexif()) == 0
    assert b"home of" not in Path(row["crop_uri"]).read_bytes()


def test_a_fault_of_the_store_leaves_the_shard_pending(tmp_path, monkeypatch):
    photos = upload(Folder(str(tmp_path / "in")), "person-4.jpg", "not-a-picture.jpg")
    workspace = str(tmp_path)
    keep = tasks.photos.alignment.keep_picture

    def fail(*_):
        raise TimeoutError("the store does not answer")

    monkeypatch.setattr(tasks.photos.alignment, "keep_picture", fail)
    plan_photos(workspace, photos.url, 9)
    with pytest.raises(TimeoutError, match="does not answer"):
        align_photos_shard(workspace, 0, 64, "largest", 100)
    assert faces_ledger(workspace).pending() == [0]
    assert len(faces_table(workspace)) == 0
    monkeypatch.setattr(tasks.photos.alignment, "keep_picture", keep)
    assert align_photos_shard(workspace, 0, 64, "largest", 100) == {"ok": 1, "unreadable": 1}


def test_new_photographs_are_planned_and_old_ones_keep_their_ids(tmp_path):
    folder, workspace = Folder(str(tmp_path / "in")), str(tmp_path)
    upload(folder, "not-a-picture.jpg")
    (first,) = align(workspace, folder.url)
    folder.write("not-a-picture.png", b"text too")
    second = align(workspace, folder.url)
    assert [row["image_id"] for row in second] == [
        "not-a-picture",
        distinct_id("not-a-picture", "not-a-picture.png"),
    ]
    assert second[0] == first


def test_another_folder_s_photograph_of_the_same_name_gets_another_id(tmp_path):
    for name in ("one", "two"):
        Folder(str(tmp_path / name)).write("a.jpg", name.encode())
    align(str(tmp_path), str(tmp_path / "one"))
    rows = align(str(tmp_path), str(tmp_path / "two"))
    uri = str(tmp_path / "two" / "a.jpg")
    assert [row["image_id"] for row in rows] == ["a", distinct_id("a", uri)]


def test_a_listing_cannot_give_an_id_that_another_photograph_has(tmp_path):
    Folder(str(tmp_path / "in")).write("a.jpg", b"x")
    align(str(tmp_path), str(tmp_path / "in"))
    (tmp_path / "list.csv").write_text("image_id,path\na,other.jpg\n")
    with pytest.raises(
        ListingError, match="image_id a: got .*other.jpg, expected .*in/a.jpg, which"
    ):
        plan_photos(str(tmp_path), str(tmp_path / "list.csv"), 2)


def test_other_parameters_are_refused_and_the_difference_named(tmp_path):
    Folder(str(tmp_path / "in")).write("a.jpg", b"x")
    align(str(tmp_path), str(tmp_path / "in"))
    with pytest.raises(ConfigError, match="crop_size: got 128, expected 64 as for the faces that"):
        align_photos_shard(str(tmp_path), 0, 128, "largest", 100)
    with pytest.raises(ConfigError, match="faces: got 'all', expected 'largest'"):
        align_photos_shard(str(tmp_path), 0, 64, "all", 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 8}, "crop_size: got 8, expected an integer from 16 to 4096"),
        ({"faces": "best"}, "faces: got 'best', expected one of"),
        ({"minimum_face": float("nan")}, "minimum_face: got nan, expected a number of pixels"),
        ({"minimum_face": -1.0}, "minimum_face: got -1.0"),
    ],
)
def test_parameters_outside_their_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AlignmentConfig(**options)


@pytest.mark.parametrize(("scale", "size"), [(1, 256), (3, 64), (3, 256)])
def test_cutting_a_face_out_first_changes_nothing_to_see(scale, size):
    photo = Image.open(PHOTOS / "grace_hopper.jpg").convert("RGB")
    photo = photo.resize((photo.width * scale, photo.height * scale), Image.Resampling.BICUBIC)
    (face,) = face_detector().find_faces(photo, 250 * scale)
    whole = np.int16(align_face(photo, face.landmarks, size))
    assert np.abs(np.int16(cut_face(photo, face.quad, size)) - whole).mean() < 1


def test_damaged_crops_are_cut_again_as_they_were_or_stay_as_they_are(root):
    names = ("astronaut.png", "person-4.jpg", "person-2.jpg", "grace_hopper.jpg")
    photos, workspace = upload(Folder(f"{root}/in"), *names), f"{root}/ws"
    before = align(workspace, photos.url)
    crops = {row["image_id"]: row["crop_uri"] for row in before}
    whole = {name: read_url(uri) for name, uri in crops.items()}

    def mend() -> Counter[str]:
        mending = {"redo_damaged": True}
        return sum(
            (
                Counter(align_photos_shard(workspace, shard, 64, "largest", 100, **mending))
                for shard in faces_ledger(workspace).plans()
            ),
            Counter(),
        )

    assert mend() == {}
    folder = Folder(workspace) / "crops"
    folder.remove("astronaut.png")
    folder.write("person-4.png", whole["person-4"][:-20])
    folder.write("person-2.png", whole["person-4"])
    # Another face under the same name would not be this one.
    photos.write("person-2.jpg", (PHOTOS / "person-4.jpg").read_bytes())
    assert mend() == {"ok": 2, NOT_MENDED: 1}
    replaced = photos.url_of("person-2.jpg")
    wanted = [("person-2", replaced, "got another photograph than was aligned")]
    assert [*faces_not_mended(workspace, faces_ledger(workspace).plans())] == wanted
    assert read_url(crops["person-2"]) == whole.pop("person-4")
    # Nothing is committed of what stays as it is.
    commits = (faces_ledger(workspace).folder / COMMITS).names()
    assert mend() == {NOT_MENDED: 1}
    assert (faces_ledger(workspace).folder / COMMITS).names() == commits
    photos.write("person-2.jpg", (PHOTOS / "person-2.jpg").read_bytes())
    assert mend() == {"ok": 1}
    assert mend() == {}
    assert all(read_url(crops[name]) == content for name, content in whole.items())
    after = faces_table(workspace).to_pylist()
    assert sorted(after, key=str) == sorted(before, key=str)


def test_photographs_that_are_here_twice_are_found(tmp_path):
    first, again = (upload(Folder(str(tmp_path / name)), "person-4.jpg") for name in ("in", "new"))
    workspace = str(tmp_path / "ws")
    assert len(align(workspace, first.url)) == 1
    assert copied_photos(workspace, [0]) == {}
    assert len(align(workspace, again.url)) == 2
    one, other = again.url_of("person-4.jpg"), first.url_of("person-4.jpg")
    assert copied_photos(workspace, [1]) == {one: other}
    # Of three that are equal, two are copies.
    for name in ("b.jpg", "c.jpg"):
        shutil.copy(one, again.url_of(name))
    align(workspace, again.url)
    assert len(copied_photos(workspace, [0, 1, 2])) == 3


def test_the_photographs_of_a_folder_by_another_path_are_known(tmp_path):
    photos, workspace = upload(Folder(str(tmp_path / "in")), "person-4.jpg"), str(tmp_path / "ws")
    rows = align(workspace, photos.url)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    assert align(workspace, f"{tmp_path}/linked") == rows
    assert plan_photos(workspace, f"{tmp_path}/linked", 8) == []
    # What is new there is aligned, and of two links to one photograph each is one of its own.
    upload(photos, "astronaut.png")
    (tmp_path / "in" / "same.jpg").symlink_to("person-4.jpg")
    names = {row["image_id"] for row in align(workspace, f"{tmp_path}/linked")}
    assert names == {"person-4", "astronaut", "same"}
    assert plan_photos(workspace, photos.url, 8) == []


def test_photographs_that_are_gone_or_were_replaced_are_known(root, tmp_path):
    photos = Folder(root) / "in"
    upload(photos, "person-4.jpg", "person-1.jpg", "person-2.jpg")
    workspace = str(tmp_path / "ws")
    align(workspace, photos.url)
    assert outdated_faces(workspace, photos.url) == ([], [])
    photos.remove("person-1.jpg")
    for name, content in (("person-2.jpg", "person-4.jpg"), ("person-4.jpg", "person-4.jpg")):
        photos.write(name, photos.read(content))
        if photos.is_local:
            # As `cp --preserve` leaves it.
            os.utime(photos.url_of(name), (0, 0))
    assert outdated_faces(workspace, photos.url) == (["person-1"], ["person-2"])
    # Other inputs have other photographs.
    assert outdated_faces(workspace, str(PHOTOS)) == ([], [])
    assert outdated_faces(workspace, photos.url_of("person-2.jpg")) == ([], [])
    assert outdated_faces(workspace, photos.url_of("*.jpg")) == ([], [])
    moved = shutil.move(workspace, tmp_path / "moved")
    assert outdated_faces(str(moved), photos.url) == (["person-1"], ["person-2"])


def test_only_photographs_that_came_since_are_read(tmp_path, monkeypatch):
    photos = upload(Folder(str(tmp_path / "in")), "person-4.jpg", "person-1.jpg")
    workspace, read = str(tmp_path / "ws"), []
    past = time.time() - 60
    monkeypatch.setattr(tasks.store.folders, "_put_there", lambda file: past)
    monkeypatch.setattr(tasks.photos.faces, "read_url", lambda uri: read.append(uri) or b"")
    align(workspace, photos.url)
    assert outdated_faces(workspace, photos.url) == ([], [])
    assert read == []
    monkeypatch.setattr(tasks.store.folders, "_put_there", lambda file: time.time())
    assert outdated_faces(workspace, photos.url) == ([], ["person-1", "person-4"])
    assert len(read) == 2


def test_a_crop_depends_on_the_photograph_alone(tmp_path):
    photos = upload(Folder(str(tmp_path / "in")), "person-4.jpg", "pair-1.jpg")
    rows = [align(str(tmp_path / name), photos.url) for name in ("one", "two")]
    digests = [[row["crop_sha256"] for row in found] for found in rows]
    assert digests[0] == digests[1]
    settings = json.loads((tmp_path / "one" / "faces" / "settings.json").read_text())
    assert settings == {"crop_size": 64, "faces": "largest", "minimum_face": 100.0}


def test_a_late_writer_does_not_replace_a_committed_crop(tmp_path, monkeypatch):
    photos, workspace = upload(Folder(str(tmp_path / "in")), "astronaut.png"), str(tmp_path / "ws")
    (row,) = align(workspace, photos.url)

    def cut_on_other_hardware(*values):
        crop = cut_face(*values)
        crop.putpixel((0, 0), tuple(level ^ 1 for level in crop.getpixel((0, 0))))
        return crop

    monkeypatch.setattr(tasks.photos.crops, "cut_face", cut_on_other_hardware)
    monkeypatch.setattr(Ledger, "is_committed", lambda *_: False)
    # Its row is not counted: in the end there is one.
    assert align_photos_shard(workspace, 0, 64, "largest", 100) == {}
    assert faces_table(workspace).to_pylist() == [row]
    assert sha256(read_url(row["crop_uri"])) == row["crop_sha256"]


@pytest.mark.parametrize("last", ["mine", "its"])
def test_of_two_that_cut_a_crop_again_the_rows_are_of_what_is_there(tmp_path, monkeypatch, last):
    photos, workspace = upload(Folder(str(tmp_path / "in")), "astronaut.png"), str(tmp_path / "ws")
    (row,) = align(workspace, photos.url)
    Folder(workspace).remove("crops/astronaut.png")
    commit, hardware = Ledger.commit, iter(range(9))

    def cut_on_some_hardware(*values):
        crop = cut_face(*values)
        crop.putpixel((0, 0), (next(hardware), 0, 0))
        return crop

    def commit_after_another(*values):
        mine = read_url(row["crop_uri"])
        monkeypatch.setattr(Ledger, "commit", commit)
        assert align_photos_shard(workspace, 0, 64, "largest", 100, redo_damaged=True) == {"ok": 1}
        if last == "mine":
            Folder(workspace).write("crops/astronaut.png", mine)
        return commit(*values)

    monkeypatch.setattr(tasks.photos.crops, "cut_face", cut_on_some_hardware)
    monkeypatch.setattr(Ledger, "commit", commit_after_another)
    done = align_photos_shard(workspace, 0, 64, "largest", 100, redo_damaged=True)
    assert done == ({"ok": 1} if last == "mine" else {})
    (after,) = faces_table(workspace).to_pylist()
    assert sha256(read_url(after["crop_uri"])) == after["crop_sha256"] != row["crop_sha256"]


def test_a_url_that_is_signed_anew_is_the_same_photograph_and_is_read_from_there(tmp_path):
    listing, workspace = tmp_path / "photos.csv", str(tmp_path / "ws")
    for signature in ("one", "two"):
        url = f"https://host/anna.jpg?X-Amz-Signature={signature}"
        listing.write_text(f"url\nhttps://host/bert.jpg\n{url}\n")
        assert plan_photos(workspace, str(listing), 8) == [0]
    units = faces_ledger(workspace).units(0)
    assert units["image_id"].to_pylist() == ["bert", "anna"]
    assert units["source_uri"].to_pylist() == ["https://host/bert.jpg", url]
    with pytest.raises(LedgerError, match="got 1 units, expected those that are planned"):
        faces_ledger(workspace).readdress_shard(0, units.slice(1))


def test_signatures_tell_no_photographs_apart_and_name_none(tmp_path):
    def listed(*urls: str) -> list[str]:
        listing = tmp_path / "photos.csv"
        listing.write_text("\n".join(["url", *urls, ""]))
        return list_photos(str(listing))["image_id"].to_pylist()

    def signed(folder: str, signature: str) -> str:
        return f"https://host/{folder}/photo.jpg?X-Amz-Expires=60&X-Amz-Signature={signature}"

    names = listed(signed("a", "one"), signed("b", "one"))
    assert names == listed(signed("a", "two"), signed("b", "two"))
    assert len({*names}) == 2
    with pytest.raises(ListingError, match="each photograph once") as caught:
        listed(signed("a", "one"), signed("a", "two"))
    assert "Signature" not in str(caught.value)


def test_a_name_that_is_taken_is_told_without_signatures(tmp_path):
    listing, workspace = tmp_path / "photos.csv", str(tmp_path / "ws")
    for folder in ("a", "b"):
        url = f"https://host/{folder}.jpg?X-Amz-Signature=secret"
        listing.write_text(f"url,image_id\n{url},dora\n")
        if folder == "a":
            plan_photos(workspace, str(listing), 8)
    with pytest.raises(ListingError, match=r"got https://host/b.jpg, expected https://host/a.jpg,"):
        plan_photos(workspace, str(listing), 8)


def test_of_two_inputs_that_are_planned_at_once_each_photograph_has_its_name(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(PHOTOS / "astronaut.png", tmp_path / name / "anna.png")
    workspace, extend = str(tmp_path / "ws"), Ledger.extend

    def overtaken(ledger: Ledger, units: pa.Table, *options: Any) -> list[int]:
        monkeypatch.setattr(Ledger, "extend", extend)
        plan_photos(workspace, str(tmp_path / "b"), 8)
        return ledger.extend(units, *options)

    monkeypatch.setattr(Ledger, "extend", overtaken)
    assert plan_photos(workspace, str(tmp_path / "a"), 8) == [0, 1]
    ledger = faces_ledger(workspace)
    first, second = (ledger.units(shard)["image_id"].to_pylist() for shard in ledger.plans())
    assert first == ["anna"]
    assert second[0].startswith("anna--")
    for name in ("a", "b"):
        assert plan_photos(workspace, str(tmp_path / name), 8) == [0, 1]


def test_expired_links_are_looked_at_again_by_fresh_ones(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), SignedLinks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    listing, workspace = tmp_path / "list.csv", str(tmp_path / "ws")

    def sign(day: int) -> None:
        """Sign links of a day; those of other days have expired."""
        place = f"http://127.0.0.1:{server.server_port}/whole.jpg"
        listing.write_text(f"path\n{place}?X-Amz-Date={day}&X-Amz-Signature=of-day-{day}\n")

    monkeypatch.setattr(SignedLinks, "valid", "Date=2")
    sign(1)
    assert [row["status"] for row in align(workspace, str(listing))] == ["unreadable"]
    sign(2)
    assert plan_photos(workspace, str(listing), 8, ["unreadable"]) == [0]
    assert [*check_faces(faces_ledger(workspace))] == []
    retry = ["unreadable"]
    assert align_photos_shard(workspace, 0, 64, "largest", 100, retry) == {"ok": 1}
    server.shutdown()
    server.server_close()
    assert [row["status"] for row in faces_table(workspace).to_pylist()] == ["ok"]
    sign(3)
    assert plan_photos(workspace, str(listing), 8, retry) == []
    assert [*check_faces(faces_ledger(workspace))] == []


def test_a_photograph_in_a_folder_that_may_not_be_entered_is_a_row(tmp_path, monkeypatch):
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Folder, "exists", refuse)
    with pytest.raises(PhotoError, match="cannot be opened: Permission denied"):
        fetch_photo(str(tmp_path / "locked" / "anna.jpg"))


@pytest.mark.parametrize("damaged", [b"", b'{"crop_size"'])
def test_damaged_settings_are_named_and_made_anew_once_they_are_gone(tmp_path, damaged):
    photos, root = Folder(str(tmp_path / "in")), str(tmp_path / "ws")
    align(root, upload(photos, "person-4.jpg").url)
    faces = faces_ledger(root).folder
    whole = faces.read("settings.json")
    faces.write("settings.json", damaged)
    with pytest.raises(
        ConfigError, match=r"/settings\.json: got a damaged file, .*remove it: `styl"
    ):
        require_same_alignment(root, AlignmentConfig())
    faces.remove("settings.json")
    align(root, upload(photos, "astronaut.png").url)
    assert faces.read("settings.json") == whole
