"""What fits on a cluster is decided on paper, for clusters of every size."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from infinitedub.pipeline.pools.placement import (
    GroupRequest,
    Node,
    check_placement,
    groups_that_fit,
    needs_low_memory,
    requests_of,
    shares_a_gpu,
    size_pools,
)
from infinitedub.pipeline.pools.settings import RaySettings
from infinitedub.stages.engines.device_bytes import DeviceBytes
from infinitedub.stages.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
STAGES = ("ingest", "segment", "listen", "condition", "generate", "assemble", "publish")
GIB = 2**30
SHARING = DeviceBytes(condition=20 * GIB, generate=45 * GIB)
ALONE = DeviceBytes(condition=26 * GIB, generate=54 * GIB)


def cluster_pools(**generate: object) -> RaySettings:
    given = OmegaConf.to_container(OmegaConf.load(CONF / "pools/cluster.yaml"), resolve=True)
    assert isinstance(given, dict)
    return RaySettings.model_validate({**given, "generate": {**given["generate"], **generate}})


def node(cpus: float, gpus: float, memory_gib: float = 200, card_gib: float | None = 79) -> Node:
    card = None if card_gib is None or not gpus else int(card_gib * GIB)
    return Node("node", {"CPU": cpus, "GPU": gpus, "memory": memory_gib * GIB}, card)


@pytest.mark.parametrize("cards", [1, 2, 4, 8])
@pytest.mark.parametrize("cpus", [8, 16, 32])
def test_one_process_of_every_stage_and_every_gang_fit_together_if_condition_shares_a_card(cards: int, cpus: int) -> None:
    sized = size_pools(cluster_pools(), STAGES, 1, [node(cpus, cards)], SHARING)
    check_placement(sized, STAGES, 1, [node(cpus, cards)])
    assert (sized.generate.gangs, sized.generate.gpus_per_rank, sized.condition.gpus, sized.condition.actors) == (cards, 0.75, 0.25, 1)
    asked = requests_of(sized, STAGES, 1)
    counts = {name: (sized.generate.gangs if name == "generate" else getattr(sized, name).actors) for name in STAGES}
    for resource, there in node(cpus, cards).total.items():
        assert sum(asked[name].per_rank[resource] * counts[name] for name in STAGES) <= there, resource


@pytest.mark.parametrize("peaks", [ALONE, None])
@pytest.mark.parametrize("cards", [1, 2, 4, 8])
def test_condition_takes_turns_for_a_whole_card_if_both_do_not_fit_on_one(cards: int, peaks: DeviceBytes | None) -> None:
    sized = size_pools(cluster_pools(), STAGES, 1, [node(8, cards)], peaks)
    check_placement(sized, STAGES, 1, [node(8, cards)])
    assert (sized.generate.gangs, sized.generate.gpus_per_rank, sized.condition.gpus) == (cards, 1.0, 1.0)


@pytest.mark.parametrize(("degree", "gangs"), [(1, 4), (2, 2), (4, 1)])
def test_gangs_of_several_ranks_share_the_cards_out(degree: int, gangs: int) -> None:
    assert size_pools(cluster_pools(), STAGES, degree, [node(16, 4)], SHARING).generate.gangs == gangs
    assert size_pools(cluster_pools(), STAGES, degree, [node(16, 4)] * 3, SHARING).generate.gangs == 3 * gangs


def test_a_gang_never_spans_two_nodes() -> None:
    nodes = [node(16, 2), node(16, 2)]
    with pytest.raises(ConfigError, match=r"generate asks for a gang of 4 x .*it would fit with generate/parallel=ulysses_2"):
        check_placement(size_pools(cluster_pools(), STAGES, 4, nodes, SHARING), STAGES, 4, nodes)


def test_numbers_that_are_set_stay_unless_the_cluster_has_fewer_cards() -> None:
    assert size_pools(cluster_pools(gangs=2), STAGES, 1, [node(16, 4)], SHARING).generate.gangs == 2
    assert size_pools(cluster_pools(gangs=8), STAGES, 1, [node(16, 4)], SHARING).generate.gangs == 4
    assert size_pools(cluster_pools(gpus_per_rank=0.5), STAGES, 1, [node(16, 4)], SHARING).generate.gangs == 8


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node(16, 0)], r"condition asks for .*no node has a GPU; compute on CPUs with pools=local generate\.device=cpu.*generate asks for"),
        ([node(0.2, 1)], r"generate asks for .*it would fit with pools\.generate\.cpus_per_rank=0\.2"),
        ([node(16, 1, memory_gib=5)], r"it would fit with pools\.generate\.memory_bytes_per_rank=5368709120"),
        ([], r"the cluster has no node"),
    ],
)
def test_what_can_never_fit_is_refused_with_what_there_is_and_what_mends_it(nodes: list[Node], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        check_placement(size_pools(cluster_pools(), STAGES, 1, nodes, None), STAGES, 1, nodes)
    assert "cluster.autoscaling=true" in str(refused.value)


def test_an_override_that_a_refusal_names_mends_it() -> None:
    small = [node(0.3, 1, memory_gib=5)]
    mended = cluster_pools(cpus_per_rank=0.3, memory_bytes_per_rank=5 * GIB)
    for name in ("condition", "assemble"):
        mended = mended.model_copy(update={name: getattr(mended, name).model_copy(update={"cpus": 0.3, "memory_bytes": 5 * GIB})})
    check_placement(size_pools(mended, STAGES, 1, small, None), STAGES, 1, small)


def test_a_share_of_a_card_does_not_span_two_cards() -> None:
    request = GroupRequest("generate", {"CPU": 0.1, "GPU": 0.75}, 1)
    assert groups_that_fit([node(16, 3)], request) == 3
    assert groups_that_fit([node(16, 3)], replace(request, per_rank={"GPU": 0.5})) == 6
    assert groups_that_fit([node(16, 3)], replace(request, per_rank={"CPU": 0.1})) == 160


def test_a_card_of_unknown_size_is_not_shared() -> None:
    assert shares_a_gpu(SHARING, [node(8, 1)])
    assert not shares_a_gpu(SHARING, [node(8, 1), node(8, 1, card_gib=24)])
    assert not shares_a_gpu(SHARING, [node(8, 1), node(8, 1, card_gib=None)])
    assert shares_a_gpu(SHARING, [node(8, 1), node(8, 0)])


def test_a_gpu_that_is_too_small_starts_in_low_memory_mode() -> None:
    assert needs_low_memory(45 * GIB, [node(8, 1), node(8, 1, card_gib=24)])
    assert not needs_low_memory(45 * GIB, [node(8, 1), node(8, 0)])
    assert not needs_low_memory(45 * GIB, [node(8, 1, card_gib=None)])
    assert not needs_low_memory(None, [node(8, 1, card_gib=24)])
