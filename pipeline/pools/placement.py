"""Placement on paper: what a cluster's nodes can hold, how many groups of each stage it gets, and what can never fit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TypeVar

from infinitedub.pipeline.pools.settings import ActorSettings, GangSettings, RaySettings
from infinitedub.stages.engines.device_bytes import DeviceBytes
from infinitedub.stages.errors import ConfigError

Resources = Mapping[str, float]
"""Amounts under Ray's names: CPU, GPU, and memory in bytes."""

Share = TypeVar("Share", ActorSettings, GangSettings)

NAMES = ("CPU", "GPU", "memory")
SLACK = 1e-4  # Ray counts in units of 1/10000
CARDS_PER_CONDITION = 8  # one process prepares windows many times faster than eight cards denoise them


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    name: str
    total: Resources
    gpu_bytes: int | None = None  # memory of its smallest GPU; None if it has none or does not say


@dataclass(frozen=True)
class GroupRequest:
    """The resources of one worker group: `ranks` times `per_rank`, all on one node."""

    stage: str
    per_rank: Resources
    ranks: int
    gang: bool = False

    def __str__(self) -> str:
        each = resource_text(self.per_rank)
        return f"a gang of {self.ranks} x ({each})" if self.gang else each


def resource_text(resources: Resources) -> str:
    """Resources for a message, such as `2 CPU, 1 GPU, 8.0 GB memory`."""
    parts = [f"{resources.get('CPU', 0):g} CPU", f"{resources.get('GPU', 0):g} GPU"]
    if memory := resources.get("memory"):
        parts.append(f"{memory / 1e9:.1f} GB memory")
    return ", ".join(parts)


def node_text(nodes: Iterable[Node]) -> str:
    """The nodes and their resources for a message."""
    return "; ".join(f"{node.name}: {resource_text(node.total)}" for node in nodes) or "no node"


def groups_on(total: Resources, request: GroupRequest) -> int:
    """How many such groups one node with these resources holds."""
    held = [floor(ranks_on(total.get(name, 0), request.per_rank.get(name, 0), whole=name == "GPU")) for name in NAMES if request.per_rank.get(name)]
    return min(held) // request.ranks if held else 1


def ranks_on(total: float, share: float, whole: bool) -> float:
    """How many shares of a resource a node holds. A share of a GPU never spans two GPUs (`whole`)."""
    if whole and share < 1:
        return floor(total + SLACK) * floor(1 / share + SLACK)
    return total / share + SLACK


def groups_that_fit(nodes: Iterable[Node], request: GroupRequest) -> int:
    """How many such groups the empty cluster holds."""
    return sum(groups_on(node.total, request) for node in nodes)


def resources_of(share: ActorSettings | GangSettings) -> Resources:
    """What each process of a stage asks for. A share of GPUs or memory that is null asks for none."""
    if isinstance(share, GangSettings):
        return {"CPU": share.cpus_per_rank, "GPU": share.gpus_per_rank or 0.0, "memory": float(share.memory_bytes_per_rank or 0)}
    return {"CPU": share.cpus, "GPU": share.gpus or 0.0, "memory": float(share.memory_bytes or 0)}


def requests_of(settings: RaySettings, stages: Iterable[str], degree: int) -> dict[str, GroupRequest]:
    """One group of each stage, by the stage's name."""
    shares = {stage: getattr(settings, stage) for stage in stages}
    gangs = {stage: isinstance(share, GangSettings) for stage, share in shares.items()}
    return {stage: GroupRequest(stage, resources_of(share), degree if gangs[stage] else 1, gangs[stage]) for stage, share in shares.items()}


def check_placement(settings: RaySettings, stages: Iterable[str], degree: int, nodes: Sequence[Node]) -> None:
    """Raises ConfigError if some stage's group fits on no node, even an empty one: what was asked, what there is, and what to change."""
    requests = requests_of(settings, stages, degree).values()
    refused = [request for request in requests if not groups_that_fit(nodes, request)]
    if refused:
        requested = "; ".join(f"{request.stage} asks for {request} ({remedy(request, nodes)})" for request in refused)
        raise ConfigError(
            f"no node of the cluster can hold: {requested}. The cluster has {node_text(nodes)}. "
            "If its autoscaler brings larger nodes, set cluster.autoscaling=true"
        )


def remedy(request: GroupRequest, nodes: Sequence[Node]) -> str:
    """The overrides with which one group of the request fits on some node."""
    if request.per_rank.get("GPU") and not any(node.total.get("GPU") for node in nodes):
        return "no node has a GPU; compute on CPUs with pools=local generate.device=cpu"
    degrees = [degree for degree in (8, 4, 2, 1) if degree < request.ranks and groups_that_fit(nodes, replace(request, ranks=degree))]
    if degrees:
        return f"it would fit with generate/parallel={'single' if degrees[0] == 1 else f'ulysses_{degrees[0]}'}"
    best = min(nodes, key=lambda node: sum(_lacking(request, node.total).values()), default=None)
    if best is None:
        return "the cluster has no node"
    suffix = "_per_rank" if request.gang else ""
    fields = {"CPU": f"cpus{suffix}", "GPU": f"gpus{suffix}", "memory": f"memory_bytes{suffix}"}
    words = []
    for name in _lacking(request, best.total):
        room = best.total.get(name, 0) / request.ranks
        words.append(f"pools.{request.stage}.{fields[name]}={int(room) if name == 'memory' else f'{floor(room * 100) / 100:g}'}")
    return f"it would fit with {' '.join(words)}"


def _lacking(request: GroupRequest, total: Resources) -> dict[str, float]:
    """The share of each resource that a node lacks for the group, for those that it lacks."""
    wanted = {name: request.per_rank.get(name, 0) * request.ranks for name in NAMES}
    return {name: 1 - total.get(name, 0) / amount for name, amount in wanted.items() if amount > total.get(name, 0) + SLACK}


def size_pools(settings: RaySettings, stages: Iterable[str], degree: int, nodes: Sequence[Node], peaks: DeviceBytes | None) -> RaySettings:
    """The settings with every null filled in from the nodes. Numbers that are set stay, but no more gangs than the cluster holds.

    GPU shares: if the peaks of condition and of a rank together fit into the memory of the smallest GPU, condition shares a rank's GPU
    (a quarter and three quarters); otherwise, or if the memory is unknown, each takes a whole GPU, and they take turns where there are too few.
    """
    shared = peaks is not None and shares_a_gpu(peaks, nodes)
    generate, condition = settings.generate, settings.condition
    if generate.gpus_per_rank is None:
        generate = replaced(generate, gpus_per_rank=0.75 if shared else 1.0)
    if condition.gpus is None:
        condition = replaced(condition, gpus=0.25 if shared else 1.0)
    sized = settings.model_copy(update={"generate": generate, "condition": condition})
    room = max(1, groups_that_fit(nodes, requests_of(sized, ["generate"], degree)["generate"]))
    update: dict[str, ActorSettings | GangSettings] = {"generate": replaced(generate, gangs=min(generate.gangs or room, room))}
    for stage in stages:
        share = getattr(sized, stage)
        if isinstance(share, ActorSettings) and share.actors is None:
            cards = sum(node.total.get("GPU", 0) for node in nodes)
            update[stage] = replaced(share, actors=max(1, ceil(cards / CARDS_PER_CONDITION)) if stage == "condition" else max(1, len(nodes)))
    return sized.model_copy(update=update)


def shares_a_gpu(peaks: DeviceBytes, nodes: Sequence[Node]) -> bool:
    """Whether condition and a rank of generate fit together into every GPU of the cluster; no if the memory of one is unknown."""
    sizes = [node.gpu_bytes for node in nodes if node.total.get("GPU")]
    return bool(sizes) and all(size is not None and peaks.condition + peaks.generate <= size for size in sizes)


def needs_low_memory(peak: int | None, nodes: Sequence[Node]) -> bool:
    """Whether a stage with that peak of GPU memory, if it is known, does not fit into some GPU whose memory is known."""
    return peak is not None and any(node.gpu_bytes is not None and peak > node.gpu_bytes for node in nodes)


def replaced(share: Share, **values: object) -> Share:
    """The settings with other values, checked again."""
    return type(share).model_validate({**share.model_dump(), **values})
