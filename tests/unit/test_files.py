"""The `Files` of one call: fetched, verified, kept, and cleared away."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from infinitedub.pipeline.state.content_keys import source_fingerprint
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.artifact_cache import ArtifactCache
from infinitedub.pipeline.storage.scratch import scratch_folder
from infinitedub.pipeline.storage.storage import Storage, StorageSettings
from infinitedub.stages.errors import BadInput, ConfigError, Damaged, Transient
from infinitedub.stages.records import Artifact

KEY = "ab" + "0" * 62


def artifact(data: bytes, uri: str = "s3://bucket/a.bin") -> Artifact:
    return Artifact(uri, hashlib.sha256(data).hexdigest(), len(data), "test/bin")


def files_of(storage: Storage) -> StageFiles:
    return StageFiles(storage, stage="ingest", key=KEY)


def test_what_is_kept_can_be_fetched(storage: Storage, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"picture")
    with files_of(storage) as files:
        kept = files.store(tmp_path / "a.png", "picture/png")
    assert kept == replace(artifact(b"picture"), uri=kept.uri, kind="picture/png")
    assert f"/cas/ingest/ab/{KEY}/{files.attempt}/" in kept.uri
    with files_of(storage) as files:
        assert files.fetch(kept).read_bytes() == b"picture"


def test_files_of_one_name_do_not_meet(storage: Storage):
    with files_of(storage) as files, files_of(storage) as other_call:
        kept = []
        for call, data in ((files, b"1"), (files, b"2"), (files, b"3"), (other_call, b"4")):
            path = call.scratch() / "chunk.mkv"
            path.write_bytes(data)
            kept.append(call.store(path, "chunk/mkv"))
        assert [files.fetch(one).read_bytes() for one in kept] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("damage", [b"pictur3", b"pict"])
def test_a_damaged_artifact_is_noticed(storage: Storage, tmp_path: Path, damage: bytes):
    (tmp_path / "a.png").write_bytes(b"picture")
    with files_of(storage) as files:
        kept = files.store(tmp_path / "a.png", "picture/png")
        Path(kept.uri).write_bytes(damage)
        with pytest.raises(Damaged, match=r"; wanted "):
            files.fetch(kept)


def test_an_artifact_that_is_gone_says_so(storage: Storage, tmp_path: Path):
    with files_of(storage) as files, pytest.raises(Transient, match="does not exist any more"):
        files.fetch(artifact(b"x", str(tmp_path / "never")))


def test_inputs_are_read_in_place_or_refused(storage: Storage, tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    with files_of(storage) as files:
        assert files.fetch(str(tmp_path / "a.mp4")) == tmp_path / "a.mp4"
        with pytest.raises(BadInput, match="does not exist"):
            files.fetch(str(tmp_path / "b.mp4"))


def test_scratch_goes_with_the_call(storage: Storage):
    with pytest.raises(RuntimeError), files_of(storage) as files:
        one, other = files.scratch(), files.scratch()
        assert one != other
        (one / "half.mp4").write_bytes(b"x")
        raise RuntimeError
    assert list(Path(storage.settings.cache, "calls").iterdir()) == []


def test_scratch_of_a_killed_process_is_swept_by_the_next(tmp_path: Path):
    code = (
        "import os, pathlib\nfrom infinitedub.pipeline.storage.scratch import scratch_folder\n"
        f"with scratch_folder(pathlib.Path({str(tmp_path)!r})) as folder:\n (folder / 'big').write_bytes(b'x')\n os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (left / "big").exists()
    with scratch_folder(tmp_path) as alive, scratch_folder(tmp_path) as mine:
        assert not left.exists()
        assert alive.exists()
        assert mine.exists()
    assert list(tmp_path.iterdir()) == []


def test_delivery_replaces_what_was_there(storage: Storage, tmp_path: Path):
    with files_of(storage) as files:
        for data in (b"first", b"second"):
            (tmp_path / "film.mp4").write_bytes(data)
            uri = files.deliver(tmp_path / "film.mp4", "films/a.mp4")
    assert uri == storage.uri("films/a.mp4")
    assert storage.read("films/a.mp4") == b"second"


# -- the node's cache -------------------------------------------------------------------------------------------------


class Server:
    """Counts how often it is asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0

    def __call__(self, to: Path) -> None:
        self.asked += 1
        to.write_bytes(self.data)


def test_a_result_is_fetched_once_per_node(tmp_path: Path):
    server = Server(b"features")
    for number in range(3):
        ArtifactCache(tmp_path / "cache", 10**6).link(artifact(b"features"), tmp_path / f"{number}", server)
        assert (tmp_path / f"{number}").read_bytes() == b"features"
    assert server.asked == 1


def test_a_result_that_another_process_lets_go_of_is_still_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It goes in the moment between the link to it and the note that it was used."""
    cache, server = ArtifactCache(tmp_path / "cache", 10**6), Server(b"features")
    cache.link(artifact(b"features"), tmp_path / "a", server)

    def late(place: Path) -> None:
        place.unlink()
        raise FileNotFoundError(place)

    monkeypatch.setattr(os, "utime", late)
    cache.link(artifact(b"features"), tmp_path / "b", server)
    assert (tmp_path / "b").read_bytes() == b"features"
    assert server.asked == 1


def test_a_cached_result_that_was_cut_short_is_fetched_anew(tmp_path: Path):
    cache, server = ArtifactCache(tmp_path / "cache", 10**6), Server(b"features")
    cache.link(artifact(b"features"), tmp_path / "a", server)
    assert (tmp_path / "a").stat().st_mode & 0o222 == 0  # all who were given it share its bytes
    (place,) = (tmp_path / "cache").glob("??/*")
    place.unlink()
    place.write_bytes(b"feat")
    for name, asked in (("b", 2), ("c", 2)):
        cache.link(artifact(b"features"), tmp_path / name, server)
        assert ((tmp_path / name).read_bytes(), server.asked) == (b"features", asked)


def test_a_bad_download_is_neither_used_nor_cached(tmp_path: Path):
    cache = ArtifactCache(tmp_path / "cache", 10**6)
    with pytest.raises(Transient, match="sha256"):
        cache.link(artifact(b"features"), tmp_path / "a", Server(b"f3atures"))
    server = Server(b"features")
    cache.link(artifact(b"features"), tmp_path / "b", server)
    assert server.asked == 1


def test_the_longest_unused_goes_first_and_stays_with_whoever_has_it(tmp_path: Path):
    cache = ArtifactCache(tmp_path / "cache", 250)
    old, new, next_ = (bytes([letter]) * 100 for letter in b"abc")
    cache.link(artifact(old), tmp_path / "old", Server(old))
    cache.link(artifact(new), tmp_path / "new", Server(new))
    for age, data in ((50, old), (100, new)):
        place = tmp_path / "cache" / artifact(data).sha256[:2] / artifact(data).sha256
        os.utime(place, (place.stat().st_mtime - age,) * 2)
    cache.link(artifact(next_), tmp_path / "next", Server(next_))
    assert (tmp_path / "new").read_bytes() == new
    again = {data: Server(data) for data in (old, new)}
    for data, server in again.items():
        cache.link(artifact(data), tmp_path / f"again-{server.data[0]}", server)
    assert [server.asked for server in again.values()] == [0, 1]


def test_a_cache_without_room_still_serves(storage_settings: StorageSettings, tmp_path: Path):
    cache = ArtifactCache(tmp_path / "cache", 0)
    cache.link(artifact(b"features"), tmp_path / "a", Server(b"features"))
    assert (tmp_path / "a").read_bytes() == b"features"
    assert list((tmp_path / "cache").glob("??/*")) == []


def test_a_cache_that_can_be_no_folder_is_a_config_error(storage_settings: StorageSettings, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    storage = Storage(storage_settings.model_copy(update={"cache": str(tmp_path / "file" / "node")}))
    with pytest.raises(ConfigError, match=r"storage\.cache"), StageFiles(storage, stage="ingest", key="ab"):
        pass


# -- one download for several callers ---------------------------------------------------------------------------------

DATA = b"x" * 1000


def link_slowly(folder: Path, number: int, downloads: Path) -> None:
    """Links one artifact from the cache; each download is noted in a file of its own, and takes a while."""

    def download(to: Path) -> None:
        (downloads / str(number)).touch()
        time.sleep(0.3)
        to.write_bytes(DATA)

    ArtifactCache(folder / "results", 1 << 20).link(artifact(DATA), folder / f"link-{number}", download)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_artifact_that_several_callers_need_at_once_is_downloaded_once(tmp_path: Path, kind: str):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    make = Thread if kind == "threads" else multiprocessing.get_context("fork").Process
    callers = [make(target=link_slowly, args=(tmp_path, number, downloads)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(list(downloads.iterdir())) == 1
    assert [(tmp_path / f"link-{number}").read_bytes() for number in range(4)] == [DATA] * 4
    assert not list((tmp_path / "results" / "locks").iterdir())


def test_the_cache_is_not_listed_at_every_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listings = []
    shrink = ArtifactCache._shrink
    monkeypatch.setattr(ArtifactCache, "_shrink", lambda self: (listings.append(1), shrink(self))[1])
    cache = ArtifactCache(tmp_path / "results", 100_000)
    for number in range(100):
        data = number.to_bytes(2, "little") * 500
        cache.link(artifact(data), tmp_path / f"link-{number}", lambda to, data=data: to.write_bytes(data) and None)
    assert 1 <= len(listings) <= 20


# -- sources that change, and files that are not needed any more -----------------------------------------------------


def test_a_source_that_changes_before_or_while_it_is_read_is_bad_input(storage: Storage, tmp_path: Path):
    source = tmp_path / "voice.wav"
    source.write_bytes(b"first take")
    seen = {str(source): source_fingerprint(storage, str(source))}
    with StageFiles(storage, stage="ingest", key=KEY, sources=seen) as files:
        assert files.fetch(str(source)) == source
        files.check_sources()
        source.write_bytes(b"second take, longer")
        with pytest.raises(BadInput, match=r"voice\.wav has changed while the run read it"):
            files.check_sources()
    with StageFiles(storage, stage="ingest", key=KEY, sources=seen) as files, pytest.raises(BadInput, match="has changed"):
        files.fetch(str(source))


def test_a_released_file_is_removed_from_the_calls_folder_and_stays_in_the_storage(storage: Storage, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"picture")
    with files_of(storage) as files:
        stored = files.store(tmp_path / "a.png", "picture/png")
        fetched = files.fetch(stored)
        files.release(fetched)
        assert Path(stored.uri).read_bytes() == b"picture"
        copy = files.scratch() / "copy.png"
        copy.write_bytes(b"a copy of this call")
        files.release(copy)
        assert not copy.exists()
