"""Time budgets that a signal can end early."""

import time


class Deadline:
    """End after `seconds`, None for never, or when `stop` is called, whichever comes first."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self.stopped = False

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.stopped or (self._end is not None and time.monotonic() >= self._end)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, at least 0; None without one."""
        if self._end is None:
            return None
        return 0.0 if self.passed else self._end - time.monotonic()

    def stop(self) -> None:
        """End now."""
        self.stopped = True

    def within(self, seconds: float | None) -> "Deadline":
        """Return a deadline at most `seconds` from now that ends no later than this one."""
        return _Part(self, seconds)


class _Part(Deadline):
    """A deadline inside another."""

    def __init__(self, whole: Deadline, seconds: float | None) -> None:
        super().__init__(seconds)
        self._whole = whole

    @property
    def passed(self) -> bool:
        return self._whole.passed or super().passed

    @property
    def seconds_left(self) -> float | None:
        own, whole = super().seconds_left, self._whole.seconds_left
        return own if whole is None else whole if own is None else min(own, whole)


def describe_seconds(seconds: float | None) -> str:
    """Write a duration as `1:02:03`, or `?` if unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
