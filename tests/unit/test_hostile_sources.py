"""What a catalogue may make us read: no kind of URI, folder or part of a bucket but those that were allowed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from infinitedub.pipeline.state.content_keys import source_fingerprint
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput

Make = Callable[..., Storage]


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        *("memory://a", "github://a/b", "reference://x", "ftp://host/a.mp4", "sftp://host/a", "data:text/plain;base64,AAAA://x", "gs://bucket/a"),
        *("local:///etc/passwd", "arrow_hdfs://host/a", "dask://x", "jupyter://x", "libarchive://x", "tar://x", "zip://x", "S3A://bucket/a"),
    ],
)
def test_kinds_of_uri_that_were_not_allowed(storage_with: Make, uri: str) -> None:
    with pytest.raises(BadInput, match=r"storage\.sources\.schemes|does not exist"):
        storage_with().stat_input(uri)


@pytest.mark.parametrize("uri", ["simplecache::s3://b/a", "zip://a::/tmp/a.zip", "filecache::https://h/a", "s3://[x]::file:///etc/passwd"])
def test_chains_are_never_opened(storage_with: Make, uri: str) -> None:
    with pytest.raises(BadInput, match="chains of file systems"):
        storage_with(hosts=["h"]).stat_input(uri)


@pytest.mark.parametrize("scheme", ["memory", "http", "https", "ftp", "zip", "local", "*"])
def test_no_setting_opens_what_is_no_store_of_files(storage_with: Make, scheme: str) -> None:
    with pytest.raises(ValidationError, match="schemes"):
        storage_with(schemes=["file", scheme])


def test_paths_can_be_forbidden_altogether(storage_with: Make, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    for uri in (str(tmp_path / "a"), (tmp_path / "a").as_uri()):
        with pytest.raises(BadInput, match=r"the scheme file may not be read \(storage\.sources\.schemes"):
            storage_with(schemes=["s3"]).stat_input(uri)


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with a file that may be read, beside things that may not."""
    inside, outside = tmp_path / "media", tmp_path / "media-private"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (inside / "a.wav").write_bytes(b"voice")
    (outside / "secret").write_bytes(b"secret")
    (inside / "link-inside").symlink_to(inside / "a.wav")
    (inside / "link-out").symlink_to(outside / "secret")
    (inside / "sub" / "chain").symlink_to(inside / "link-out")
    (inside / "folder-out").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    (tmp_path / "other-name").symlink_to(inside)
    return inside


@pytest.mark.parametrize("name", ["a.wav", "sub/../a.wav", "link-inside", "../other-name/a.wav", "./sub/.././/a.wav"])
def test_what_lies_below_a_root_is_read(storage_with: Make, media: Path, tmp_path: Path, name: str) -> None:
    for root in (media, tmp_path / "other-name"):
        allowed = storage_with(roots=[str(root)])
        for uri in (f"{media}/{name}", f"file://{media}/{name}"):
            assert allowed.stat_input(uri).bytes == 5
            assert allowed.fetch_input(uri, tmp_path / "unused") == (media / "a.wav").resolve()  # what was judged, not the link that led there


@pytest.mark.parametrize(
    "name",
    ["../media-private/secret", "%2e%2e/media-private/secret", "link-out", "sub/chain", "folder-out/secret"],
)
def test_nothing_else_is_read_by_whatever_way(storage_with: Make, media: Path, tmp_path: Path, name: str) -> None:
    allowed = storage_with(roots=[str(media)])
    uri = f"file://{media}/{name}"
    for call in (allowed.stat_input, lambda uri: allowed.fetch_input(uri, tmp_path / "unused"), lambda uri: source_fingerprint(allowed, uri)):
        with pytest.raises(BadInput, match=r"is not below .*/media \(storage\.sources\.roots\); move the file there"):
            call(uri)
    assert storage_with().stat_input(uri).bytes == 6  # where nothing is forbidden, one's own links may lead anywhere


@pytest.mark.parametrize(
    "uri", ["/etc/passwd", "file:///etc/passwd", "/proc/self/environ", "~/.ssh/id_rsa", "/nobody/was/here", "s3://bucket/a", "relative"]
)
def test_what_lies_elsewhere_is_refused_whether_it_is_there_or_not(storage_with: Make, media: Path, uri: str) -> None:
    with pytest.raises(BadInput, match=r"storage\.sources\.roots"):
        storage_with(roots=[str(media)]).stat_input(uri)


def test_the_root_itself_and_a_loop_of_links_are_no_files(storage_with: Make, media: Path) -> None:
    for uri in (str(media), f"{media}/loop", f"{media}/sub"):
        with pytest.raises(BadInput):
            storage_with(roots=[str(media)]).stat_input(uri)


def test_no_roots_at_all_forbid_everything(storage_with: Make, media: Path) -> None:
    with pytest.raises(BadInput, match="is not below any folder"):
        storage_with(roots=[]).stat_input(str(media / "a.wav"))


def test_a_relative_root_is_the_same_for_workers_elsewhere(storage_with: Make, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media.parent)
    allowed = storage_with(roots=["media"])
    monkeypatch.chdir("/")
    assert allowed.stat_input(str(media / "a.wav")).bytes == 5


@pytest.mark.parametrize(
    "uri", ["s3://films/incoming-private/a.mp4", "s3://films/incoming", "s3://films2/incoming/a", "s3://Films/incoming/a", "/etc/passwd"]
)
def test_a_root_may_be_part_of_a_bucket(storage_with: Make, uri: str) -> None:
    """Refused on paper: no server is asked."""
    with pytest.raises(BadInput, match=r"is not below s3://films/incoming/ \(storage\.sources\.roots\)"):
        storage_with(roots=["s3://films/incoming/"]).stat_input(uri)


def test_the_catalogue_itself_may_lie_elsewhere(storage_with: Make, media: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{}")
    assert storage_with(roots=[str(media)]).open_input(str(tmp_path / "rows.jsonl")).read() == b"{}"


def test_a_catalogue_of_gigabytes_is_not_read(storage_with: Make, tmp_path: Path) -> None:
    with open(tmp_path / "rows.jsonl", "wb") as file:
        file.truncate(300 << 20)  # takes no room on the disk
    with pytest.raises(BadInput, match="314572800 bytes; at most 268435456 are read"):
        storage_with().open_input(str(tmp_path / "rows.jsonl"))


def test_web_servers_are_no_roots(storage_with: Make) -> None:
    with pytest.raises(ValidationError, match=r"storage\.sources\.hosts"):
        storage_with(roots=["https://media.example.org/films"])
