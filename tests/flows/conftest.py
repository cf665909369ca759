"""One Prefect server for all tests."""

import logging

import pytest

from flows.embedded_server import end_server_with_command
from flows.environment import set_defaults

set_defaults()
end_server_with_command()

from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from flows.logs import make_logs_plain  # noqa: E402

make_logs_plain()
logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(scope="session", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=280):
        yield
