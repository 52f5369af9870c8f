"""Equal keys exactly where results are equal."""

import json
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from infinitedub.pipeline.state.content_keys import key_of, source_fingerprint
from infinitedub.pipeline.storage import weights_digest as weights_digest_module
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.weights_digest import weights_digest
from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.records import Artifact, Box, Source, Span, Turns, Voice

PICTURE = Artifact("/here/a.png", "1" * 64, 10, "picture/png")
SOUND = Artifact("/here/a.flac", "2" * 64, 20, "sound/flac")
SOURCE = Source(PICTURE, False, 64, 48, 25.0, 1, (Voice(SOUND, 16000, 16000, 0, None),))


def key(*records: object, stage: str = "listen", version: int = 1, deciding: dict | None = None, extra: dict | None = None) -> str:
    return key_of(stage, version, records, deciding or {}, extra or {})


def test_where_an_artifact_lies_does_not_count():
    elsewhere = replace(SOURCE, picture=replace(PICTURE, uri="s3://there/b.png"))
    assert key(SOURCE) == key(elsewhere)


@pytest.mark.parametrize(
    "other",
    [
        replace(SOURCE, picture=replace(PICTURE, sha256="3" * 64)),
        replace(SOURCE, picture=replace(PICTURE, kind="footage/mp4")),
        replace(SOURCE, width=65),
        replace(SOURCE, voices=SOURCE.voices * 2),
        replace(SOURCE, voices=(replace(SOURCE.voices[0], box=Box(0, 0, 1, 1)),)),
    ],
)
def test_everything_else_of_a_record_counts(other: Source):
    assert key(SOURCE) != key(other)


def test_stage_version_settings_and_extra_count():
    keys_ = {
        key(SOURCE),
        key(SOURCE, stage="segment"),
        key(SOURCE, version=2),
        key(SOURCE, deciding={"crf": 18}),
        key(SOURCE, deciding={"crf": 19}),
        key(SOURCE, extra={"weights": "abc"}),
        key(SOURCE, None),
        key(),
    }
    assert len(keys_) == 8
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in keys_)


def test_the_order_of_settings_does_not_count_and_that_of_records_does():
    assert key(deciding={"a": 1, "b": 2}) == key(deciding={"b": 2, "a": 1})
    assert key("a", "b") != key("b", "a")
    assert key(("a",), "b") != key("a", ("b",))


def test_a_key_is_the_same_tomorrow():
    """A change here makes every stored result be made again: raise the version of a stage instead."""
    records = (PICTURE, (Span(0, 9), "ü", None), Turns.TOGETHER, 0.1)
    assert key(*records, deciding={"crf": 18}, extra={"weights": "ab"}) == "7f44b256959a56964917be64bd4458e0a8bef62c9e850c43524d67bbfba945d5"


def test_what_cannot_be_written_one_way_only_is_refused():
    for odd in ({1, 2}, b"bytes", Path("a"), object(), {1: "a"}):
        with pytest.raises(TypeError):
            key(odd)
    with pytest.raises(ValueError, match="JSON"):
        key(float("nan"))


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_an_input_is_known_by_place_size_and_change(storage: Storage, tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    seen = [source_fingerprint(storage, str(path))]
    assert source_fingerprint(storage, str(path)) == seen[0]
    os.utime(path, ns=(2, 2))
    seen.append(source_fingerprint(storage, str(path)))
    path.write_bytes(b"four")
    os.utime(path, ns=(2, 2))
    seen.append(source_fingerprint(storage, str(path)))
    (tmp_path / "b.mp4").write_bytes(b"four")
    os.utime(tmp_path / "b.mp4", ns=(2, 2))
    seen.append(source_fingerprint(storage, str(tmp_path / "b.mp4")))
    assert len(set(seen)) == 4
    with pytest.raises(BadInput):
        source_fingerprint(storage, str(tmp_path / "c.mp4"))


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "vae" / "a.safetensors").write_bytes(bytes(1000))
    return folder


def changed(path: Path, data: bytes) -> None:
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(data)
    os.utime(path, ns=(stamp + 1_000_000, stamp + 1_000_000))


def test_the_digest_of_a_model_follows_its_content(storage: Storage, model: Path, tmp_path: Path):
    first = weights_digest(storage, str(model))
    copy = model.rename(tmp_path / "moved")
    assert weights_digest(storage, str(copy)) == first
    (copy / "README.md").write_text("words")
    (copy / "train.py").write_text("how it was made")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "train.pyc").write_bytes(b"compiled")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").write_text("")
    assert weights_digest(storage, str(copy)) == first
    changed(copy / "vae" / "a.safetensors", bytes(999) + b"1")
    second = weights_digest(storage, str(copy))
    assert second != first
    (copy / "vae" / "a.safetensors").rename(copy / "vae" / "b.safetensors")
    assert weights_digest(storage, str(copy)) not in (first, second)


def test_a_single_file_is_a_model_too(storage: Storage, model: Path):
    file = str(model / "vae" / "a.safetensors")
    assert weights_digest(storage, file) == weights_digest(storage, file)
    assert weights_digest(storage, file) != weights_digest(storage, str(model / "config.json"))


def test_no_model_is_a_config_error(storage: Storage, tmp_path: Path):
    with pytest.raises(ConfigError, match="none does not exist"):
        weights_digest(storage, str(tmp_path / "none"))


def test_of_a_large_file_every_tensor_counts(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A fine-tune of one small layer lies between two samples of the whole."""
    monkeypatch.setattr(weights_digest_module, "WHOLE_BYTES", 1 << 20)
    path = tmp_path / "big.safetensors"
    tensors = {"frozen": np.zeros(16 << 20, np.uint8), "projector": np.zeros(40_000, np.uint8), "rest": np.zeros(16 << 20, np.uint8)}

    def digest() -> str:
        save_file(tensors, path)
        stamp = time.time_ns() + len(seen) * 10**9
        os.utime(path, ns=(stamp, stamp))
        return weights_digest(storage, str(path))

    seen: list[str] = []
    for changed_name in (None, "projector", "frozen", "rest"):
        if changed_name:
            tensors[changed_name] += 1
        seen.append(digest())
    assert len(set(seen)) == 4


WRONG_HEADERS = (
    *(b"no json", b"[]", b"{}", b'{"a": 1}', b"[" * 5000),
    *(b'{"a": {"data_offsets": %s}}' % offsets for offsets in (b"[5, 2]", b'"xy"', b"[0.5, 2]", b"[0, 1e99]", b"[0, 99999999999]", b"[1, 2, 3]")),
)


@pytest.mark.parametrize("header", WRONG_HEADERS)
def test_a_large_file_with_a_wrong_header_has_a_digest_too(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes):
    monkeypatch.setattr(weights_digest_module, "WHOLE_BYTES", 1 << 20)
    path = tmp_path / "big.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 << 20))
    assert weights_digest(storage, str(path)) == weights_digest(storage, str(path))


def test_a_large_file_counts_by_size_header_and_samples(storage: Storage, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weights_digest_module, "WHOLE_BYTES", 1 << 20)
    header = json.dumps({"pad": "x" * 200_000}).encode()
    data = bytearray(struct.pack("<Q", len(header)) + header + bytes(8 << 20))
    path = tmp_path / "big.safetensors"

    def digest() -> str:
        changed(path, bytes(data))
        return weights_digest(storage, str(path))

    seen = [digest()]
    assert digest() == seen[0]
    data[150_000] = ord("y")  # in the header, past the first sample
    seen.append(digest())
    data[-1] = 1
    seen.append(digest())
    for position in range(300_000, len(data), 4096):  # as training does: a little everywhere
        data[position] ^= 1
    seen.append(digest())
    data += b"\0"
    seen.append(digest())
    assert len(set(seen)) == 5
