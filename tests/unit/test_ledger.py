"""Commits: believed only while what they name is there, first come first served, never lost."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from infinitedub.pipeline.state import ledger as ledger_module
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Artifact, Chunk, Clip, Length, Receipt, Segment, Span, Window

KEY = "0f" + "e" * 62


def clip(storage: Storage, data: bytes, tmp_path: Path) -> tuple[str, Clip]:
    """A clip of two chunks and the attempt that made it."""
    with StageFiles(storage, stage="generate", key=KEY) as files:
        chunks = []
        for number in range(2):
            path = files.scratch() / "chunk.mkv"
            path.write_bytes(data + bytes([number]))
            chunks.append(Chunk(len(chunks), files.store(path, "chunk/mkv"), 4))
        return files.attempt, Clip(0, Span(0, 8), tuple(chunks))


def test_what_is_committed_is_found(storage: Storage, tmp_path: Path):
    ledger = Ledger(storage)
    assert ledger.find("generate", KEY, Clip) is None
    attempt, record = clip(storage, b"a", tmp_path)
    assert ledger.commit("generate", KEY, attempt, record) == record
    assert Ledger(storage).find("generate", KEY, Clip) == record
    assert ledger.find("generate", KEY[:-1] + "f", Clip) is None
    assert json.loads(storage.read(f"cas/generate/0f/{KEY}/_commit.json") or b"")["attempt"] == attempt


def test_records_come_back_as_the_types_they_were(storage: Storage):
    ledger = Ledger(storage)
    segments = (Segment(0, Span(0, 9), (Window(Span(0, 9), 0, 0, 0), Window(Span(8, 17), 1, 0, 3))), Segment(1, Span(9, 18), ()))
    ledger.commit("segment", KEY, "a1", segments)
    assert ledger.find("segment", KEY, tuple[Segment, ...]) == segments


def test_the_second_takes_the_result_of_the_first_and_deletes_nothing(storage: Storage, tmp_path: Path):
    ledger = Ledger(storage)
    first, second = clip(storage, b"a", tmp_path), clip(storage, b"b", tmp_path)
    ledger.commit("generate", KEY, *first)
    assert ledger.commit("generate", KEY, *second) == first[1]
    assert all(Path(chunk.picture.uri).exists() for chunk in second[1].chunks)


def test_a_commit_repeated_after_a_lost_reply_is_a_success(storage: Storage, tmp_path: Path, monkeypatch):
    ledger = Ledger(storage)
    attempt, record = clip(storage, b"a", tmp_path)
    store = storage._store("file")
    create = store.create

    def reply_lost(path: str, data: bytes) -> None:
        create(path, data)
        create(path, data)  # what a client does that heard nothing

    monkeypatch.setattr(store, "create", reply_lost)
    assert ledger.commit("generate", KEY, attempt, record) == record
    assert storage.list(f"cas/generate/0f/{KEY}") == sorted(["_commit.json", attempt])


def test_of_many_at_once_all_take_one_result(storage: Storage, tmp_path: Path):
    made = [clip(storage, bytes([number]), tmp_path) for number in range(8)]
    start = Barrier(len(made))

    def commit(attempt: str, record: Clip) -> Clip:
        start.wait()
        return Ledger(storage).commit("generate", KEY, attempt, record)

    with ThreadPoolExecutor(len(made)) as threads:
        taken = list(threads.map(lambda one: commit(*one), made))
    assert len(set(taken)) == 1
    assert taken[0] == Ledger(storage).find("generate", KEY, Clip)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"cut")])
def test_a_commit_whose_files_have_gone_is_passed_over_and_superseded(storage: Storage, tmp_path: Path, caplog, harm):
    ledger = Ledger(storage)
    attempt, record = clip(storage, b"first", tmp_path)
    ledger.commit("generate", KEY, attempt, record)
    harm(Path(record.chunks[1].picture.uri))
    with caplog.at_level(logging.WARNING):
        assert ledger.find("generate", KEY, Clip) is None
    assert record.chunks[1].picture.uri in caplog.text

    attempt, anew = clip(storage, b"second", tmp_path)
    assert ledger.commit("generate", KEY, attempt, anew) == anew
    assert ledger.find("generate", KEY, Clip) == anew
    harm(Path(anew.chunks[0].picture.uri))
    third = clip(storage, b"third", tmp_path)
    assert ledger.commit("generate", KEY, *third) == third[1]
    assert ledger.find("generate", KEY, Clip) == third[1]
    assert [name for name in storage.list(f"cas/generate/0f/{KEY}") if name.startswith("_")] == ["_commit.1.json", "_commit.2.json", "_commit.json"]


def test_a_film_taken_away_from_where_it_was_delivered_is_delivered_again(storage: Storage):
    ledger = Ledger(storage)
    uri = storage.put("films/a.mp4", b"film")
    receipt = Receipt(uri, "0" * 64, 4, storage.uri("films/a.json"))
    ledger.commit("publish", KEY, "a1", receipt)
    assert ledger.find("publish", KEY, Receipt) == receipt
    storage.delete("films/a.mp4")
    assert ledger.find("publish", KEY, Receipt) is None


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"not json",
        b"[]",
        b'{"attempt": "a"}',
        b'{"record": {"segment": 0}}',
        b'{"record": {"segment": "0", "span": {"start": 0, "stop": 8}, "chunks": []}}',
        b'{"record": {"segment": 0, "span": {"start": 9, "stop": 8}, "chunks": []}}',
        b'{"record": {"segment": 0, "span": {"start": 0, "stop": 8}, "chunks": [], "surplus": 1}}',
    ],
)
def test_a_commit_that_makes_no_sense_is_passed_over(storage: Storage, stored: bytes):
    storage.put(f"cas/generate/0f/{KEY}/_commit.json", stored)
    ledger = Ledger(storage)
    assert ledger.find("generate", KEY, Clip) is None
    record = Clip(0, Span(0, 8), ())
    assert ledger.commit("generate", KEY, "a1", record) == record
    assert ledger.find("generate", KEY, Clip) == record


def test_enums_and_nothing_travel(storage: Storage):
    ledger = Ledger(storage)
    artifact = Artifact(storage.put("x", b"x"), "0" * 64, 1, "test/x")
    ledger.commit("a", KEY, "a1", artifact)
    assert ledger.find("a", KEY, Artifact) == artifact
    ledger.commit("b", KEY, "a1", Length.AUDIO)
    assert ledger.find("b", KEY, Length) is Length.AUDIO


@pytest.mark.parametrize("uri", ["", "\x00", "s3://", "nosuch://bucket/chunk.mkv", "ROOT/" + "x" * 5000])
def test_an_entry_that_names_an_impossible_file_is_ignored_and_superseded(storage: Storage, tmp_path: Path, caplog, uri: str):
    ledger = Ledger(storage)
    attempt, record = clip(storage, b"a", tmp_path)
    ledger.commit("generate", KEY, attempt, record)
    path = Path(storage.root) / f"cas/generate/0f/{KEY}/_commit.json"
    entry = json.loads(path.read_text())
    entry["record"]["chunks"][0]["picture"]["uri"] = uri.replace("ROOT", storage.root)
    path.write_text(json.dumps(entry))
    with caplog.at_level(logging.WARNING):
        assert ledger.find("generate", KEY, Clip) is None
    assert "the commit is ignored" in caplog.text
    other = clip(storage, b"b", tmp_path)
    assert ledger.commit("generate", KEY, *other) == other[1]
    assert ledger.find("generate", KEY, Clip) == other[1]


def test_the_adapter_of_a_type_is_built_once(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    built = []
    real = ledger_module.TypeAdapter
    monkeypatch.setattr(ledger_module, "TypeAdapter", lambda type_: (built.append(type_), real(type_))[1])
    ledger_module._adapter.cache_clear()
    ledger = Ledger(storage)
    ledger.commit("publish", KEY, "a1", Receipt("films/a.mp4", "0" * 64, 0, "films/a.json"))
    for _ in range(5):
        ledger.find("publish", KEY, Receipt)
    ledger_module._adapter.cache_clear()
    assert built == [Receipt]


def test_a_storage_that_refuses_every_read_is_not_taken_for_a_damaged_entry(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such as credentials that expire between the entry and its files: finished work would be made again."""
    ledger = Ledger(storage)
    ledger.commit("generate", KEY, *clip(storage, b"a", tmp_path))
    read = storage.read

    def expired(*_: object) -> None:
        raise ConfigError("ExpiredToken")

    def read_the_entry_only(name: str) -> bytes | None:
        return read(name) if KEY in name else expired()

    monkeypatch.setattr(storage, "stat", expired)
    monkeypatch.setattr(storage, "read", read_the_entry_only)
    with pytest.raises(ConfigError, match="ExpiredToken"):
        ledger.find("generate", KEY, Clip)
