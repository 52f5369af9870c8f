"""From a segment of a source to the file of its conditions."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from infinitedub.stages.condition.framing import choose_bucket, frame_picture
from infinitedub.stages.condition.masks import choose_boxes, speaker_masks
from infinitedub.stages.condition.references import Reference, encode_reference
from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.media.video import read_frames
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.tensorfile import create_tensorfile
from infinitedub.stages.records import Prompt, Segment, Source


class Preparer:
    """The encoders, and what they have said of recent prompts."""

    def __init__(
        self,
        settings: ConditionSettings,
        codec: LatentCodec,
        image_encoder: ImageEncoder,
        text_encoder: Callable[[str], Tensor],
        device: torch.device | str,
    ) -> None:
        self._settings = settings
        self._codec = codec
        self._image_encoder = image_encoder
        self._encode_text = lru_cache(settings.remembered_prompts)(text_encoder)
        self._device = device

    @torch.inference_mode()
    def prepare(self, picture: Path, source: Source, segment: Segment, prompt: Prompt, path: Path) -> tuple[int, int]:
        """Writes the conditions of `segment` to `path` and gives the height and width of the frames to be made; `picture` is the source's file.

        Each frame that windows refer to is encoded once, and only one of them is in memory at a time.
        """
        upstream = self._settings.compat == "upstream"
        size = choose_bucket(source.height, source.width, self._settings.buckets)
        small: dict[str, Tensor] = {}
        if len(source.voices) > 1:
            boxes = choose_boxes([voice.box for voice in source.voices], source.height, source.width, rows_first=upstream)
            small["masks"] = speaker_masks(boxes, source.height, source.width, size)
        shown = sorted({window.reference_frame for window in segment.windows})
        colored = 0 if upstream else segment.windows[0].reference_frame
        small["color_reference"] = frame_picture(next(pictures(picture, source.moving, [colored])), size)

        small["window_reference"] = torch.tensor([shown.index(window.reference_frame) for window in segment.windows])
        small |= {"text": self._encode_text(prompt.text), "null_text": self._encode_text(prompt.negative)}
        references = (self._encode(frame_picture(pixels, size)) for pixels in pictures(picture, source.moving, shown))
        first = next(references)
        layout = dict(small)
        for number in range(len(shown)):
            layout |= {f"reference.{number}.latents": first.latents, f"reference.{number}.clip": first.clip}
        file = create_tensorfile(path, layout)
        for name, tensor in small.items():
            file[name].copy_(tensor)
        for number, reference in enumerate(chain([first], references)):
            file[f"reference.{number}.latents"].copy_(reference.latents)
            file[f"reference.{number}.clip"].copy_(reference.clip)
        return size

    def _encode(self, picture: Tensor) -> Reference:
        return encode_reference(picture, self._codec, self._image_encoder, self._settings.window_frames, self._device)


def pictures(path: Path, moving: bool, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of a source by number [H, W, 3], uint8; a photograph shows the same at all of them."""
    if moving:
        yield from read_frames(path, indices)
        return
    with Image.open(path) as image:
        photograph = np.array(image.convert("RGB"))
    for _ in indices:
        yield photograph
