"""Folders behave alike on a directory, in memory and on S3."""

import errno
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from fsspec.implementations.local import LocalFileSystem

from tasks.store.faults import StoreError
from tasks.store.folders import (
    ClosedError,
    Folder,
    UnwritableError,
    is_file,
    nearest,
    read_url,
    split_url,
)


def test_files_are_written_replaced_listed_and_removed(root):
    folder = Folder(root)
    folder.write("a/one.txt", b"1")
    folder.write("a/one.txt", b"2")
    folder.write("two.json", b"3")
    assert folder.read("a/one.txt") == b"2"
    assert folder.names() == ["a", "two.json"]
    assert folder.names(".json") == ["two.json"]
    assert (folder / "a").names() == ["one.txt"]
    folder.remove("two.json")
    folder.remove("two.json")
    assert not folder.exists("two.json")
    assert (folder / "nowhere").names() == []


def test_a_folder_in_another_of_its_name_is_listed(root):
    folder = Folder(root) / "runs"
    folder.write("runs/run.json", b"{}")
    assert folder.names() == ["runs"]


def test_create_never_replaces(root):
    folder = Folder(root)
    folder.create("commit.json", b"first")
    with pytest.raises(FileExistsError):
        folder.create("commit.json", b"second")
    assert folder.read("commit.json") == b"first"


def test_a_missing_file_says_so(root):
    with pytest.raises(FileNotFoundError):
        Folder(root).read("nothing")


def test_urls_lead_back_to_the_files(root):
    folder = Folder(root) / "deep"
    folder.write("x.bin", b"x")
    url = folder.url_of("x.bin")
    parent, name = split_url(url)
    assert (parent.url, name) == (folder.url, "x.bin")
    assert read_url(url) == b"x"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x"])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="expected a path inside"):
        Folder(str(tmp_path)).write(name, b"")


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="give credentials in the environment") as caught:
        Folder("s3://user:hunter2@bucket/path")
    assert "hunter2" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.write("card.json", b"old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"card.json: the store is full .* make room"):
        folder.write("card.json", b"new")
    monkeypatch.undo()
    assert folder.read("card.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_a_file_and_all_its_new_folders_are_on_disk_before_it_is_named(tmp_path, monkeypatch):
    synced, fsync = list[str](), os.fsync

    def note(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    folder = Folder(str(tmp_path))
    folder.create("a/b/commit.json", b"1")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    assert synced[2].startswith(str(tmp_path / "a/b/.part-"))
    assert synced[3] == str(tmp_path / "a/b")
    synced.clear()
    group = zarr.open_group(folder.zarr_store("x.zarr"), mode="a")
    group.create_array("values", data=np.ones(3))
    assert any(name.startswith(str(tmp_path / "x.zarr/values/c/.part-")) for name in synced)
    assert str(tmp_path / "x.zarr/values/c") in synced


def test_a_file_of_this_machine_is_taken_in(root, tmp_path):
    source, folder = tmp_path / "source", Folder(root)
    for content in (b"first", b"second"):
        source.write_bytes(content)
        folder.take_in("deep/file.bin", source)
        assert folder.read("deep/file.bin") == content
    assert (folder / "deep").names() == ["file.bin"]


def test_versions_change_with_the_files(root):
    folder = Folder(root)
    assert folder.versions() == ()
    seen = set()
    for name, content in (("a", b"1"), ("b", b"1"), ("b", b"22")):
        folder.write(name, content)
        assert folder.versions() == folder.versions()
        seen.add(folder.versions())
    assert len(seen) == 3


@pytest.mark.parametrize("url", ["zip://x/y", "dir://x", "github://x", "generic://x", "x-y://z"])
def test_a_protocol_that_needs_more_than_a_url_is_refused(url):
    with pytest.raises(ValueError, match="^URL: got"):
        Folder(url)


@pytest.mark.parametrize("url", ["/{}", "//{}", "file:///{}", "local:///{}", "file:/{}"])
def test_files_directly_under_the_root_are_not_those_of_the_current_folder(
    url, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = f"styleclip-{tmp_path.name}-{os.getpid()}.json"
    folder, found = split_url(url.format(name))
    assert (folder.url, found, folder.url_of(name)) == ("/", name, f"/{name}")
    assert not folder.exists(name)
    assert "etc" in folder.names()
    assert Folder(url.format("etc")).name == "etc"
    (tmp_path / name).write_bytes(b"of the current folder")
    assert not is_file(url.format(name))
    with pytest.raises(FileNotFoundError):
        read_url(url.format(name))


@pytest.mark.parametrize("url", ["/", "//", "file:///", "/etc/.."])
def test_the_root_is_a_folder(url):
    root = Folder(url)
    assert (root.url, (root / "etc").url, root.url_of("etc/x")) == ("/", "/etc", "/etc/x")
    assert "etc" in root.names()
    assert nearest(url) == ""


@pytest.mark.parametrize(
    "way", ["p", "./p", "p/", "p/.", "../here/p", "x/../p", "{}//p", "file://{}/../here/p"]
)
def test_a_directory_has_one_url_whatever_leads_there(way, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = Folder(way.format(here))
    assert (folder.url, folder.url_of("a.jpg")) == (f"{here}/p", f"{here}/p/a.jpg")
    parent, name = split_url(way.format(here))
    assert (parent.url, name) == (str(here), "p")


def test_in_a_store_dots_are_a_name(s3_endpoint):
    assert Folder("s3://faces/a/../b").url == "s3://faces/a/../b"


@pytest.mark.parametrize(
    ("url", "package", "remedy"),
    [
        ("gs://faces/ws", "gcsfs", r"`pip install -c constraints.txt '.\[gcs\]'` in the clone"),
        ("abfs://faces/ws", "adlfs", "install it .*adlfs"),
    ],
)
def test_a_package_that_a_store_needs_is_named(url, package, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"URL: got {url[:4].rstrip(':')}.* installed; {remedy}"):
        Folder(url)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("s3:/faces/ws", "s3://faces/ws"),
        ("S3:faces/ws", "s3://faces/ws"),
        ("https:/me:hunter2@x/p.jpg", r"https://\*\*\*@x/p.jpg"),
        ("S3://faces/ws", "s3://"),
        ("htps://faces/ws", "https://"),
    ],
)
def test_a_mistyped_protocol_is_refused_with_what_was_meant(url, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"a directory, s3://.* \(did you mean {meant}\?\)"
    ) as told:
        Folder(url)
    assert "hunter2" not in str(told.value)
    assert Folder("./s3:/faces").url == f"{tmp_path}/s3:/faces"


CONTENT_TYPES = {
    "index.html": "text/html",
    "plots/a.svg": "image/svg+xml",
    "a.png": "image/png",
    "a.jpg": "image/jpeg",
    "a.webp": "image/webp",
    "page.css": "text/css",
    "card.json": "application/json",
    "a.tar.gz": "binary/octet-stream",
    "x.zarr/c/0": "binary/octet-stream",
}


@pytest.mark.parametrize("way", ["write", "create", "create_blindly", "take_in", "in parts"])
@pytest.mark.parametrize(("name", "expected"), CONTENT_TYPES.items())
def test_files_in_s3_have_types_by_which_browsers_show_them(
    way, name, expected, s3_endpoint, tmp_path, monkeypatch
):
    folder = Folder(f"s3://faces/{tmp_path.name}-{way}")
    content = b"x" * (11 * 2**20 if way == "in parts" else 1)
    source = tmp_path / "source"
    source.write_bytes(content)
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, **_: 5 * 2**20)
    if way in ("take_in", "in parts"):
        folder.take_in(name, source)
    else:
        getattr(folder, way)(name, content)
    key = folder.url_of(name).removeprefix("s3://faces/")
    found = s3_endpoint.head_object(Bucket="faces", Key=key)
    assert (found["ContentType"], found["ContentLength"]) == (expected, len(content))


@pytest.mark.parametrize(
    "put",
    [
        lambda folder: folder.write("x", b"1"),
        lambda folder: folder.create("x", b"1"),
        lambda folder: folder.take_in("x", Path(__file__)),
    ],
)
@pytest.mark.parametrize("way", ["below a file", "file", "system", "locked"])
def test_a_folder_where_no_file_can_be_made_is_named(put, way, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/.part-ms4_3chk")

    (tmp_path / "file").touch()
    places = {"file": tmp_path / "file", "below a file": tmp_path / "file/deep"}
    place = places.get(way, Path("/proc/nowhere") if way == "system" else tmp_path)
    if way == "locked":
        # Root may write everywhere.
        monkeypatch.setattr(tempfile, "mkstemp", refuse)
    told = (
        rf"^folder: got {place}[\w./]*, where no file can be made \([\w ]+\), expected one that can"
    )
    with pytest.raises(UnwritableError, match=told) as caught:
        put(Folder(str(place)))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.errno) == (str(caught.value), caught.value.errno)


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    def refuse(_fs, path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(LocalFileSystem, "info", refuse)
    folder = Folder(str(tmp_path))
    with pytest.raises(ClosedError, match=f"got {tmp_path}, which cannot be looked into") as caught:
        folder.exists("settings.json")
    assert caught.value.errno == errno.EACCES
