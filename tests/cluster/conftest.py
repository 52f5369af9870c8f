"""S3 servers and the reference film, shared by the tests of this folder."""

import os
from collections.abc import Iterator

import pytest
from reference_film import ReferenceFilm, make_reference_film
from servers import S3Server, start_moto, start_swift

os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's default of 15 its workers starve on a busy machine


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
def reference_film(tmp_path_factory: pytest.TempPathFactory) -> ReferenceFilm:
    """A film made without faults."""
    return make_reference_film(tmp_path_factory.mktemp("reference"))
