"""A photograph of every kind becomes an upright RGB picture."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Box
from tests.unit.ingesting import gradient, ingest, pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG", "GIF"])
def test_a_photograph_is_known_by_its_content(studio, files, kind: str) -> None:
    path = studio.folder / "photograph.mp4"  # a name that lies
    Image.fromarray(gradient()).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    source = ingest(files, path, studio.speech())
    assert (source.moving, source.n_frames, source.width, source.height, source.picture.kind) == (False, 1, 64, 48, "picture/png")
    difference = np.abs(pixels(files, source).astype(int) - gradient())
    assert difference.mean() < 12 if kind in ("JPEG", "GIF") else difference.max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_set_upright(studio, files, orientation: int) -> None:
    path = studio.folder / "a.png"
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
    source = ingest(files, path, studio.speech())
    assert np.array_equal(pixels(files, source), want)
    assert Image.open(files.fetch(source.picture)).getexif() == {}


def test_what_is_transparent_shows_the_stated_colour(studio, files) -> None:
    path = studio.folder / "a.png"
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    Image.fromarray(np.concatenate([gradient(), alpha], -1)).save(path)
    got = pixels(files, ingest(files, path, studio.speech(), alpha_color=(10, 200, 30)))
    assert np.array_equal(got[:, :32], np.broadcast_to(np.array([10, 200, 30], np.uint8), (48, 32, 3)))
    assert np.array_equal(got[:, 32:], gradient()[:, 32:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(studio, files, mode: str) -> None:
    path = studio.folder / "a"
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path, "PNG")
    elif mode == "P":
        grey.convert("RGB").quantize(256).save(path, "PNG")
    else:
        grey.convert("RGB" if mode == "CMYK" else "L").convert(mode).save(path, "TIFF" if mode == "CMYK" else "PNG")
    got = pixels(files, ingest(files, path, studio.speech())).astype(int)
    assert got.shape == (48, 64, 3)
    want = np.asarray(grey.convert("1") if mode == "1" else grey).astype(int) * (255 if mode == "1" else 1)
    assert np.abs(got - want[..., None]).max() <= 2


def test_numbers_without_a_range_are_refused(studio, files) -> None:
    path = studio.folder / "a.tiff"
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(path)
    with pytest.raises(BadInput, match="8 or 16 bits"):
        ingest(files, path, studio.speech())


def test_an_embedded_profile_is_applied(studio, files) -> None:
    """With half of sRGB's gamma the same numbers mean brighter greys; a broken profile is passed over."""
    grey = np.full((48, 64, 3), 50, np.uint8)
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = profile.index(b"para") + 12  # parametric curve: type, reserved, function, gamma as s15Fixed16 (ICC.1, 10.18)
    profile[place : place + 4] = struct.pack(">i", round(1.2 * 65536))
    for name, icc in (("bright.png", bytes(profile)), ("broken.png", b"no profile at all")):
        Image.fromarray(grey).save(studio.folder / name, icc_profile=icc)
    assert np.array_equal(pixels(files, ingest(files, studio.folder / "broken.png", studio.speech())), grey)
    assert pixels(files, ingest(files, studio.folder / "bright.png", studio.speech())).min() > 80


def test_a_large_photograph_is_scaled_down_with_its_boxes(studio, files) -> None:
    path = studio.folder / "a.png"
    Image.fromarray(gradient(201, 101)).save(path)
    source = ingest(files, path, studio.speech(), studio.speech("b.wav"), boxes=(Box(0, 0, 100, 101), Box(100, 0, 201, 101)), max_side_px=100)
    assert (source.width, source.height) == (100, 50)
    assert [voice.box for voice in source.voices] == [Box(0, 0, 50, 50), Box(49, 0, 100, 50)]
