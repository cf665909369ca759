"""A proxy in front of a store that fails some requests, in seven ways of networks and stores."""

import http.client
import random
import socket
import struct
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args
from urllib.parse import urlsplit

import fsspec.config

import tasks.store.folders

Fault = Literal["throttled", "server error", "reset", "lost answer", "truncated", "delay", "drip"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_HOP_BY_HOP = {"connection", "expect", "transfer-encoding", "content-length", "date", "server"}
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Refusal:
    """An answer in place of the store's.

    Attributes:
        status: Of HTTP.
        code: Of S3.
        message: For people.
    """

    status: int
    code: str
    message: str


_REFUSALS = {
    "throttled": Refusal(503, "SlowDown", "Please reduce your request rate."),
    "server error": Refusal(500, "InternalError", "We encountered an internal error."),
}
_NO_CONDITIONS = Refusal(501, "NotImplemented", "A header implies what is not implemented.")


class FaultyProxy:
    """Forward requests to a store, and fail some of them.

    - throttled, server error: answer 503 SlowDown or 500, and do nothing;
    - reset: cut the connection before the store hears of the request;
    - lost answer: cut it after the store has done what was asked;
    - truncated: give half of the answer, whose length says more;
    - delay: give the answer when the client waits no more;
    - drip: promise an answer again and again, and never give it.

    Args:
        upstream: URL of the store.
        rate: Share of the requests that fail.
        seed: Of what fails how.
        delay: Seconds that a late answer takes.

    Attributes:
        requests: How many there were.
        faults: How many of them failed, by kind.
        conditions: What is done about If-None-Match: `kept`, `ignored` or `refused`, the latter two
            as by stores that do not know it.
    """

    def __init__(self, upstream: str, rate: float = 0.0, seed: int = 0, delay: float = 1.5) -> None:
        self.upstream, self.delay = urlsplit(upstream).netloc, delay
        self.rate, self._random = rate, random.Random(seed)  # noqa: S311
        self.requests, self.faults = 0, Counter[str]()
        self.conditions: Literal["kept", "ignored", "refused"] = "kept"
        self._script, self._lock = deque[Fault | Refusal | None](), threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def script(self, *faults: Fault | Refusal | None) -> None:
        """Fail the next requests so, in this order; None is no fault."""
        with self._lock:
            self._script = deque(faults)

    def next_fault(self) -> Fault | Refusal | None:
        """Decide about one more request."""
        with self._lock:
            self.requests += 1
            fault: Fault | Refusal | None = None
            if self._script:
                fault = self._script.popleft()
            elif self._random.random() < self.rate:
                fault = self._random.choice(FAULTS)
            if isinstance(fault, str):
                self.faults[fault] += 1
            return fault

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def faulty_proxy(
    upstream: str, rate: float = 0.0, seed: int = 0, read_timeout: float = 1.0
) -> Iterator[FaultyProxy]:
    """Send all S3 requests of this process through a proxy while the block runs.

    Args:
        upstream: URL of the store.
        rate: Share of the requests that fail.
        seed: Of what fails how.
        read_timeout: Seconds that the client waits for an answer; a late one takes longer.
    """
    proxy = FaultyProxy(upstream, rate, seed, delay=1.3 * read_timeout)
    before = dict(fsspec.config.conf)
    timeouts = {"read_timeout": read_timeout}
    fsspec.config.conf["s3"] = {"endpoint_url": proxy.url, "config_kwargs": timeouts}
    tasks.store.folders._file_system.cache_clear()
    try:
        yield proxy
    finally:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)
        tasks.store.folders._file_system.cache_clear()
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Keep quiet about clients that have gone, as those do who wait no more."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.next_fault()
            if proxy.conditions == "refused" and "If-None-Match" in self.headers:
                fault = _NO_CONDITIONS
            refusal = _REFUSALS.get(fault) if isinstance(fault, str) else fault
            if refusal is not None:
                text = _ERROR.format(refusal.code, refusal.message)
                self._send(refusal.status, [("Content-Type", "application/xml")], text.encode())
                return
            if fault == "reset":
                self._cut()
                return
            while fault == "drip":
                # Until the client has gone, which is a ConnectionError.
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(proxy.delay / 10)
            status, headers, content = self._forward(body)
            if fault == "delay":
                time.sleep(proxy.delay)
            if fault in {"delay", "lost answer"}:
                self._cut()
                return
            self._send(status, headers, content, cut=fault == "truncated")

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            hidden = _HOP_BY_HOP | {"host"}
            if proxy.conditions == "ignored":
                hidden |= {"if-none-match"}
            headers = {k: v for k, v in self.headers.items() if k.lower() not in hidden}
            try:
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                return response.status, response.getheaders(), response.read()
            finally:
                connection.close()

        def _send(
            self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False
        ) -> None:
            length = str(len(content))
            if self.command == "HEAD":
                length = {k.lower(): v for k, v in headers}.get("content-length", "0")
                content = b""
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            if not cut:
                self.end_headers()
                self.wfile.write(content)
            elif content:
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            else:
                # Half of the headers, where there is nothing else.
                self.flush_headers()
                self.close_connection = True

        def _cut(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.close_connection = True

    return Handler
