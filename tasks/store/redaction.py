"""Credentials never leave the process: they are struck out of texts for rows, logs and reports."""

import os
import re
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa

STRUCK = "***"

# Environment variables that hold something secret, by their names.
# The id of an access key is a name; those of AWS have a pattern of their own below.
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY(?!_ID)", re.I
)
# Shorter values might be words.
_SHORTEST = 8
_PATTERNS = (
    # https://user:password@host
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{STRUCK}@"),
    # What signs a URL: X-Amz-Signature, X-Goog-Credential, sig of Azure, token, ...
    (
        re.compile(
            r"(?i)\b((?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|credential"
            r"|signature|sig|\w*token|password|secret|api_?key|access_?key)=)[^&\s\"'<>]+"
        ),
        rf"\1{STRUCK}",
    ),
    # Authorization: Bearer ..., and what begins so without the name of the header.
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*(?:b?['\"])?)[^'\"\n]+"), rf"\1{STRUCK}"),
    (re.compile(r"(?i)\b(aws4-hmac-sha256\s)[^'\"\n]+"), rf"\1{STRUCK}"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/-]{16,}=*"), rf"\1{STRUCK}"),
    # Names of AWS keys.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), STRUCK),
)


# What says that a URL is signed, and all that comes with it: S3, Google, CloudFront, Azure.
_SIGNATURE = re.compile(r"(?i)(?:^|&)(?:x-(?:amz|goog)-signature|signature|sig)=")
_SIGNING = re.compile(
    r"(?i)(?:x-(?:amz|goog)-[\w-]+|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires|signature"
    r"|s(?:ig|v|r|p|t|e|pr|ip|koid|ktid|kt|ke|ks|kv))="
)


def redact(text: str) -> str:
    """Strike credentials out of a text.

    These are the values of environment variables whose names say that they are secret, user and
    password of a URL, what signs a URL, and authorization headers.
    """
    return _struck(text, _secrets())


def unsigned(url: str) -> str:
    """Return a URL without what signs it, which differs at every signing; others as they are."""
    parts = urlsplit(url)
    if not _SIGNATURE.search(parts.query):
        return url
    kept = [part for part in parts.query.split("&") if not _SIGNING.match(part)]
    return urlunsplit(parts._replace(query="&".join(kept)))


def bare_address(url: str) -> str:
    """Return a URL without credentials and what signs it: the same in plans and in result rows."""
    return unsigned(redact(url))


def stored_address(url: str) -> str:
    """Return a URL as result rows have it: its credentials are struck out, the rest stays."""
    return _struck(url, [] if _is_own("", url) else _secrets())


def _struck(text: str, secrets: list[str]) -> str:
    for value in secrets:
        text = text.replace(value, STRUCK)
    for pattern, struck in _PATTERNS:
        text = pattern.sub(struck, text)
    return text


def redact_table(rows: pa.Table) -> pa.Table:
    """Strike credentials out of the columns of rows that hold errors and addresses."""
    secrets = _secrets()
    for index, name in enumerate(rows.column_names):
        if name == "error" or name.endswith("_uri"):
            texts = [
                text and _struck(text, [] if _is_own(name, text) else secrets)
                for text in rows[name].to_pylist()
            ]
            rows = rows.set_column(index, rows.field(index), pa.array(texts, pa.string()))
    return rows


def _is_own(column: str, text: str) -> bool:
    """Whether a text says where a file is that is read again: a password may be a word in it."""
    return column != "error" and not text.startswith(("http://", "https://"))


def _secrets() -> list[str]:
    """The longest first: one value may be a part of another."""
    values = {
        value
        for name, value in os.environ.items()  # noqa: TID251 - to strike its values out
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST and not _is_place(value)
    }
    return sorted(values, key=len, reverse=True)


def _is_place(value: str) -> bool:
    """Whether a value only says where the secret is."""
    return value.startswith("/")
