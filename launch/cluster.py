"""The Ray cluster of a run: started on this machine, or an existing one that is joined."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from infinitedub.pipeline.pools.settings import ClusterSettings
from infinitedub.stages.errors import ConfigError

CONNECT_SECONDS = 10


@contextmanager
def cluster(settings: ClusterSettings) -> Iterator[None]:
    """A cluster for the duration of the block. An outer block's cluster stays up, and an existing cluster is only left.

    Raises ConfigError if no cluster can be started or joined.
    """
    if ray.is_initialized():
        yield
        return
    # On a busy machine Ray reports a dead process as a lost node unless it waits a little longer for the cause of death.
    os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "10000")
    try:
        if settings.kind == "local":
            _start(settings)
        else:
            _join(settings)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = "on this machine" if settings.kind == "local" else f"at {settings.address} (cluster.address)"
        raise ConfigError(f"no Ray cluster is available {where}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(settings: ClusterSettings) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local" by name: without it Ray would join a cluster from the environment, or one that happens to run here.
    ray.init("local", num_cpus=settings.cpus, object_store_memory=settings.object_store_bytes, include_dashboard=False, **_logging(settings))


def _join(settings: ClusterSettings) -> None:
    host, _, port = str(settings.address).rpartition(":")
    if host and port.isdigit():  # Ray itself would try for 40 s, twenty times
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    ray.init(settings.address, **_logging(settings))


def _logging(settings: ClusterSettings) -> dict[str, Any]:
    return {"logging_level": getattr(logging, settings.log_level.upper()), "log_to_driver": settings.worker_output}
