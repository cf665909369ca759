"""Progress for people: bars with an ETA on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0
# Photographs and faces that failed and are told one by one.
NAMED = 5
# Plural nouns that are counted, besides statuses.
_PLURALS = (
    *("deployments", "edits", "files", "images", "latents", "mappers", "rows", "runs"),
    *("schedules", "shards", "steps", "work pools"),
    *("face rows", "latent rows", "manifest rows", "result rows"),
)


class UnreadError(BrokenPipeError):
    """Whoever read what a command says reads no more."""


class PipedConsole(Console):
    """A console that leaves it to the command what a closed pipe means."""

    def on_broken_pipe(self) -> NoReturn:
        """Tell it from other broken pipes, as those of a store or a worker.

        Raises:
            UnreadError: Always.
        """
        raise UnreadError


# Progress goes to stderr; stdout is for the result.
console = PipedConsole(stderr=True, highlight=False)


def printable(text: str) -> str:
    r"""Escape what would drive a terminal, as \x1b or \u202e; line breaks and tabs stay.

    Prompts, file names and messages of libraries hold what strangers wrote.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1]
        for letter in text
    )


def one_line(text: str) -> str:
    """Escape as `printable` does, and line breaks and tabs too, for what is one thing in a list."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


class Bar:
    """Report how far a stage is.

    Args:
        label: Of the stage.
        total: Steps in all; 0 where they are not known yet.
        progress: Where to draw; lines are printed where None.
    """

    def __init__(self, label: str, total: int, progress: Progress | None) -> None:
        self._label, self._total, self._progress = label, total, progress
        self._bar = progress.add_task(label, total=total or None, note="") if progress else None
        self._spoke = time.monotonic()
        # What loads networks or measures ends with the first step.
        self._first: tuple[float, float] | None = None

    def show(self, done: int, total: int) -> None:
        """Say that `done` steps of `total` are done now."""
        self._total = total
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, total=total)
        self.advance(done)

    def advance(self, done: float, note: str = "") -> None:
        """Say that `done` steps are done now, the last of them perhaps in part."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=done, note=note)
            return
        now = time.monotonic()
        began, before = self._first = self._first or (now, done)
        if now - self._spoke > _SECONDS_BETWEEN_LINES and done < self._total:
            self._spoke = now
            told = f"{done:.2f}".removesuffix(".00")
            rate = (done - before) / (now - began) if now > began else 0.0
            eta = f", ETA {(self._total - done) / rate:.0f} s" if rate > 0 else ""
            console.print(f"{self._label}: {told} of {self._total}{eta}  {note}".rstrip())


class Pieces:
    """Show how far work is by its pieces, each of which may tell its own share, from any thread.

    Args:
        bar: Where to show it; its steps are pieces.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar, self._lock = bar, threading.Lock()
        self._done, self._note, self._shares = 0, "", dict[int, float]()

    def tell(self, piece: int, share: float) -> None:
        """Say which share of a piece is done now, 0 to 1."""
        with self._lock:
            self._shares[piece] = share
            self._show()

    def finish(self, piece: int, note: str) -> None:
        """Say that a piece has ended."""
        with self._lock:
            self._shares.pop(piece, None)
            self._done, self._note = self._done + 1, note
            self._show()

    def _show(self) -> None:
        self._bar.advance(self._done + sum(self._shares.values()), self._note)


def say(line: str) -> None:
    """Tell people something.

    Flows whose shards other processes do use this: they are sent there whole, and a console cannot.
    """
    console.print(printable(line), markup=False, soft_wrap=True)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Bar]:
    """Show a bar on a terminal while the block runs."""
    with _drawn() as progress:
        yield Bar(label, total, progress)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each label that is told of, with its steps done and of all."""
    bars = dict[str, Bar]()
    with _drawn() as progress:

        def show(label: str, done: int, total: int) -> None:
            if label not in bars:
                bars[label] = Bar(label, total, progress)
            bars[label].show(done, total)

        yield show


@contextmanager
def _drawn() -> Iterator[Progress | None]:
    """What draws bars on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def describe_counts(counts: Mapping[str, int]) -> str:
    """Write counts by status, as `38 ok, 2 no_face`."""
    return ", ".join(
        f"{count} {status[:-1] if count == 1 and status in _PLURALS else status}"
        for status, count in sorted(counts.items(), key=lambda one: one[0] != "ok")
        if count
    )
