"""The nodes of the Ray cluster that this process has joined."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infinitedub.pipeline.pools.placement import NAMES, Node

QUERY_SECONDS = 60.0


def alive_nodes() -> list[Node]:
    """The living nodes and all that they have, in use or not."""
    return [_node(entry) for entry in _alive()]


def nodes_with_gpu_memory() -> list[Node]:
    """As `alive_nodes`, with the memory of each node's smallest GPU from a task on the node; None where it does not answer in a minute."""
    entries = _alive()
    task: Any = ray.remote(smallest_gpu_bytes)
    references = {}
    for entry in entries:
        if entry["Resources"].get("GPU"):
            there = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            references[entry["NodeID"]] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
    answered, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=QUERY_SECONDS) if references else ([], [])
    return [replace(_node(entry), gpu_bytes=_value(references.get(entry["NodeID"]), answered)) for entry in entries]


def smallest_gpu_bytes() -> int | None:
    """Memory of this machine's smallest GPU; None without nvidia-smi, which unlike torch also answers a process that Ray gave no GPU."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_SECONDS / 2, check=True)
        return min(int(line) for line in answer.stdout.split()) * 2**20  # given in MiB
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _alive() -> list[dict[str, Any]]:
    return [entry for entry in ray.nodes() if entry["Alive"]]


def _node(entry: dict[str, Any]) -> Node:
    return Node(entry["NodeManagerHostname"], {name: entry["Resources"].get(name, 0.0) for name in NAMES})


def _value(reference: Any, answered: Sequence[Any]) -> int | None:
    if reference not in answered:
        return None
    try:
        found: int | None = ray.get(reference)
    except RayError:
        return None
    return found
