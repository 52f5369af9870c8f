"""The Ray cluster of a run: raised on this machine, or joined where one is kept."""

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

KNOCK_SECONDS = 10


@contextmanager
def cluster(settings: ClusterSettings) -> Iterator[None]:
    """A cluster for the length of the block. What was up before stays up: an outer block's cluster, and an existing one, which is only left.

    Raises ConfigError when it cannot be had.
    """
    if ray.is_initialized():
        yield
        return
    # On a busy machine a dead process is taken for a lost machine unless Ray asks a little longer what became of it.
    os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "10000")
    try:
        if settings.kind == "local":
            _raise(settings)
        else:
            _join(settings)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = "on this machine" if settings.kind == "local" else f"at {settings.address} (cluster.address)"
        raise ConfigError(f"no Ray cluster could be had {where}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _raise(settings: ClusterSettings) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local" by name: an address in the environment, or a cluster that happens to run here, is somebody else's.
    ray.init("local", num_cpus=settings.cpus, object_store_memory=settings.object_store_bytes, include_dashboard=False, **_voice(settings))


def _join(settings: ClusterSettings) -> None:
    host, _, port = str(settings.address).rpartition(":")
    if host and port.isdigit():  # Ray knocks for 40 s, twenty times over
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    ray.init(settings.address, **_voice(settings))


def _voice(settings: ClusterSettings) -> dict[str, Any]:
    return {"logging_level": getattr(logging, settings.log_level.upper()), "log_to_driver": settings.worker_output}
