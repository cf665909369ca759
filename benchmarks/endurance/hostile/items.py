"""One hostile thing, and the damage that makes hostile things of good ones."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_EXTREMES = (b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0" * 8, b"\xff" * 8)


@dataclass(frozen=True)
class Item:
    """A hostile input.

    Attributes:
        kind: What it is, in words.
        name: Of its file.
        content: Its bytes.
        door: Which reader of the family gets it.
    """

    kind: str
    name: str
    content: bytes
    door: str = ""


class Family(Protocol):
    """Hostile inputs of one kind, the same for the same seed."""

    def __init__(self, folder: Path, seed: int, canary: Path) -> None:
        """Make the good samples.

        Args:
            folder: For files; its own.
            seed: Of all that is drawn.
            canary: Folder in which a payload leaves a file when it is run.
        """

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The errors by which the product refuses one on purpose."""

    def good(self) -> Item:
        """Return a good input, which must be accepted."""

    def item(self, index: int) -> Item:
        """Return one hostile input: those made by hand first, then damaged good ones."""

    def judge(self, item: Item) -> str:
        """Give an input to the product, and say in a word what became of it.

        Raises:
            Exception: One of `refusals`, or what the product should not have raised.
            AssertionError: The answer contradicts itself.
        """


def drawing(seed: int, family: str, index: int) -> random.Random:
    """Return the random numbers of an item."""
    return random.Random(f"{seed}-{family}-{index}")  # noqa: S311 nothing secret


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Damage a file in one of several ways, and say how."""
    data, size = bytearray(content), len(content)
    start = draw.randrange(size)
    # Headers are where it hurts.
    if draw.random() < 0.5:
        start = draw.randrange(min(size, 256))
    end = min(size, start + draw.choice((1, 4, 16, 256, 4096)))
    way = draw.choice(("flips", "truncation", "splice", "loss", "extreme", "noise", "tail"))
    if way == "flips":
        for _ in range(draw.randint(1, 12)):
            data[draw.randrange(start, size)] ^= 1 << draw.randrange(8)
    elif way == "truncation":
        del data[draw.randrange(size) :]
    elif way == "splice":
        place = draw.randrange(size)
        data[place:place] = data[start:end]
    elif way == "loss":
        del data[start:end]
    elif way == "extreme":
        value = draw.choice(_EXTREMES)
        data[start : start + len(value)] = value
    elif way == "noise":
        data[start:end] = draw.randbytes(end - start)
    else:
        data += draw.randbytes(draw.choice((1, 100, 10_000)))
    return way, bytes(data)
