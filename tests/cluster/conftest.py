"""Servers that the tests of this folder share, and a film to compare with."""

import os
from collections.abc import Iterator

import pytest
from servers import S3Server, start_moto, start_swift
from undisturbed import Calm, make_calm

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve its workers where the machine has anything else to do


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Moto over HTTP."""
    server, processes = start_moto(tmp_path_factory.mktemp("moto"))
    yield server
    processes.stop()


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Swift with its S3 interface over HTTP."""
    server, processes = start_swift(tmp_path_factory.mktemp("swift"))
    yield server
    processes.stop()


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A film made when nothing disturbed it."""
    return make_calm(tmp_path_factory.mktemp("calm"))
