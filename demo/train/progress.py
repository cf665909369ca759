"""What a running stage says: one line, now and then."""

import time
from collections.abc import Callable

Report = Callable[[str], None]


class Pace:
    """Let something happen at most every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time again, and count from now if so."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True
