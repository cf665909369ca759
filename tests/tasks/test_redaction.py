"""Credentials are struck out, and nothing else."""

import pyarrow as pa
import pytest

from tasks.store.faults import StoreError, endure
from tasks.store.folders import Folder, read_url
from tasks.store.ledger import Ledger
from tasks.store.redaction import redact, redact_table, unsigned

SIGNED = "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&"
SIGNED += "X-Amz-Expires=60&X-Amz-Security-Token=IQoJb3Jp&X-Amz-Signature=fe5f80f7"


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEJr")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://anna:hunter2@host/x", "s3://***@host/x"),
        ("Invalid header b'wJalrXUtnFEMI/K7MDENG'", "Invalid header b'***'"),
        ("token FwoGZXIvYXdzEJr.", "token ***."),
        ("key AKIAIOSFODNN7EXAMPLE", "key ***"),
        ("Authorization: Bearer eyJhbGci.x", "Authorization: ***"),
        ("got bearer eyJhbGciOiJIUzI1NiJ9.e30", "got bearer ***"),
        ("'AWS4-HMAC-SHA256 Credential=a, Signature=b'", "'AWS4-HMAC-SHA256 ***'"),
        ("?sv=2024&sig=a%2Bb&se=1", "?sv=2024&sig=***&se=1"),
    ],
)
def test_credentials_are_struck_out(text, wanted):
    assert redact(text) == wanted


def test_signed_urls_keep_what_is_no_secret():
    struck = redact(SIGNED)
    assert struck.startswith("https://b.s3.amazonaws.com/a.jpg?")
    assert "X-Amz-Expires=60" in struck
    assert not any(part in struck for part in ("AKIA", "IQoJb3Jp", "fe5f80f7"))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/ws/crops/anna@home.png",
        "row 3, column alpha: got 'four', expected a finite number",
        "/var/run/secrets/token: no such file",
        "run s3://bucket/runs/smiles: 3 of 40 shards failed at 12:30",
        "a face with a signature smile and a basic haircut",
    ],
)
def test_other_text_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        (SIGNED, "https://b.s3.amazonaws.com/a.jpg"),
        ("https://a.blob/x.jpg?v=2&sv=2024&sig=a%2Bb&se=1", "https://a.blob/x.jpg?v=2"),
        ("https://host/photo?id=7&policy=old", "https://host/photo?id=7&policy=old"),
        ("s3://bucket/anna.jpg", "s3://bucket/anna.jpg"),
    ],
)
def test_a_url_is_known_without_what_signs_it(url, plain):
    assert unsigned(url) == plain


def test_a_password_that_is_a_word_of_a_path_leaves_the_path_alone(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    rows = {"crop_uri": ["/home/postgres/ws/crops/a.png"], "error": ["got postgres"]}
    assert redact_table(pa.table(rows)).to_pydict() == rows | {"error": ["got ***"]}
    fetched = pa.table({"source_uri": ["https://host/postgres/a.jpg"]})
    assert redact_table(fetched)["source_uri"].to_pylist() == ["https://host/***/a.jpg"]


def test_errors_of_stores_are_clean_down_to_their_causes():
    def fail() -> None:
        raise ValueError(f"Invalid header in {SIGNED}")

    with pytest.raises(StoreError) as caught:
        endure("s3://b/x", fail)
    assert "fe5f80f7" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_file_is_named_without_its_signature():
    with pytest.raises(FileNotFoundError) as caught:
        read_url("memory://nowhere/a.jpg?X-Amz-Signature=fe5f80f7")
    assert "a.jpg" in str(caught.value)
    assert "fe5f80f7" not in str(caught.value)


def test_committed_rows_hold_no_credentials(tmp_path):
    names = ["image_id", "source_uri", "error"]
    schema = pa.schema([(name, pa.string()) for name in names])
    rows = pa.table({"image_id": ["a", "b"], "source_uri": [SIGNED, None], "error": [None, SIGNED]})
    ledger = Ledger(Folder(str(tmp_path)), schema)
    ledger.plan_shard(0, rows.select(["image_id"]))
    ledger.commit(0, rows)
    (table,) = ledger.results()
    assert "fe5f80f7" not in repr(table.to_pylist())
    assert table.schema == schema
    assert redact_table(table).equals(table)
