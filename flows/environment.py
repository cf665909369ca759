"""What the environment says: to Prefect before it is imported, of metrics, and of samples."""

import os
from pathlib import Path

# Whoever sets one of these keeps it.
_SETTINGS = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The first start makes a database, which takes a minute on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    # A processor's threads that wait by spinning slow the others down.
    "OMP_WAIT_POLICY": "passive",
}


def set_defaults() -> None:
    """Set what is not set; to be called before Prefect is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)  # noqa: TID251


def metrics_file() -> str:
    """Return where metrics go, as STYLECLIP_METRICS says; empty where nowhere."""
    return os.environ.get("STYLECLIP_METRICS", "")  # noqa: TID251


def set_metrics_file(path: str) -> None:
    """Let metrics of this process, and of those that it starts, go to a file.

    Raises:
        OSError: It cannot be written.
    """
    with Path(path).open("ab"):
        pass
    os.environ["STYLECLIP_METRICS"] = path  # noqa: TID251


def samples_shown() -> int:
    """Return how many sample pictures Prefect's server is given, as STYLECLIP_SAMPLES says.

    Raises:
        ValueError: It says no number.
    """
    said = os.environ.get("STYLECLIP_SAMPLES", "6")  # noqa: TID251
    if not said.isdecimal():
        raise ValueError(f"STYLECLIP_SAMPLES: got {said!r}, expected a number, 0 for no pictures")
    return int(said)
