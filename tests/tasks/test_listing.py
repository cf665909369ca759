"""What an input holds is listed alike on every store, and what is wrong in a listing is named."""

import io
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.photos.decoding import PhotoError, fetch_photo
from tasks.photos.listing import GIVEN_IDS, PHOTOS, distinct_id, list_photos
from tasks.photos.listing_table import ListingError, Photo
from tasks.store.folders import Folder

IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def listed(source: str) -> dict[str, str]:
    table = list_photos(source)
    assert table.schema.equals(PHOTOS)
    return dict(zip(table["image_id"].to_pylist(), table["source_uri"].to_pylist(), strict=True))


def put(root: str, *names: str) -> Folder:
    folder = Folder(root)
    for name in names:
        folder.write(name, b"x")
    return folder


def test_a_folder_gives_every_file_but_hidden_ones_and_sidecars(root):
    folder = put(
        root,
        *("b.jpg", "a.PNG", "deep/er/c.webp", "no-suffix", "text-on-purpose.jpg"),
        *(
            ".hidden.jpg",
            ".git/x.jpg",
            "deep/._c.jpg",
            "SOURCES.md",
            "people.json",
            "faces.parquet",
            "Thumbs.db",
        ),
    )
    names = {
        "a": "a.PNG",
        "b": "b.jpg",
        "deep-er-c": "deep/er/c.webp",
        "no-suffix": "no-suffix",
        "text-on-purpose": "text-on-purpose.jpg",
    }
    assert listed(root) == {image_id: folder.url_of(name) for image_id, name in names.items()}
    assert [*listed(f"{root}/")] == [*names]
    assert listed(f"{root}/deep") == {"er-c": folder.url_of("deep/er/c.webp")}


def test_a_glob_gives_what_it_matches(root):
    put(root, "a.jpg", "b.png", "deep/c.jpg", "deep/d.jpg", "deep/.e.jpg", "deep/f.json")
    assert [*listed(f"{root}/*.jpg")] == ["a"]
    assert [*listed(f"{root}/**/*.jpg")] == ["a", "deep-c", "deep-d"]
    assert [*listed(f"{root}/deep/[cd].jpg")] == ["c", "d"]
    assert [*listed(f"{root}/deep/*")] == ["c", "d"]


def test_a_glob_looks_no_deeper_than_what_it_may_match(tmp_path, monkeypatch):
    put(str(tmp_path), "a.jpg", "deep/b.jpg", "deep/er/c.jpg", "deep/er/est/d.jpg")
    looked, scandir = set[str](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (looked.add(str(path)), scandir(path))[1])
    assert [*listed(f"{tmp_path}/*.jpg")] == ["a"]
    assert str(tmp_path / "deep") not in looked
    assert [*listed(f"{tmp_path}/*/e?/c.jpg")] == ["deep-er-c"]
    assert str(tmp_path / "deep/er/est") not in looked
    assert len(listed(f"{tmp_path}/**/*.jpg")) == 4


def test_a_folder_may_be_named_like_a_glob(tmp_path):
    put(str(tmp_path), "2020 [holiday]/a.jpg", "2020 h/b.jpg")
    assert [*listed(str(tmp_path / "2020 [holiday]"))] == ["a"]


def test_a_single_file_is_a_photograph(root):
    folder = put(root, "deep/a.b.jpg")
    assert listed(f"{root}/deep/a.b.jpg") == {"a.b": folder.url_of("deep/a.b.jpg")}


def test_relative_paths_of_this_machine_become_absolute(tmp_path, monkeypatch):
    put(str(tmp_path), "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    expected = {"a": str(tmp_path / "photos" / "a.jpg")}
    for source in ("photos", "photos/*.jpg", "photos/a.jpg", f"file://{tmp_path}/photos"):
        assert listed(source) == expected


@pytest.mark.parametrize("source", ["", "/nowhere", "/*.jpg", "/nowhere.csv"])
def test_an_input_without_photographs_is_an_error(root, source):
    put(root, "notes.txt")
    # What a store does not hold cannot be told from what is empty.
    absent = Folder(root).is_local and source in ("/nowhere", "/nowhere.csv")
    told = "which is not there" if absent else "in which there are none"
    with pytest.raises(ListingError, match=f"{told}; expected a folder, a glob"):
        list_photos(root + source)


def test_ids_tell_photographs_apart_whatever_their_names(root):
    put(root, "a.jpg", "a.png", "x/y.jpg", "x-y.jpg", "Ü b.jpg", "é.jpg", "c.face1.jpg", "C.jpg")
    put(root, "c.jpg", "_.jpg", f"{'l' * 120}.jpg", "-d.jpg")
    table = listed(root)
    assert len(table) == 12
    assert all(IMAGE_ID.fullmatch(f"{image_id}.face99") for image_id in table)
    assert len({image_id.lower() for image_id in table}) == 12
    hashed = {image_id.rpartition("--")[0] for image_id in table}
    assert hashed == {"a", "x-y", "b", "photo", "c.face1", "C", "c", "l" * 100, "d"}


def test_what_a_workspace_holds_itself_is_no_photograph(root):
    put(root, "a.jpg", "ws/crops/a.png", "ws/runs/one/images/x.png", "ws/photos/b.jpg")
    everything, workspace = f"{root}", Folder(root).url_of("ws")
    assert list_photos(everything, workspace)["image_id"].to_pylist() == ["a", "ws-photos-b"]
    assert list_photos(workspace, workspace)["image_id"].to_pylist() == ["photos-b"]
    own = Folder(workspace).url_of("crops")
    assert list_photos(own, workspace)["image_id"].to_pylist() == ["a"]


def test_what_other_workspaces_hold_is_no_photograph(root):
    marks = ("faces/_plans/shard-00000.parquet", "latents/k/_plans/x.parquet")
    for name, mark in zip(("old", "years/2025"), marks, strict=True):
        put(f"{root}/{name}", mark, "crops/b.png", "runs/one/images/b/x.png", "photos/c.jpg")
    put(root, "a.jpg", "crops/own.jpg")
    workspace = f"{root}/ws"
    names = ["a", "crops-own", "old-photos-c", "years-2025-photos-c"]
    assert list_photos(root, workspace)["image_id"].to_pylist() == names
    every = list_photos(f"{root}/**", workspace)["image_id"].to_pylist()
    assert sorted(every) == names
    assert list_photos(f"{root}/*/*/*.jpg", workspace).num_rows == 1
    # Who names such a folder itself means what lies in it.
    assert list_photos(f"{root}/old/crops", workspace)["image_id"].to_pylist() == ["b"]
    told = r"old, which is a workspace, expected photographs; are two arguments swapped\?"
    with pytest.raises(ListingError, match=told):
        list_photos(f"{root}/old", f"{root}/photos")


def test_a_link_to_what_is_not_there_is_a_photograph_that_cannot_be_read(tmp_path):
    put(str(tmp_path), "in/a.jpg")
    (tmp_path / "in/b.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "in/c.jpg").symlink_to("c.jpg")
    (tmp_path / "in/d.jpg").symlink_to("a.jpg")
    for source in ("in", "in/*.jpg"):
        assert [*listed(f"{tmp_path}/{source}")] == ["a", "b", "c", "d"]
    for name in "bc":
        with pytest.raises(PhotoError) as caught:
            fetch_photo(f"{tmp_path}/in/{name}.jpg")
        assert caught.value.status == "unreadable"
    # Nowhere else are they files.
    assert Folder(f"{tmp_path}/in").files() == ["a.jpg", "d.jpg"]


def test_an_id_depends_on_the_path_alone(root):
    put(root, "odd name.jpg", "a.jpg")
    before = listed(root)
    assert set(before) == {"a", distinct_id("odd_name", "odd name.jpg")}
    put(root, "b.jpg", "other name.jpg")
    assert before.items() <= listed(root).items()


@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1)))
def test_ids_are_names_and_differ_for_any_names(names):
    from tasks.photos.listing import _image_ids

    unique = [*dict.fromkeys(names)]
    ids = _image_ids([Photo(name, name, name) for name in unique])
    assert all(IMAGE_ID.fullmatch(image_id) for image_id in ids)
    assert len({image_id.lower() for image_id in ids}) == len(unique)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["source_uri", "path", "uri", "url"])
def test_a_listing_keeps_its_order_and_ids(root, kind, column):
    folder = put(root, "photos/b.jpg", "photos/a.jpg", "c.jpg")
    rows = {column: ["../photos/b.jpg", folder.url_of("c.jpg"), "sub/a.jpg"], "image_id": "y z x"}
    rows["image_id"] = rows["image_id"].split()
    if kind == "csv":
        lines = [f"{column},image_id", *map(",".join, zip(*rows.values(), strict=True))]
        content = "\r\n".join(lines).encode("utf-8-sig")
    else:
        sink = io.BytesIO()
        pq.write_table(pa.table(rows), sink)
        content = sink.getvalue()
    folder.write(f"lists/mine.{kind}", content)
    table = list_photos(f"{root}/lists/mine.{kind}")
    assert GIVEN_IDS in table.schema.metadata
    assert table["image_id"].to_pylist() == ["y", "z", "x"]
    names = ["photos/b.jpg", "c.jpg", "lists/sub/a.jpg"]
    assert table["source_uri"].to_pylist() == [folder.url_of(name) for name in names]


def test_a_listing_without_ids_takes_them_from_the_paths(tmp_path):
    (tmp_path / "list.csv").write_text("path\na.jpg\ndeep/a.jpg\n\n/one/b.jpg\n/two/b.jpg\n")
    table = listed(str(tmp_path / "list.csv"))
    assert [*table] == [
        "a",
        "deep-a",
        distinct_id("b", "/one/b.jpg"),
        distinct_id("b", "/two/b.jpg"),
    ]
    assert [*table.values()][1:3] == [str(tmp_path / "deep/a.jpg"), "/one/b.jpg"]


MISTAKES = """\
image_id,path
good,a.jpg
up/../down,b.jpg
,c.jpg
empty,
again,a.jpg
good,d.jpg
x.face1,e.jpg
short
secret,s3://me:hunter2@bucket/f.jpg
unknown,nosuch://g.jpg
long,h.jpg,
wide,i.jpg,j
"""

MESSAGES = """\
listing: got 10 mistakes, expected none; rows of CSV are counted as a spreadsheet does, of \
Parquet from 1:
  row 3, column image_id: got 'up/../down', expected {name}; rename it
  row 4, column image_id: got nothing, expected {name}; rename it
  row 5, column path: got nothing, expected a path or URL of at most 4,096 characters; correct the \
cell or remove the row
  row 6, column path: got '{folder}/a.jpg', expected each photograph once; row 2 has it already
  row 7, column image_id: got 'good', expected each id once; row 2 has it already
  row 8, column image_id: got 'x.face1', expected {name}; rename it
  row 9: got 1, expected 2 cells as in the header; an empty cell still needs its comma
  row 10, column path: got 's3://...', expected a URL that can be opened; URL of bucket: got a \
password in it, expected none; give credentials in the environment
  row 11, column path: got 'nosuch://...', expected a URL that can be opened; URL: got the \
protocol 'nosuch', expected a directory, s3://, gs://, memory:// or another one that needs no more \
than the URL
  row 13: got 3, expected 2 cells as in the header; put a cell that holds a comma in quotes"""


def test_every_mistake_of_a_listing_is_named_with_its_row():
    Folder("memory://list").write("list.csv", MISTAKES.encode())
    with pytest.raises(ListingError) as caught:
        list_photos("memory://list/list.csv")
    name = (
        "a name of at most 112 letters, digits, '.', '_' and '-' that begins with a letter or "
        "digit and does not end like '.face1'"
    )
    expected = MESSAGES.format(name=name, folder="memory:///list")
    assert str(caught.value) == f"memory://list/list.csv: {expected}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image_id\nx\n", "columns: got image_id, expected exactly one of source_uri, path, uri"),
        (b"path,url\na,b\n", "columns: got path, url, expected exactly one of"),
        (b"paths\na\n", "got 'paths', expected some of .* did you mean 'path'"),
        (
            b"file\na\n",
            "got 'file', .* is the first row the names of the columns. if it is, rename it",
        ),
        (b"image_id,file\nx,a\n", "got 'file', expected some of .*; rename or remove it"),
        (b"target_prompt\na hat\n", "got 'target_prompt', .* are two arguments swapped"),
        (b"path\n", "in which there are none"),
        (b"", "table: got an empty file"),
        (b"path\n\xff\xfe.jpg\n", "row 2, column path: got .* expected text in UTF-8"),
        (b"PAR1 not quite", "got a damaged Parquet file"),
        (b"PK\x03\x04", "got a spreadsheet or archive, expected CSV"),
    ],
)
def test_a_listing_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(ListingError, match=message):
        list_photos(str(path))


def test_a_listing_with_other_types_is_refused(tmp_path):
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "list.parquet")
    with pytest.raises(ListingError, match="row 1, column path: got 1, expected a path or URL"):
        list_photos(str(tmp_path / "list.parquet"))


def test_links_to_files_are_followed_and_what_could_hang_is_not_listed(tmp_path):
    put(str(tmp_path), "real/a.jpg", "photos/b.jpg")
    (tmp_path / "photos/link.jpg").symlink_to(tmp_path / "real/a.jpg")
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos")
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    assert [*listed(str(tmp_path / "photos"))] == ["b", "link"]


def test_linked_folders_are_looked_into_once(tmp_path):
    put(str(tmp_path), "in/z/a.jpg", "elsewhere/deep/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "in/a-link").symlink_to(tmp_path / "in/z")
    (tmp_path / "in/b-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/c-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path)
    (tmp_path / "elsewhere/nowhere").symlink_to(tmp_path / "nowhere")
    names = ["b-link-c", "b-link-deep-b", "b-link-nowhere", "z-a"]
    assert [*listed(f"{tmp_path}/in")] == names
    assert [*listed(f"{tmp_path}/in/**")] == names
    assert [*listed(f"{tmp_path}/in/*/*.jpg")] == ["b-link-c", "z-a"]
    times = Folder(f"{tmp_path}/in").modified()
    assert sorted(times) == ["b-link/c.jpg", "b-link/deep/b.jpg", "z/a.jpg"]
    # Of what is in a workspace, links are no part.
    assert Folder(f"{tmp_path}/in").files() == ["z/a.jpg"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links/one").symlink_to(tmp_path / "elsewhere")
    names = ["one-c", "one-deep-b", "one-deep-up-in-z-a", "one-nowhere"]
    assert [*listed(f"{tmp_path}/links")] == names


def test_a_folder_that_cannot_be_listed_is_an_error_and_no_gap(tmp_path, monkeypatch):
    put(str(tmp_path), "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(f"{path}: permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="locked: permission denied"):
        list_photos(str(tmp_path))


def test_a_name_that_is_not_utf8_is_told_of_its_photograph_alone(tmp_path):
    odd = ["\udcff.jpg", "d\udcfe/a.jpg"]
    put(str(tmp_path), "a.jpg", *odd)
    table = listed(str(tmp_path))
    escaped = [str(tmp_path / name) for name in (r"\udcff.jpg", r"d\udcfe/a.jpg")]
    assert sorted(table.values()) == sorted([str(tmp_path / "a.jpg"), *escaped])
    for uri in escaped:
        with pytest.raises(
            PhotoError, match=r"no such file; where .udc .* not UTF-8, rename it"
        ) as told:
            fetch_photo(uri)
        assert told.value.status == "unreadable"
    with pytest.raises(ListingError, match=r"got the folder '.*d.udcfe', expected a name in UTF-8"):
        list_photos(str(tmp_path / "d\udcfe"))
