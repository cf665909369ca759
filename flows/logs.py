"""What Prefect logs: no text of a stranger drives a terminal, forges a line or shows a secret."""

import copy
import logging
import sys
import traceback

from flows.failures import is_hopeless
from flows.progress import printable
from tasks.store.redaction import redact


def make_logs_plain() -> None:
    """Escape and redact what the handlers that Prefect sets up write or send."""
    # Not above, since its settings must be in the environment before.
    from prefect.logging.configuration import ensure_logging_setup

    ensure_logging_setup()
    for logger in _loggers():
        for handler in logger.handlers:
            is_plain = isinstance(handler.formatter, _Plain)
            if type(handler).__module__.startswith("prefect.") and not is_plain:
                handler.setFormatter(_Plain(handler.formatter or logging.Formatter()))
                handler.addFilter(_can_be_written)


def leave_errors_to_command() -> None:
    """Show no traceback of a flow or shard that failed: the command says why, in a line.

    Nor that a server is still being told of what is done.
    """
    from prefect.logging.handlers import PrefectConsoleHandler

    for logger in _loggers():
        for handler in logger.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_for_people)


def _can_be_written(_: logging.LogRecord) -> bool:
    # While Python ends, what handlers import is gone: complaints of sessions that are still open
    # would become tracebacks of logging.
    return not sys.is_finalizing()


def _is_for_people(record: logging.LogRecord) -> bool:
    if record.name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        # Of a command that was interrupted, Prefect says that it crashed.
        return not (record.exc_info or record.getMessage().startswith("Crash detected!"))
    # While a server ends, requests that it has not answered are cancelled.
    if record.name.startswith("sqlalchemy.pool"):
        return False
    return not record.getMessage().startswith("Still processing items:")


def _loggers() -> list[logging.Logger]:
    names = [name for name in logging.root.manager.loggerDict if name.startswith("prefect")]
    return [logging.root, *map(logging.getLogger, names)]


class _Plain(logging.Formatter):
    """Format as another formatter does, with messages of one line each."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        plain = copy.copy(record)
        plain.msg, plain.args = _one_line(record.getMessage()), None
        if _says_all(record):
            plain.exc_info = plain.exc_text = None
        elif record.exc_info and record.exc_info[1]:
            plain.exc_text = _trace(record.exc_info[1])
        return printable(redact(self._inner.format(plain)))


def _says_all(record: logging.LogRecord) -> bool:
    """Whether the message of a flow's error suffices; at the level DEBUG the trace is shown too."""
    logger, error = logging.getLogger(record.name), record.exc_info and record.exc_info[1]
    is_of_flow = record.name in ("prefect.flow_runs", "prefect.engine")
    return is_of_flow and is_hopeless(error) and not logger.isEnabledFor(logging.DEBUG)


def _trace(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    chain: BaseException | None = error
    while chain is not None:
        text = text.replace(str(chain), _one_line(str(chain)))
        chain = chain.__cause__ or chain.__context__
    return text


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")
