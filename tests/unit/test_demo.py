"""The demo's media are what its catalogue and README say."""

from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from infinitedub.assets.demo import make, scenes
from infinitedub.launch import contact_sheet as sheet
from infinitedub.launch.contact_sheet import contact_sheet
from infinitedub.pipeline.catalogue.rows import Catalogue, RowSettings, read_catalogue
from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.records import Length, Turns

DEMO = Path(make.__file__).parent
DEFAULTS = RowSettings(prompt="A person talks", negative_prompt="", turns=Turns.TOGETHER, seed=1)


def opened(uri: str) -> BinaryIO:
    return Path(uri).open("rb")


@pytest.fixture
def catalogue() -> Catalogue:
    return read_catalogue(str(DEMO / "catalogue.jsonl"), opened, DEFAULTS)


def test_every_row_can_be_dubbed_and_its_files_are_there(catalogue: Catalogue):
    assert catalogue.bad == ()
    assert [job.id for job in catalogue.jobs] == ["portrait", "footage", "interview", "photograph"]
    places = [place for job in catalogue.jobs for place in (job.material.picture, *(speaker.speech for speaker in job.material.speakers))]
    assert [place for place in places if not Path(place).is_file()] == []
    assert catalogue.jobs[1].length is Length.VIDEO
    assert catalogue.jobs[2].material.turns is Turns.IN_TURN


def test_the_catalogues_boxes_are_where_the_faces_were_drawn(catalogue: Catalogue):
    picture, boxes = scenes.interview(640, 384)
    assert tuple(speaker.box for speaker in catalogue.jobs[2].material.speakers) == boxes
    shipped = np.asarray(Image.open(DEMO / "interview.png")).astype(int)
    assert np.abs(np.asarray(picture) - shipped).mean() < 0.5  # another Pillow may round an edge differently


def test_the_footage_has_one_cut():
    frames = [frame.astype(np.float32) for frame in read_all(DEMO / "footage.mp4")]
    assert len(frames) == make.END
    steps = [float(np.abs(after - before).mean()) for before, after in pairwise(frames)]
    assert [number + 1 for number, step in enumerate(steps) if step > 20] == [make.CUT]


def test_the_mouth_follows_the_voice():
    loud, silent = make.RATE // 2, make.RATE
    voice = np.concatenate([np.zeros(silent), 12_000 * np.sin(np.arange(loud) / 5), np.zeros(silent)]).astype(np.int16)
    mouth = make.mouth_of(voice, frames=75)
    assert mouth[33:42].min() > 0.9
    assert mouth[:25].max() == mouth[50:].max() == 0


def test_a_contact_sheet_shows_each_film_from_beginning_to_end(tmp_path: Path):
    """Films of one grey that rises evenly: so must the tiles of a row."""
    greys = [40 + 2 * frame for frame in range(80)]
    for name in ("short", "a-name-much-too-long-for-the-space-beside-the-tiles"):
        pictures = (Image.new("RGB", (make.WIDTH, make.HEIGHT), (grey,) * 3) for grey in greys)
        make.write_footage(tmp_path / f"{name}.mp4", pictures, np.zeros(make.RATE, np.int16))
    out = tmp_path / "sheets" / "sheet.png"
    contact_sheet(sorted(tmp_path.glob("*.mp4")), out, columns=4)
    pixels = np.asarray(Image.open(out).convert("L")).astype(int)
    tile_width = round(sheet.TILE_HEIGHT * make.WIDTH / make.HEIGHT)
    for row in range(2):
        middle = sheet.MARGIN + row * sheet.PITCH + sheet.TILE_HEIGHT // 2
        tiles = [pixels[middle, sheet.MARGIN + sheet.LABEL + (tile_width + sheet.GAP) * column + tile_width // 2] for column in range(4)]
        assert tiles == pytest.approx([greys[frame] for frame in (10, 30, 50, 70)], abs=3)


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="needs a film"):
        contact_sheet([], tmp_path / "sheet.png")
