"""The pools and clusters that come with the house are well-formed, and what cannot work is refused in words."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from infinitedub.pipeline.pools.settings import ClusterSettings, GangSettings, InlineSettings, PoolsSettings, RaySettings

CONF = Path(__file__).parents[2] / "conf"


def plain(path: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(CONF / path), resolve=True)


def pools(name: str) -> PoolsSettings:
    return TypeAdapter(PoolsSettings).validate_python(plain(f"pools/{name}.yaml"))


def test_every_yaml_of_the_groups_is_valid() -> None:
    kinds = {path.stem: type(pools(path.stem)) for path in (CONF / "pools").glob("*.yaml")}
    assert kinds == {"local": RaySettings, "cluster": RaySettings, "inline": InlineSettings}
    clusters = {path.stem: ClusterSettings.model_validate(plain(f"cluster/{path.name}")).kind for path in (CONF / "cluster").glob("*.yaml")}
    assert clusters == {"local": "local", "existing": "existing"}


def test_the_local_pools_fit_one_core_with_a_gang_of_two() -> None:
    settings = pools("local")
    assert isinstance(settings, RaySettings)
    shares = [getattr(settings, name) for name in RaySettings.model_fields]
    actors = sum((share.actors or 0) * share.cpus for share in shares if hasattr(share, "actors"))
    gangs = sum((share.gangs or 0) * 2 * share.cpus_per_rank for share in shares if isinstance(share, GangSettings))
    assert 0 < actors + gangs <= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"address": None}, "needs its address"),
        ({"address": "ray://head:10001"}, "ray job submit"),
        ({"object_store_bytes": 1000}, "object_store_bytes"),
        ({"adress": "auto"}, "adress"),
    ],
)
def test_clusters_that_cannot_be_joined_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClusterSettings.model_validate({**plain("cluster/existing.yaml"), **change})


@pytest.mark.parametrize(
    ("stage", "change"), [("ingest", {"actors": 0}), ("ingest", {"gpus": -1}), ("generate", {"watchdog_seconds": 0}), ("generate", {"ranks": 2})]
)
def test_pools_that_cannot_work_are_refused(stage: str, change: dict[str, Any]) -> None:
    given = plain("pools/local.yaml")
    given[stage] |= change
    with pytest.raises(ValidationError, match=f"{stage}.{next(iter(change))}"):
        TypeAdapter(PoolsSettings).validate_python(given)


def test_no_setting_of_pools_decides_results() -> None:
    assert pools("local").deciding() == {name: {} for name in RaySettings.model_fields if name in STAGES}


STAGES = ("ingest", "segment", "listen", "condition", "generate", "assemble", "publish", "retry")
