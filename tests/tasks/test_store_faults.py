"""What stores do wrong is endured where it may pass, and told with its remedy where it does not."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec.config
import numpy as np
import pyarrow as pa
import pytest
import zarr

import tasks.store.folders
from benchmarks.endurance.faulty_proxy import FAULTS, FaultyProxy, Refusal, faulty_proxy
from tasks.store import faults as store_faults
from tasks.store.enduring_s3 import EnduringS3
from tasks.store.faults import NoBucketError, RetryPolicy, StoreError, retried_requests
from tasks.store.folders import Folder, is_file
from tasks.store.guarantees import probe_store
from tasks.store.ledger import Ledger

SCHEMA = pa.schema([("key", pa.string())])
CONTENT = bytes(range(256)) * 20


@pytest.fixture
def proxy(s3_endpoint, monkeypatch):
    monkeypatch.setattr(store_faults, "POLICY", RetryPolicy(3, 0.01, 0.02))
    with faulty_proxy(s3_endpoint.meta.endpoint_url, read_timeout=0.4) as proxy:
        yield proxy


@pytest.fixture
def folder(proxy, tmp_path) -> Folder:
    folder = Folder(f"s3://faces/{tmp_path.name}")
    folder.write("x", CONTENT)
    return folder


def each_request(proxy: FaultyProxy, fault, operation) -> None:
    """Do an operation again and again, with the fault at each of its requests in turn."""
    proxy.script()
    before = proxy.requests
    operation()
    for place in range(proxy.requests - before):
        proxy.script(*[None] * place, fault)
        operation()


def read_opened(folder: Folder) -> bytes:
    with folder.open("x") as file:
        return file.read()


@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_endures_a_fault_of_any_of_its_requests(proxy, folder, fault):
    def operate() -> None:
        folder.write("x", CONTENT)
        assert folder.read("x") == CONTENT
        assert folder.names() == ["x"]
        folder.remove("gone")

    each_request(proxy, fault, operate)
    proxy.script(fault, None, fault)
    assert read_opened(folder) == CONTENT
    proxy.script(fault)
    assert is_file(folder.url_of("x"))
    proxy.script(fault)
    assert folder.files() == ["x"]


@pytest.mark.parametrize("fault", ["lost answer", "delay", "truncated"])
def test_a_create_whose_answer_is_lost_is_not_taken_for_another_writers(proxy, folder, fault):
    for index, requests_before in enumerate([0, 1, 2]):
        proxy.script(*[None] * requests_before, fault)
        folder.create(f"plan-{index}", b"mine")
        assert folder.read(f"plan-{index}") == b"mine"
        with pytest.raises(FileExistsError):
            folder.create(f"plan-{index}", b"another's")


def test_a_shard_is_committed_once_whatever_answer_is_lost(proxy, folder):
    ledger, shards = Ledger(folder, SCHEMA), iter(range(7))
    ledger.extend(pa.table({"key": [str(i) for i in range(7)]}, SCHEMA), "key", 1)

    def commit() -> None:
        shard = next(shards)
        ledger.commit(shard, pa.table({"key": [str(shard)]}, SCHEMA))

    each_request(proxy, "lost answer", commit)
    done = ledger.committed()
    assert [t["key"].to_pylist() for t in ledger.results()] == [[str(shard)] for shard in done]
    assert len((folder / "results").names()) == len(done) > 5


def test_a_faulty_read_is_never_a_missing_chunk(proxy, folder):
    store = folder.zarr_store("a.zarr")
    array = zarr.create_array(store, shape=(64,), chunks=(8,), shards=(32,), dtype="f4")
    values = np.arange(64, dtype=np.float32)

    proxy.script(None, "lost answer")
    array[:] = values

    def read() -> None:
        found = zarr.open_array(folder.zarr_store("a.zarr"), mode="r")
        np.testing.assert_array_equal(found[8:40], values[8:40])

    each_request(proxy, "truncated", read)
    proxy.script(*["throttled", None] * 20)
    read()
    proxy.script(*["server error"] * 50)
    with pytest.raises(StoreError, match="server error in every attempt, up to 3"):
        array[:]


@pytest.mark.parametrize(
    ("refusal", "words", "everywhere"),
    [
        (Refusal(400, "ExpiredToken", "The provided token has expired."), "renew the cred", True),
        (Refusal(403, "InvalidAccessKeyId", "No such key."), "renew the credentials", True),
        (Refusal(403, "AccessDenied", "Access Denied"), "allow reading, writing", False),
        (Refusal(507, "XMinioStorageFull", "Storage is full."), "is full .* make room", True),
        (Refusal(404, "NoSuchBucket", "No such bucket."), "make it, or correct the URL", True),
    ],
)
def test_what_does_not_pass_fails_at_once_with_its_remedy(
    proxy, folder, refusal, words, everywhere
):
    for operation in (lambda: folder.write("y", b""), lambda: folder.read("x"), folder.names):
        before, retried = proxy.requests, retried_requests()
        proxy.script(*[refusal] * 20)
        with pytest.raises(StoreError, match=f"s3://faces.*{words}") as caught:
            operation()
        assert (caught.value.lasting, caught.value.everywhere) == (True, everywhere)
        assert proxy.requests - before == 1
        assert retried_requests() == retried


def test_a_store_that_keeps_silent_concerns_all_work_and_one_that_errs_may_not(proxy, folder):
    for fault, everywhere in (("delay", True), ("drip", True), ("server error", False)):
        proxy.script(*[fault] * 3)
        with pytest.raises(StoreError, match="in every attempt") as caught:
            folder.read("x")
        assert (caught.value.lasting, caught.value.everywhere) == (False, everywhere)


def test_a_wait_for_a_connection_is_no_silence_of_the_store(proxy, folder, monkeypatch):
    fsspec.config.conf["s3"]["config_kwargs"]["max_pool_connections"] = 1
    tasks.store.folders._file_system.cache_clear()
    busy, allow, begun, ahead = Folder(folder.url), EnduringS3._allow, [], []

    def begin(files: EnduringS3, size: int) -> float:
        # Once more for the body, whose size is known by then.
        begun.extend([1] if not size else [])
        return allow(files, size)

    def arrive() -> None:
        time.sleep(0.05)
        ahead.append(len(begun) - len(ahead) - 1)

    monkeypatch.setattr(EnduringS3, "_allow", begin)
    monkeypatch.setattr(proxy, "next_fault", arrive)
    with ThreadPoolExecutor(5) as pool:
        assert [*pool.map(busy.read, ["x"] * 5)] == [CONTENT] * 5
    # No time is counted of a request that is not on its way.
    assert max(ahead) <= 1


def test_a_store_that_is_down_for_long_is_told_once_a_minute(proxy, folder, monkeypatch, caplog):
    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "styleclip"]

    monkeypatch.setattr(store_faults, "_TALLY", store_faults._Tally())
    proxy.script("server error")
    folder.read("x")
    assert told() == []
    monkeypatch.setattr(store_faults, "_LATE", 0.0)
    for _ in range(2):
        proxy.script(*["server error"] * 2)
        folder.read("x")
    (line,) = told()
    assert line.startswith(f"the store does not do what it is asked ({folder.url_of('x')}: server ")
    assert line.endswith("; trying again for up to 180 s a request")


def test_a_fault_that_stays_ends_after_bounded_attempts_and_is_counted(proxy, folder):
    before, retried = proxy.requests, retried_requests()
    proxy.script(*["throttled"] * 20)
    with pytest.raises(
        StoreError, match="throttled in every attempt, up to 3.*same command"
    ) as caught:
        folder.write("y", b"")
    assert not caught.value.lasting
    assert proxy.requests - before == 3
    assert retried_requests() - retried == {"throttled": 2}


def test_a_refused_question_is_asked_again_for_its_reason(proxy, folder):
    # The answer to a HEAD has no body.
    proxy.script(*[Refusal(403, "ExpiredToken", "The provided token has expired.")] * 9)
    with pytest.raises(StoreError, match="token has expired.*renew the credentials") as caught:
        folder.exists("x")
    assert caught.value.everywhere


def test_a_question_that_is_not_answered_is_no_no(proxy, folder):
    for ask in (lambda: folder.exists("x"), lambda: is_file(folder.url_of("x")), folder.files):
        proxy.script(*["server error"] * 20)
        with pytest.raises(StoreError, match="server error"):
            ask()


def test_a_range_beyond_the_end_is_empty_as_zarr_expects(proxy, folder):
    folder.write("empty", b"")
    with folder.open("empty") as file:
        assert file.read() == b""
    before = proxy.requests
    with pytest.raises(OSError, match="not satisfiable"):
        folder._fs.cat_file(f"{folder._path}/x", start=10**6, end=10**6 + 1)
    assert proxy.requests - before == 1


def test_the_guarantee_of_a_store_is_found_by_trying(root):
    guarantee = probe_store(root)
    assert guarantee.several_writers
    assert guarantee.line.endswith("creates are exclusive; several writers are safe")
    assert Folder(root).files() == []


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_that_replaces_what_is_there_is_for_one_writer(proxy, folder, conditions):
    proxy.conditions = conditions
    guarantee = probe_store(f"{folder.url}/{conditions}")
    assert not guarantee.several_writers
    assert "let only one process at a time write there" in guarantee.line
    folder.create("commit", b"first")
    with pytest.raises(FileExistsError):
        folder.create("commit", b"second")
    assert folder.read("commit") == b"first"


def test_a_directory_without_hard_links_is_for_one_writer(tmp_path, monkeypatch):
    def refuse(_part, _path):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    folder = Folder(str(tmp_path / "share"))
    assert not probe_store(folder.url).exclusive
    folder.create("commit", b"first")
    with pytest.raises(FileExistsError):
        folder.create("commit", b"second")
    assert folder.files() == ["commit"]


FILL = """
import resource, sys
from tasks.store.folders import Folder
from tasks.store.faults import StoreError, is_lasting

folder = Folder(sys.argv[1])
folder.write("card", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for operation in (folder.write, folder.create):
    try:
        operation("card" if operation == folder.write else "plan", b"x" * 100_000)
    except StoreError as error:
        assert is_lasting(error)
        print(error)
assert folder.read("card") == b"old" and folder.files() == ["card"]
"""


def test_a_full_disk_leaves_what_was_there_and_no_rest(tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the store is full") == done.stdout.count("make room") == 2


@pytest.mark.parametrize("url", ["s3://nobucket", "s3://nobucket/ws/deep"])
def test_a_bucket_that_there_is_not_is_named_and_no_file(url, s3_endpoint):
    folder = Folder(url)
    for operation in (folder.names, lambda: folder.write("y", b""), lambda: folder.exists("x")):
        with pytest.raises(NoBucketError, match=r"^s3://nobucket: there is no such bucket .* URL"):
            operation()
