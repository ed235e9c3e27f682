"""The network that tests/run brought up: PEC_TEST_HOME, PEC_TEST_PROJECT and PEC_TEST_BASE say where and which."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
pytest_plugins = ["tiers"]

from network import Network  # noqa: E402


@pytest.fixture(scope="session")
def net():
    network = Network(os.environ["PEC_TEST_HOME"], os.environ["PEC_TEST_PROJECT"], os.environ["PEC_TEST_BASE"])
    network.heal()
    network.deployment.wait_until_up()
    return network


def pytest_exception_interact(node, call):
    """What failed is said when it fails: a run that is broken off later has told why."""
    node.config.get_terminal_writer().line(f"\n{node.nodeid}: {call.excinfo.exconly()}")
