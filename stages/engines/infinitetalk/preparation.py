"""Makes the conditions of a segment for InfiniteTalk.

The file holds, D being the text encoder's width and T the latent frames of a window:

    text, null_text           [L, D]                   states of the prompt and of the negative prompt, without padding
    window_reference          [windows], int64         the number r of each window's reference
    reference.{r}.latents     [1, 16, T, h/8, w/8]     a frame of the source and grey after it, encoded; float32
    reference.{r}.clip        [1, 257, clip_dim]       the same frame encoded by CLIP
    color_reference           [3, h, w], uint8         the picture whose colours the segment keeps
    masks                     [3, h/8, w/8], bool      person 1, person 2, background; only if two persons speak
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.framing import frame_picture, read_pictures
from infinitedub.stages.engines.infinitetalk.masks import choose_boxes, speaker_masks
from infinitedub.stages.engines.infinitetalk.references import Reference, encode_reference
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkPreparationSettings
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.tensorfile import create_tensorfile
from infinitedub.stages.model.weights.bundle import open_bundle
from infinitedub.stages.model.weights.paths import resolve_weights
from infinitedub.stages.records import Prompt, Segment, Source


class InfiniteTalkPreparation:
    """The encoders, and the states of recent prompts. Implements `Preparation`."""

    def __init__(
        self,
        settings: InfiniteTalkPreparationSettings,
        codec: LatentCodec,
        image_encoder: ImageEncoder,
        text_encoder: Callable[[str], Tensor],
        device: torch.device | str,
        remembered_prompts: int,
    ) -> None:
        self._settings = settings
        self._codec = codec
        self._image_encoder = image_encoder
        self._encode_text = lru_cache(remembered_prompts)(text_encoder)
        self._device = device

    @torch.inference_mode()
    def prepare(self, picture: Path, source: Source, segment: Segment, prompt: Prompt, size: tuple[int, int], path: Path) -> None:
        """Each frame that windows refer to is encoded once, and only one of them is in memory at a time."""
        upstream = self._settings.compat == "upstream"
        small: dict[str, Tensor] = {}
        if len(source.voices) > 1:
            boxes = choose_boxes([voice.box for voice in source.voices], source.height, source.width, rows_first=upstream)
            small["masks"] = speaker_masks(boxes, source.height, source.width, size)
        shown = sorted({window.reference_frame for window in segment.windows})
        colored = 0 if upstream else segment.windows[0].reference_frame
        small["color_reference"] = frame_picture(next(read_pictures(picture, source.moving, [colored])), size)

        small["window_reference"] = torch.tensor([shown.index(window.reference_frame) for window in segment.windows])
        small |= {"text": self._encode_text(prompt.text), "null_text": self._encode_text(prompt.negative)}
        references = (self._encode(frame_picture(pixels, size)) for pixels in read_pictures(picture, source.moving, shown))
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

    def _encode(self, picture: Tensor) -> Reference:
        return encode_reference(picture, self._codec, self._image_encoder, self._settings.window_frames, self._device)


def open_preparation(settings: InfiniteTalkPreparationSettings, rank: Rank, remembered_prompts: int) -> InfiniteTalkPreparation:
    """Loads the encoders onto the rank's device."""
    dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
    bundle = open_bundle(resolve_weights(settings.weights))
    text_encoder = bundle.text_encoder(dtype, rank.device, low_memory=rank.low_memory)
    # fp16 as in upstream's wan_multitalk_14B.py: CLIP's tokens are 0.16 % off float32, in bfloat16 1.4 %.
    image_encoder = bundle.image_encoder(torch.float16 if settings.dtype == "bf16" else torch.float32, rank.device)
    codec = bundle.codec(torch.float32, rank.device)
    return InfiniteTalkPreparation(settings, codec, image_encoder, text_encoder, rank.device, remembered_prompts)
