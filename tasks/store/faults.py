"""Faults of stores: which may pass and are tried again, and what to say of the others."""

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from tasks.store.redaction import redact

T = TypeVar("T")


class StoreError(RuntimeError):
    """A store does not do what it is asked.

    It is no OSError, so that readers of files do not take it for what they look for.

    Attributes:
        fault: What is wrong, without what to do about it.
        lasting: Whether trying again cannot help.
        everywhere: Whether the whole store is concerned, and not only one file.
    """

    def __init__(
        self, fault: str, *, remedy: str = "", lasting: bool = False, everywhere: bool = False
    ) -> None:
        self.fault = redact(fault)
        super().__init__(self.fault + remedy)
        self.lasting, self.everywhere = lasting, everywhere


class UnsupportedError(StoreError):
    """A store does not know such a request."""


class NoBucketError(StoreError):
    """A URL names a bucket that there is not, which is for the user to correct."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a request is tried again: exponential backoff with full jitter.

    Attributes:
        attempts: Of one request; the tenth comes after half a minute on average.
        first_delay: Seconds that the first pause takes at most; twice as many the next one.
        longest_delay: Seconds that a pause takes at most.
        seconds: After these no further attempt is begun; a store that is silent takes its time.
    """

    attempts: int = 10
    first_delay: float = 0.2
    longest_delay: float = 20.0
    seconds: float = 180.0


POLICY = RetryPolicy()

# Seconds that a request has to be late for people to be told, and between two times.
_LATE, _QUIET = 5.0, 60.0

# What a lookup finds out, and no fault.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)

_NO_SUCH_RANGE = 416

_KINDS_BY_STATUS = {
    408: "timeout",
    409: "conflict",
    429: "throttled",
    500: "server error",
    502: "server error",
    503: "throttled",
    504: "timeout",
}
_KINDS_BY_CODE = {
    "RequestTimeout": "timeout",
    "SlowDown": "throttled",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "TooManyRequests": "throttled",
    "RequestLimitExceeded": "throttled",
    "InternalError": "server error",
    "ServiceUnavailable": "throttled",
    "IncompleteBody": "incomplete body",
    "BadDigest": "incomplete body",
    "XAmzContentSHA256Mismatch": "incomplete body",
}
# By names of classes, since their libraries are loaded only for stores that need them. The names
# of their base classes count too.
_KINDS_BY_CLASS = {
    "ResponseStreamingError": "incomplete body",
    "ClientPayloadError": "incomplete body",
    "IncompleteRead": "incomplete body",
    "IncompleteReadError": "incomplete body",
    "FlexibleChecksumError": "incomplete body",
    "ResponseParserError": "incomplete body",
    "ReadTimeoutError": "timeout",
    "ConnectTimeoutError": "timeout",
    "TimeoutError": "timeout",
    "FSTimeoutError": "timeout",
    "HTTPClientError": "connection",
    "ClientConnectionError": "connection",
    "ConnectionError": "connection",
}

_CREDENTIALS = "{what}; set or renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
_CREDENTIALS += "AWS_SESSION_TOKEN or a profile), then give the same command to continue"
_DENIED = "access is denied ({what}); allow reading, writing, deleting and listing (s3:GetObject, "
_DENIED += "s3:PutObject, s3:DeleteObject, s3:ListBucket), then give the same command to continue"
_FULL = "the store is full ({what}); make room, then give the same command to continue"
_READ_ONLY = "the store cannot be written ({what}); take another folder, or change its permissions"
_BUCKET = "there is no such bucket ({what}); make it, or correct the URL"
_CLOCK = "{what}; set the clock of this machine, then give the same command to continue"
_REMEDIES_BY_CODE = {
    "ExpiredToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "TokenRefreshRequired": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "NoSuchBucket": _BUCKET,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "RequestTimeTooSkewed": _CLOCK,
}
_REMEDIES_BY_CLASS = {
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "CredentialRetrievalError": _CREDENTIALS,
    "TokenRetrievalError": _CREDENTIALS,
}
_REMEDIES_BY_NUMBER = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
}


class _Tally:
    """Counts of requests that were tried again, by kind of fault; for all threads."""

    def __init__(self) -> None:
        self._lock, self._counts, self._quiet_until = threading.Lock(), Counter[str](), 0.0

    def add(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1

    def may_tell(self) -> bool:
        """Whether nothing was told for a minute; it is about to be."""
        with self._lock:
            now = time.monotonic()
            may = now >= self._quiet_until
            if may:
                self._quiet_until = now + _QUIET
            return may

    def read(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()


_TALLY = _Tally()


def retried_requests() -> Counter[str]:
    """Return how many requests this process has tried again so far, by kind of fault."""
    return _TALLY.read()


def passing_fault(error: BaseException) -> str | None:
    """Name the kind of a fault that may pass; None for all others."""
    if isinstance(error, (StoreError, *_ANSWERS)):
        return None
    code, status = _response(error)
    if code or status:
        return None if _remedy(error) else _KINDS_BY_CODE.get(code, _KINDS_BY_STATUS.get(status))
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((_KINDS_BY_CLASS[name] for name in names if name in _KINDS_BY_CLASS), None)


def endure(place: str, call: Callable[[], T]) -> T:
    """Do one operation of a store, again while its faults may pass.

    Args:
        place: What it is about, for messages.
        call: Does it; safe to repeat.

    Raises:
        StoreError: It fails for good, or has failed too often.
        FileNotFoundError, FileExistsError, IsADirectoryError: As `call` does.
    """
    try:
        return Retrying(**_policy(place))(call)
    except Exception as error:
        raise_explained(error, place)


async def endure_request(place: str, call: Callable[[], Awaitable[T]]) -> T:
    """Do one request as `endure` does."""
    try:
        return await AsyncRetrying(**_policy(place))(call)
    except Exception as error:
        raise_explained(error, place)


def raise_explained(error: Exception, place: str) -> NoReturn:
    """Raise an answer or a StoreError as it is, and all else as a StoreError with the remedy."""
    if isinstance(error, StoreError):
        raise error
    remedy, kind = _remedy(error), passing_fault(error)
    code, status = _response(error)
    # Zarr and files ask for ranges and find out so that there is nothing.
    if remedy is None and (isinstance(error, _ANSWERS) or status == _NO_SUCH_RANGE):
        raise error
    text = _one_line(error)
    told: StoreError
    if remedy is _BUCKET:
        scheme, mark, path = place.rpartition("://")
        bucket = scheme + mark + path.partition("/")[0]
        told = NoBucketError(f"{bucket}: {remedy.format(what=text)}", lasting=True, everywhere=True)
    elif remedy is not None:
        told = StoreError(f"{place}: {remedy.format(what=text)}", lasting=True, everywhere=True)
    elif kind is not None:
        # Silence costs minutes a request; an answer, even an error, may be about one file.
        told = StoreError(
            f"{place}: {kind} in every attempt, up to {POLICY.attempts} in {POLICY.seconds:g} s, "
            f"the last time: {text}",
            remedy="; give the same command to continue when the store is well",
            everywhere=kind == "timeout" and not (code or status),
        )
    elif isinstance(error, PermissionError) or status in {401, 403}:
        told = StoreError(f"{place}: {_DENIED.format(what=text)}", lasting=True)
    elif status == 501:
        told = UnsupportedError(f"{place}: {text}", lasting=True)
    else:
        # An answer that says no will say so again; anything else is unknown.
        told = StoreError(f"{place}: {text}", lasting=bool(code or status))
    raise told from (error if _is_clean(error) else None)


def is_lasting(error: object) -> bool:
    """Return whether trying again cannot help."""
    return error.lasting if isinstance(error, StoreError) else _number(error) in _REMEDIES_BY_NUMBER


def is_everywhere(error: object) -> bool:
    """Return whether all other work on the same store would fail too."""
    full = _number(error) in _REMEDIES_BY_NUMBER
    return error.everywhere if isinstance(error, StoreError) else full


@contextmanager
def full_disks_explained(place: str) -> Iterator[None]:
    """Make a StoreError of what a full or read-only disk raises."""
    try:
        yield
    except OSError as error:
        if _number(error) in _REMEDIES_BY_NUMBER:
            raise_explained(error, place)
        raise


def _policy(place: str) -> Mapping[str, Any]:
    return {
        "stop": stop_after_attempt(POLICY.attempts) | stop_after_delay(POLICY.seconds),
        "wait": wait_random_exponential(multiplier=POLICY.first_delay, max=POLICY.longest_delay),
        "retry": retry_if_exception(lambda error: passing_fault(error) is not None),
        "before_sleep": partial(_note, place),
        "reraise": True,
    }


def _note(place: str, state: RetryCallState) -> None:
    """Count a request that is tried again, and log one that is late."""
    error = state.outcome.exception() if state.outcome else None
    kind = (error and passing_fault(error)) or "other"
    _TALLY.add(kind)
    late = (state.seconds_since_start or 0) + state.upcoming_sleep
    if error and late >= _LATE and _TALLY.may_tell():
        text = redact(f"{place}: {kind}: {_one_line(error)}")
        logging.getLogger("styleclip").warning(
            "the store does not do what it is asked (%s); trying again for up to %g s a request",
            *(text, POLICY.seconds),
        )


def _response(error: BaseException) -> tuple[str, int]:
    """The code and status of an answer to a request; empty and 0 where there was none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return str(response.get("Error", {}).get("Code", "")), int(status)
    # That of aiohttp.
    status = getattr(error, "status", 0)
    return "", status if isinstance(status, int) else 0


def _remedy(error: BaseException) -> str | None:
    """What to do about an error that concerns the whole store; None for others."""
    code, status = _response(error)
    if code in _REMEDIES_BY_CODE:
        return _REMEDIES_BY_CODE[code]
    if status == 507:
        return _FULL
    names = [kind.__name__ for kind in type(error).__mro__]
    by_class = (_REMEDIES_BY_CLASS[name] for name in names if name in _REMEDIES_BY_CLASS)
    return next(by_class, None) or _REMEDIES_BY_NUMBER.get(_number(error))


def _number(error: object) -> int:
    """The errno of a disk's error; 0 for answers to requests, in which libraries put others."""
    if not isinstance(error, OSError) or _response(error) != ("", 0):
        return 0
    return error.errno or 0


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_clean(error: BaseException | None) -> bool:
    """Whether neither an error nor what led to it holds credentials, so that traces may show it."""
    while error is not None:
        if redact(str(error)) != str(error):
            return False
        error = error.__cause__ or error.__context__
    return True
