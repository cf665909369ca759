"""S3 on which every request endures throttling, timeouts, resets and cut answers."""

import asyncio
import io
from collections.abc import Mapping
from mimetypes import MimeTypes
from typing import Any

from botocore.endpoint import MAX_POOL_CONNECTIONS
from botocore.exceptions import IncompleteReadError
from s3fs import S3FileSystem

from tasks.store.faults import StoreError, endure_request

# S3 takes this much in one request. Parts would be left behind, and paid for, where a process is
# killed; and an upload whose last answer is lost cannot be told from one that never was.
_LARGEST_PUT = 5 * 2**30
# A body that moves more slowly is as good as silence: bytes a second.
_SLOWEST = 64 * 2**10
# Requests that name a file's type, for good; a browser downloads what has none.
_NAMING = {"put_object", "create_multipart_upload"}
# Those of Python alone: the machine's own table would make two writers differ.
_TYPES = MimeTypes()


class EnduringS3(S3FileSystem):  # type: ignore[misc]
    """S3FileSystem that tries again in one place and counts it, see `tasks.store.faults`.

    Its own retries and those of botocore are off: they neither jitter, nor count, nor bound each
    other. The body of an answer belongs to its request, so that a cut one is asked for again.
    """

    retries = 1
    connect_timeout = 10
    read_timeout = 60

    def __init__(self, config_kwargs: Mapping[str, Any] | None = None, **options: Any) -> None:
        once = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
        # With more at a time, every read begins with a HEAD to see whether it is worth it.
        single = {"max_concurrency": 1}
        super().__init__(config_kwargs=once | dict(config_kwargs or {}), **single | options)
        self._patience = (config_kwargs or {}).get("read_timeout", self.read_timeout)
        # As many as there are connections: waiting for one is no silence of the store.
        most = (config_kwargs or {}).get("max_pool_connections", MAX_POOL_CONNECTIONS)
        self._turns = asyncio.Semaphore(most)

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        place = "/".join(options[n] for n in ("Bucket", "Key", "Prefix") if options.get(n))
        asked = super()._call_s3
        if method in _NAMING:
            options |= _content_type(options["Key"])

        async def request() -> Any:
            try:
                async with (
                    self._turns,
                    asyncio.timeout(self._allow(len(options.get("Body", b"")))) as limit,
                ):
                    answer = await asked(method, *arguments, **options)
                    if method == "get_object":
                        left = self._allow(answer.get("ContentLength", 0))
                        limit.reschedule(asyncio.get_running_loop().time() + left)
                        answer["Body"] = _WholeBody(await _read_whole(answer))
            except TimeoutError:
                raise TimeoutError("no whole answer in time") from None
            if method == "delete_objects" and answer.get("Errors"):
                # s3fs tells of what was deleted only.
                raise OSError(f"not deleted: {answer['Errors'][:3]}")
            return answer

        try:
            return await endure_request(f"s3://{place}", request)
        except StoreError as error:
            if method == "head_object" and error.lasting and not error.everywhere:
                # The answer to a HEAD has no body to say why; that to a GET has.
                first = {"Bucket": options["Bucket"], "Key": options["Key"], "Range": "bytes=0-0"}
                await self._call_s3("get_object", **first)
            raise

    def _allow(self, size: int) -> float:
        """Seconds for a request that moves so many bytes: the client limits only single reads."""
        return float(self._patience) + size / _SLOWEST

    async def _pipe_file(
        self, path: str, data: bytes, chunksize: int = _LARGEST_PUT, **options: Any
    ) -> Any:
        return await super()._pipe_file(path, data, chunksize=chunksize, **options)


def _content_type(key: str) -> Mapping[str, str]:
    # WebP is no standard type before Python 3.13.
    kind, encoding = _TYPES.guess_type(key, strict=False)
    return {"ContentType": kind} if kind and not encoding else {}


class _WholeBody:
    """A body that has arrived, as s3fs reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self._content.read(size)

    def close(self) -> None:
        self._content.close()


async def _read_whole(answer: Mapping[str, Any]) -> bytes:
    body = answer["Body"]
    try:
        content: bytes = await body.read()
    finally:
        body.close()
    if len(content) != answer.get("ContentLength", len(content)):
        raise IncompleteReadError(actual_bytes=len(content), expected_bytes=answer["ContentLength"])
    return content
