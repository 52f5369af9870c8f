"""The conditioning of a segment: frame sizes, speakers' masks, references and prompts."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file

from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.framing import choose_bucket, frame_picture, plan_framing
from infinitedub.stages.engines.infinitetalk.masks import choose_boxes, halves, speaker_masks
from infinitedub.stages.engines.infinitetalk.preparation import InfiniteTalkPreparation
from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.media.video_io import write_lossless
from infinitedub.stages.records import Box, Prompt
from tests.unit.tiny import condition_settings, segment_of, source_of

# -- framing ----------------------------------------------------------------------------------------------------------------------------------


def test_the_bucket_of_the_nearest_ratio_is_chosen_and_of_two_equally_near_the_first():
    buckets = {0.5: (64, 128), 1.0: (64, 64), 1.5: (96, 64)}
    assert choose_bucket(720, 1280, buckets) == (64, 128)
    assert choose_bucket(300, 200, buckets) == (96, 64)
    assert choose_bucket(75, 100, buckets) == (64, 128)  # 0.75 is as far from 0.5 as from 1


def test_half_a_pixel_of_overhang_is_rounded_to_even():
    assert plan_framing(64, 69, (64, 64)).corner == (0, 2)  # 2.5 rounds to 2
    assert plan_framing(64, 71, (64, 64)).corner == (0, 4)  # 3.5 rounds to 4


def test_small_pictures_are_enlarged_until_they_fill_the_frame():
    framing = plan_framing(10, 33, (64, 64))
    assert framing.resized == (64, 212)
    made = frame_picture(np.full((10, 33, 3), 77, np.uint8), (64, 64))
    assert made.shape == (3, 64, 64) and (made == 77).all()


# -- two speakers -----------------------------------------------------------------------------------------------------------------------------

LEFT, RIGHT = Box(10, 20, 50, 70), Box(66, 8, 115, 76)


def test_masks_are_where_the_boxes_are():
    masks = speaker_masks((LEFT, RIGHT), 96, 128, (96, 128))  # nothing is resized, 8 pixels to a latent
    assert masks.shape == (3, 12, 16) and masks.dtype == torch.bool
    wanted = torch.zeros(12, 16, dtype=torch.bool)
    wanted[3:9, 2:7] = True  # latents whose upper left pixel lies inside: rows 24 to 64, columns 16 to 48
    assert torch.equal(masks[0], wanted)
    assert torch.equal(masks[2], ~(masks[0] | masks[1]))


def test_without_boxes_there_is_one_on_the_left_and_one_on_the_right():
    assert halves(80, 120) == (Box(3, 4, 57, 76), Box(63, 4, 117, 76))
    assert choose_boxes([None, None], 80, 120, rows_first=False) == halves(80, 120)


def test_one_box_of_two_is_too_few():
    with pytest.raises(BadInput, match="speaker 2 has no box"):
        choose_boxes([LEFT, None], 80, 120, rows_first=False)


def test_upstream_reads_rows_first():
    assert choose_boxes([Box(1, 2, 3, 4), Box(5, 6, 7, 8)], 80, 120, rows_first=True) == (Box(2, 1, 4, 3), Box(6, 5, 8, 7))


@pytest.mark.parametrize("box", [Box(10, 20, 10, 70), Box(-1, 0, 10, 10), Box(0, 0, 129, 10), Box(0, 50, 10, 40)])
def test_a_box_outside_of_the_picture_is_refused(box: Box):
    with pytest.raises(BadInput, match=rf"\[{box.x_min}, {box.y_min}, {box.x_max}, {box.y_max}\].*128x96"):
        speaker_masks((box, RIGHT), 96, 128, (96, 128))


@pytest.mark.parametrize("lost", [Box(0, 20, 30, 70), Box(101, 41, 104, 44)], ids=["cut off", "between two tokens"])
def test_a_speaker_who_is_cropped_away_is_named_in_the_error(lost: Box):
    """A square is cut out of the middle of a wide picture."""
    with pytest.raises(BadInput, match=r"speaker 2: nothing is left of box \["):
        speaker_masks((Box(60, 20, 120, 70), lost), 96, 192, (96, 96))


class CountingEncoder:
    """An encoder that counts its calls."""

    def __init__(self, encode) -> None:
        self.calls = 0
        self.encode = encode

    def __call__(self, *args):
        self.calls += 1
        return self.encode(*args)


class Codec:
    """Replaces the video autoencoder: a latent for each 8x8 pixels and 4 frames, one channel of which is the red of the first pixel."""

    def encode(self, video):
        _, _, frames, height, width = video.shape
        latents = torch.zeros(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        latents[:, 0] = video[:, 0, ::4, ::8, ::8]
        return latents


@pytest.fixture
def encoders():
    return CountingEncoder(lambda frame: frame.mean((2, 3))[:, None].expand(1, 257, 3)), CountingEncoder(
        lambda prompt: torch.full((len(prompt), 8), float(len(prompt)))
    )


@pytest.fixture
def footage(tmp_path):
    """60 frames; frame n has the red level n."""
    path = tmp_path / "footage.mkv"
    frames = np.zeros((60, 64, 64, 3), np.uint8)
    frames[..., 0] = np.arange(60)[:, None, None]
    write_lossless(path, frames, 25.0)
    return path


def prepare(encoders, path, picture, source, segment, **changes):
    image, text = encoders
    settings = condition_settings(**changes)
    size = choose_bucket(source.height, source.width, settings.buckets)
    preparation = InfiniteTalkPreparation(settings.preparation, Codec(), image, text, "cpu", settings.remembered_prompts)
    preparation.prepare(picture, source, segment, Prompt("word", "no"), size, path)
    return size, load_file(path), preparation


def test_each_frame_referred_to_is_encoded_once(encoders, footage, tmp_path):
    source = source_of(footage, width=64, height=64, n_frames=60)
    segment = segment_of(100, references=(5, 29, 5, 29))
    size, conditions, _ = prepare(encoders, tmp_path / "c.safetensors", footage, source, segment)
    assert size == (96, 96)
    assert encoders[0].calls == 2
    assert conditions["window_reference"].tolist() == [0, 1, 0, 1]
    for number, red in ((0, 5), (1, 29)):
        latents = conditions[f"reference.{number}.latents"]
        assert latents.shape == (1, 16, 9, 12, 12)
        assert torch.allclose(latents[0, 0, 0], torch.tensor((red / 255 - 0.5) * 2))
        assert (latents[:, :, 1:] == 0).all(), "grey after the first frame"
        assert conditions[f"reference.{number}.clip"].shape == (1, 257, 3)
    assert conditions["color_reference"].shape == (3, 96, 96) and (conditions["color_reference"][0] == 5).all()
    assert "masks" not in conditions


def test_a_box_outside_of_the_picture_in_upstreams_order_is_shown_as_it_was_given():
    box = Box(100, 2, 118, 70)
    with pytest.raises(BadInput, match=r"box 2 is \[100, 2, 118, 70\], which compat=upstream reads as .* outside the 120x80 picture"):
        choose_boxes([Box(1, 2, 3, 4), box], 80, 120, rows_first=True)
    assert choose_boxes([Box(1, 2, 3, 4), box], 80, 120, rows_first=False)[1] == box


def test_upstream_takes_colours_from_the_films_first_frame(encoders, footage, tmp_path):
    source = source_of(footage, width=64, height=64, n_frames=60)
    _, conditions, _ = prepare(encoders, tmp_path / "c.safetensors", footage, source, segment_of(33, references=(5,)), compat="upstream")
    assert (conditions["color_reference"][0] == 0).all()


def test_a_prompt_is_encoded_once_per_process(encoders, footage, tmp_path):
    source, segment = source_of(footage, width=64, height=64, n_frames=60), segment_of(33)
    size, conditions, preparation = prepare(encoders, tmp_path / "c.safetensors", footage, source, segment)
    assert conditions["text"].tolist() == [[4.0] * 8] * 4
    assert conditions["null_text"].tolist() == [[2.0] * 8] * 2
    preparation.prepare(footage, source, segment, Prompt("other", "no"), size, tmp_path / "d.safetensors")
    assert encoders[1].calls == 3


def test_a_photograph_of_two_persons_has_masks(encoders, tmp_path):
    photograph = tmp_path / "two.png"
    Image.new("RGB", (128, 64), (200, 0, 0)).save(photograph)
    source = source_of(photograph, width=128, height=64, boxes=(None, None))
    size, conditions, _ = prepare(encoders, tmp_path / "c.safetensors", photograph, source, segment_of(80))
    assert size == (96, 144)
    assert encoders[0].calls == 1
    assert conditions["masks"].shape == (3, 12, 18)
    assert conditions["masks"].any(dim=(1, 2)).all()


# -- the stage --------------------------------------------------------------------------------------------------------------------------------


def test_the_file_has_the_documented_tensors(files, tmp_path):
    photograph = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(photograph)
    stage = ConditionStage(condition_settings())
    stage.open(Rank())
    made = stage(source_of(photograph, width=80, height=80), segment_of(50), Prompt("a person talks", "blurry"), files=files)
    stage.close()
    assert (made.height, made.width) == (96, 96)
    with safe_open(files.fetch(made.tensors), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert set(shapes) == {"text", "null_text", "window_reference", "reference.0.latents", "reference.0.clip", "color_reference"}
    assert shapes["window_reference"] == (2,)
    assert shapes["reference.0.latents"] == (1, 16, 9, 12, 12)
    assert shapes["reference.0.clip"][:2] == (1, 257)
    assert shapes["text"][1] == shapes["null_text"][1]


def test_a_rank_on_another_device_than_the_settings_is_refused():
    with pytest.raises(ConfigError, match=r"condition\.device is cuda.*condition on cpu"):
        ConditionStage(condition_settings(device="cuda")).open(Rank())


def test_missing_weights_are_refused(tmp_path):
    for weights in (str(tmp_path / "nowhere"), "bundled:nothing", "bundled:../tiny"):
        with pytest.raises(ConfigError, match="weights"):
            ConditionStage(condition_settings(weights=weights)).open(Rank())


@pytest.mark.parametrize(("changes", "message"), [({"window_frames": 32}, "29 or 33"), ({"buckets": {1.0: (64, 72)}}, "multiples of 16")])
def test_sizes_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        condition_settings(**changes)
