"""One Prefect server for all tests."""

import logging

import pytest

from flows.environment import set_defaults

set_defaults()

from prefect.testing.utilities import prefect_test_harness  # noqa: E402

logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(scope="session", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=280):
        yield
