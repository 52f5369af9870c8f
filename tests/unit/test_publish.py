"""Publish: every delivered film decodes to its end and has a sidecar."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from infinitedub.stages.contract import Rank
from infinitedub.stages.publish.settings import PublishSettings
from infinitedub.stages.publish.stage import PublishStage
from infinitedub.stages.records import Film, Job, Length, Material, Prompt, Provenance, Receipt, Source, Speaker, Turns, Voice

JOB = Job("anna-7", Material("s3://in/a.mp4", (Speaker("s3://in/a.wav", None),), Turns.TOGETHER), Length.AUDIO, Prompt("speaks \u00e4", "blur"), 42)
PROVENANCE = Provenance("run-1", {"generate": {"sampler": {"steps": 8}}}, "sha256:feed", {"torch": "2.13"}, {"generate": 12.5})


@pytest.fixture
def film(media, files) -> Film:
    path = media.footage("film.mp4", 25, size=(128, 96), sound=(np.sin(np.arange(16000) / 9) * 9000).astype(np.int16)[None])
    return Film(files.store(path, "film/mp4"), 25, 25.0, -3.5)


@pytest.fixture
def source(media, files, film) -> Source:
    path = media.folder / "portrait.png"
    Image.fromarray(np.full((120, 100, 3), (200, 40, 40), np.uint8)).save(path)
    sound = files.store(media.speech("voice.wav"), "sound/flac")
    return Source(files.store(path, "picture/png"), False, 100, 120, 25.0, 1, (Voice(sound, 16000, 16000, 0, None),))


def publish(files, source: Source, film: Film, comparison: str = "none", folder: str = "films") -> Receipt:
    stage = PublishStage(PublishSettings(comparison=comparison, folder=folder))
    stage.open(Rank())
    return stage(JOB, source, film, PROVENANCE, files=files)


def test_film_and_sidecar_are_delivered(files, source: Source, film: Film) -> None:
    receipt = publish(files, source, film)
    assert (receipt.sha256, receipt.bytes) == (film.file.sha256, film.file.bytes)
    assert Path(receipt.uri).read_bytes() == files.fetch(film.file).read_bytes()
    assert receipt.uri.endswith("films/anna-7.mp4")
    assert receipt.sidecar.endswith("films/anna-7.json")


def test_the_film_is_delivered_last(files, source: Source, film: Film) -> None:
    publish(files, source, film, "side_by_side")
    assert files.delivered == ["films/anna-7.comparison.mp4", "films/anna-7.json", "films/anna-7.mp4"]


def test_a_sweep_delivers_each_point_to_its_own_folder(files, source: Source, film: Film) -> None:
    receipt = publish(files, source, film, folder="films/steps=8")
    assert receipt.uri.endswith("films/steps=8/anna-7.mp4")
    assert json.loads(Path(receipt.sidecar).read_text())["files"]["film"] == "films/steps=8/anna-7.mp4"


def test_the_sidecar_records_inputs_and_provenance(files, source: Source, film: Film) -> None:
    sidecar = json.loads(Path(publish(files, source, film).sidecar).read_text(encoding="utf-8"))
    assert sidecar["job"]["id"] == "anna-7"
    assert sidecar["job"]["seed"] == 42
    assert sidecar["job"]["prompt"] == {"text": "speaks \u00e4", "negative": "blur"}
    assert sidecar["job"]["material"]["speakers"][0]["speech"] == "s3://in/a.wav"
    assert sidecar["source"]["picture"]["sha256"] == source.picture.sha256
    assert sidecar["source"]["voices"][0]["sound"]["sha256"] == source.voices[0].sound.sha256
    assert sidecar["made_by"] == {
        "run": "run-1",
        "config": {"generate": {"sampler": {"steps": 8}}},
        "weights": "sha256:feed",
        "versions": {"torch": "2.13"},
        "seconds": {"generate": 12.5},
    }
    recorded_film = sidecar["film"]
    assert (recorded_film["sha256"], recorded_film["bytes"], recorded_film["drift_ms"]) == (film.file.sha256, film.file.bytes, -3.5)
    assert (recorded_film["frames"], recorded_film["fps"], recorded_film["seconds"]) == (25, 25.0, 1.0)
    assert (recorded_film["width"], recorded_film["height"], recorded_film["sample_rate"], recorded_film["channels"]) == (128, 96, 16000, 1)
    assert sidecar["files"] == {"film": "films/anna-7.mp4"}


@pytest.mark.parametrize(
    "folder", ["", "/films", "../films", "films/..", "films/../../x", "films//a", "films/", "~", ".", "a b", "a\n", "s3://b", "a\\b"]
)
def test_the_folder_must_lie_below_the_storage_root(folder: str) -> None:
    with pytest.raises(ValidationError, match="folder"):
        PublishSettings(comparison="none", folder=folder)


def test_a_sidecar_with_nan_is_refused(files, source: Source, film: Film) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        publish(files, source, replace(film, drift_ms=float("nan")))
    assert files.delivered == []


def with_file(files, path: Path, film: Film, **changes) -> Film:
    return replace(film, file=files.store(path, "film/mp4"), **changes)


@pytest.mark.parametrize(
    ("name", "frames", "sound", "message"),
    [
        ("short.mp4", 24, 1.0, "holds 24 frames, its record says 25"),
        ("silent.mp4", 25, 0.0, "1 video and 0 audio streams"),
        ("cut_sound.mp4", 25, 0.8, "audio lasts 0.8"),
        ("long_sound.mp4", 25, 1.2, "audio lasts 1.2"),
    ],
)
def test_a_film_that_differs_from_its_record_is_not_delivered(media, files, source, film, name: str, frames: int, sound: float, message: str) -> None:
    samples = np.zeros((1, round(16000 * sound)), np.int16) if sound else None
    with pytest.raises(ValueError, match=message):
        publish(files, source, with_file(files, media.footage(name, frames, sound=samples), film))
    assert files.delivered == []


def test_a_film_at_the_wrong_speed_is_not_delivered(files, source, film: Film) -> None:
    with pytest.raises(ValueError, match=r"video lasts 1\.000 s"):
        publish(files, source, replace(film, fps=30.0))


def test_a_film_with_missing_samples_is_not_delivered(media, files, source, film: Film) -> None:
    """The duration by the time stamps is right, but a fifth of the samples is missing."""
    path = media.folder / "missing_samples.mp4"
    with av.open(str(files.fetch(film.file))) as original, av.open(str(path), "w") as copy:
        streams = [copy.add_stream_from_template(stream) for stream in original.streams]
        for packet in original.demux():
            if packet.dts is not None and not (packet.stream.type == "audio" and 0.4 <= packet.pts * packet.time_base < 0.6):
                packet.stream = streams[packet.stream_index]
                copy.mux(packet)
    with pytest.raises(ValueError, match=r"audio lasts 0\.[78]"):
        publish(files, source, with_file(files, path, film))
    assert files.delivered == []


def test_a_truncated_film_is_not_delivered(media, files, source, film: Film) -> None:
    path = media.folder / "cut.mp4"
    path.write_bytes(files.fetch(film.file).read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cannot be decoded to its end"):
        publish(files, source, with_file(files, path, film))
    assert files.delivered == []


def test_the_comparison_of_a_film_of_one_frame(media, files, source: Source) -> None:
    path = media.footage("blink.mp4", 1, size=(128, 96), sound=np.full((1, 640), 900, np.int16))
    receipt = publish(files, source, Film(files.store(path, "film/mp4"), 1, 25.0, 0.0), "side_by_side")
    with av.open(receipt.uri.replace(".mp4", ".comparison.mp4")) as container:
        assert len(container.streams.audio) == 1
        assert len(list(container.decode(video=0))) == 1


@pytest.mark.parametrize("frames", [None, 10, 40])
def test_the_comparison_shows_source_and_dub_side_by_side(media, files, source: Source, film: Film, frames: int | None) -> None:
    """Footage shorter than the film holds its last frame; longer footage is cut."""
    if frames is not None:
        red = [np.full((60, 50, 3), (200, 40, 40), np.uint8)] * (frames - 1) + [np.full((60, 50, 3), (40, 40, 200), np.uint8)]
        picture = files.store(media.footage("source.mp4", red), "footage/mp4")
        source = replace(source, picture=picture, moving=True, width=50, height=60, n_frames=frames)
    receipt = publish(files, source, film, "side_by_side")
    assert json.loads(Path(receipt.sidecar).read_text())["files"]["comparison"] == "films/anna-7.comparison.mp4"
    with av.open(receipt.uri.replace(".mp4", ".comparison.mp4")) as container:
        assert len(container.streams.audio) == 1
        assert float(container.duration) / 1e6 == pytest.approx(1.0, abs=0.07)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 25
    assert {picture.shape for picture in pictures} == {(96, 80 + 128, 3)}
    levels = [round((float(picture[:, 90:].mean()) - 20) / 3) for picture in pictures]
    assert np.abs(np.array(levels) - np.arange(25)).max() <= 1
    left = np.array([picture[:, 10:70].mean((0, 1)) for picture in pictures])
    assert np.abs(left[2] - (200, 40, 40)).max() < 15
    assert np.abs(left[-1] - ((40, 40, 200) if frames == 10 else (200, 40, 40))).max() < 15
