"""A photograph of every format becomes an upright RGB picture."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Box
from tests.unit.ingesting import gradient, ingest, pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG", "GIF"])
def test_a_photograph_is_detected_by_its_content(media, files, kind: str) -> None:
    path = media.folder / "photograph.mp4"  # the wrong suffix
    Image.fromarray(gradient()).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    source = ingest(files, path, media.speech())
    assert (source.moving, source.n_frames, source.width, source.height, source.picture.kind) == (False, 1, 64, 48, "picture/png")
    difference = np.abs(pixels(files, source).astype(int) - gradient())
    assert difference.mean() < 12 if kind in ("JPEG", "GIF") else difference.max() == 0


def test_max_pixels_may_exceed_pillows_own_limit(media, files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses more than twice as many
    path = media.folder / "a.png"
    Image.fromarray(gradient()).save(path)
    source = ingest(files, path, media.speech())
    assert (source.width, source.height) == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_set_upright(media, files, orientation: int) -> None:
    path = media.folder / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    want = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](gradient())
    source = ingest(files, path, media.speech())
    assert np.array_equal(pixels(files, source), want)
    assert Image.open(files.fetch(source.picture)).getexif() == {}


def test_transparent_parts_show_the_configured_color(media, files) -> None:
    path = media.folder / "a.png"
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    Image.fromarray(np.concatenate([gradient(), alpha], -1)).save(path)
    got = pixels(files, ingest(files, path, media.speech(), alpha_color=(10, 200, 30)))
    assert np.array_equal(got[:, :32], np.broadcast_to(np.array([10, 200, 30], np.uint8), (48, 32, 3)))
    assert np.array_equal(got[:, 32:], gradient()[:, 32:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(media, files, mode: str) -> None:
    path = media.folder / "a"
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path, "PNG")
    elif mode == "P":
        grey.convert("RGB").quantize(256).save(path, "PNG")
    else:
        grey.convert("RGB" if mode == "CMYK" else "L").convert(mode).save(path, "TIFF" if mode == "CMYK" else "PNG")
    got = pixels(files, ingest(files, path, media.speech())).astype(int)
    assert got.shape == (48, 64, 3)
    want = np.asarray(grey.convert("1") if mode == "1" else grey).astype(int) * (255 if mode == "1" else 1)
    assert np.abs(got - want[..., None]).max() <= 2


def test_float_pixels_without_a_known_range_are_refused(media, files) -> None:
    path = media.folder / "a.tiff"
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(path)
    with pytest.raises(BadInput, match="8 or 16 bits"):
        ingest(files, path, media.speech())


def test_an_embedded_profile_is_applied(media, files) -> None:
    """With half of sRGB's gamma the same numbers mean brighter greys; a broken profile is ignored."""
    grey = np.full((48, 64, 3), 50, np.uint8)
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    offset = profile.index(b"para") + 12  # parametric curve: type, reserved, function, gamma as s15Fixed16 (ICC.1, 10.18)
    profile[offset : offset + 4] = struct.pack(">i", round(1.2 * 65536))
    for name, icc in (("bright.png", bytes(profile)), ("broken.png", b"no profile at all")):
        Image.fromarray(grey).save(media.folder / name, icc_profile=icc)
    assert np.array_equal(pixels(files, ingest(files, media.folder / "broken.png", media.speech())), grey)
    assert pixels(files, ingest(files, media.folder / "bright.png", media.speech())).min() > 80


def test_a_large_photograph_is_scaled_down_with_its_boxes(media, files) -> None:
    path = media.folder / "a.png"
    Image.fromarray(gradient(201, 101)).save(path)
    source = ingest(files, path, media.speech(), media.speech("b.wav"), boxes=(Box(0, 0, 100, 101), Box(100, 0, 201, 101)), max_side_px=100)
    assert (source.width, source.height) == (100, 50)
    assert [voice.box for voice in source.voices] == [Box(0, 0, 50, 50), Box(49, 0, 100, 50)]
