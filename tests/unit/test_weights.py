"""Weights as the pipeline sees them: what they are, for keys, and how those that lie elsewhere come to a node."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.weights import check_weights, digest_of, on_this_node
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.settings import LoraSettings
from infinitedub.stages.settings import Decides, Settings, Weights
from tests.unit.tiny import read


class Network(Settings):
    """Settings of a stage that reads weights."""

    weights: Weights
    """A folder."""
    loras: tuple[LoraSettings, ...]
    """Files."""
    steps: Decides[int]
    """No place at all."""


def network(weights: Path | str, *loras: tuple[Path | str, float]) -> Network:
    return Network(weights=str(weights), loras=tuple(LoraSettings(path=str(path), scale=scale) for path, scale in loras), steps=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "vae").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "vae" / "weights.safetensors").write_bytes(b"first training")
    return tmp_path / "model"


@pytest.fixture
def remote(folder: Path):
    """The same model in an object store."""
    bucket = fsspec.filesystem("memory")
    bucket.put(str(folder), "/bucket/model", recursive=True)
    yield "memory://bucket/model"
    bucket.rm("/bucket", recursive=True)


# -- what they are ----------------------------------------------------------------------------------------------------


def test_weights_of_the_same_size_are_told_apart(storage: Storage, folder: Path):
    before = digest_of(storage, network(folder))
    (folder / "vae" / "weights.safetensors").write_bytes(b"other training")
    assert digest_of(storage, network(folder)) != before
    (folder / "vae" / "weights.safetensors").write_bytes(b"first training")
    assert digest_of(storage, network(folder)) == before


def test_weights_count_by_what_they_are_and_not_by_where_they_lie(storage: Storage, folder: Path, remote: str, tmp_path: Path):
    before = digest_of(storage, network(folder))
    assert digest_of(storage, network(remote)) == before
    assert digest_of(storage, network(folder.rename(tmp_path / "moved"))) == before


def test_which_lora_has_which_scale_is_part_of_the_key(storage: Storage, folder: Path, tmp_path: Path):
    """The scales are in the settings, the files in the digest: together they must say who belongs to whom."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    given, swapped = network(folder, (one, 1.0), (two, 0.5)), network(folder, (two, 1.0), (one, 0.5))
    assert given.deciding() == swapped.deciding()
    assert digest_of(storage, given) != digest_of(storage, swapped)


def test_settings_without_weights_have_no_digest(storage: Storage):
    class Plain(Settings):
        steps: Decides[int]
        """Steps."""

    assert digest_of(storage, Plain(steps=3)) == ""


def test_weights_that_are_not_there_are_refused(storage: Storage, tmp_path: Path):
    for place in (tmp_path / "none", "bundled:none", "memory://bucket/none"):
        with pytest.raises(ConfigError, match="none"):
            digest_of(storage, network(place))


# -- how they come to a node ------------------------------------------------------------------------------------------


def test_weights_from_elsewhere_are_fetched_once_for_all_processes(storage: Storage, remote: str, monkeypatch: pytest.MonkeyPatch):
    fetched, download = [], storage.download

    def counting(uri: str, to: Path) -> None:
        fetched.append(uri)
        download(uri, to)

    monkeypatch.setattr(storage, "download", counting)
    given = network(remote, (f"{remote}/vae/weights.safetensors", 0.5))
    with ThreadPoolExecutor(4) as ranks:
        copies = list(ranks.map(lambda _: on_this_node(storage, given), range(4)))
    assert len(set(map(str, copies))) == 1
    assert sorted(fetched) == [f"{remote}/config.json", *[f"{remote}/vae/weights.safetensors"] * 2]  # once in the model, once as a LoRA
    here = copies[0]
    assert (Path(here.weights) / "vae" / "weights.safetensors").read_bytes() == b"first training"
    assert Path(here.loras[0].path).read_bytes() == b"first training"
    assert Path(here.loras[0].path).name == "weights.safetensors"  # readers look at the ending
    assert (here.loras[0].scale, here.steps) == (0.5, 4)
    check_weights(storage, here, digest_of(storage, given))


def test_weights_that_have_changed_are_fetched_anew(storage: Storage, remote: str):
    before = on_this_node(storage, network(remote))
    fsspec.filesystem("memory").pipe("/bucket/model/vae/weights.safetensors", b"other training")
    after = on_this_node(storage, network(remote))
    assert (Path(after.weights) / "vae" / "weights.safetensors").read_bytes() == b"other training"
    assert (Path(before.weights) / "vae" / "weights.safetensors").read_bytes() == b"first training"  # somebody may be reading it


def test_weights_of_this_machine_stay_where_they_are(storage: Storage, folder: Path):
    for place in (folder, "bundled:tiny"):
        assert on_this_node(storage, network(place)) == network(place)


# -- where they lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "adapter", "meant"),
    [
        ("bundled:tiny", "infinitetalk.safetensors", "bundled:tiny/infinitetalk.safetensors"),
        ("/weights/Wan", "../InfiniteTalk/single.safetensors", "/weights/InfiniteTalk/single.safetensors"),
        ("/weights/Wan", "/else/where.safetensors", "/else/where.safetensors"),
        ("/weights/Wan", "s3://bucket/a.safetensors", "s3://bucket/a.safetensors"),
        ("s3://bucket/weights/Wan", "../InfiniteTalk/single.safetensors", "s3://bucket/weights/InfiniteTalk/single.safetensors"),
        ("weights/Wan", "../single.safetensors", os.path.abspath("weights/single.safetensors")),
    ],
)
def test_the_adapter_is_seen_from_the_weights(weights: str, adapter: str, meant: str):
    settings = InfiniteTalkModel(**{**read("generate/model/tiny"), "weights": weights, "adapter": adapter})
    assert settings.adapter == meant
