"""GPU memory of InfiniteTalk at its peaks, computed from frame size, ranks and number format. No GPU has confirmed these numbers.

The constants are those of the 14B model: bytes of tensors that are alive together, traced on meta tensors for windows of 81 frames. Memory of CUDA
itself, of cuDNN's workspaces and lost to fragmentation is not in them; `RESERVE` stands for it.
"""

from infinitedub.stages.engines.device_bytes import GIB, DeviceBytes

TRANSFORMER = 35.5  # GiB of weights, in bf16 with the fp32 modules
BLOCKS = 34.6  # of these in the 40 blocks, which low-memory mode keeps in host memory
BLOCKS_AT_ONCE = 2 / 40  # share of the blocks on the GPU in low-memory mode
CODEC = 0.5  # weights of the video autoencoder, float32
TEXT_ENCODER = 10.6  # weights of umT5-xxl's encoder, bf16
TEXT_LAYERS = 8.6  # of these in its 24 layers
TEXT_LAYERS_AT_ONCE = 2 / 24
IMAGE_ENCODER = 1.2  # weights of CLIP's vision tower, fp16
FORWARD = 5.2  # activations of a forward with two speakers at 640x640, bf16; in proportion to the pixels, since attention holds no scores
DECODE = 7.8  # of the autoencoder at 640x640, float32
ENCODE = 5.8
PIXELS = 640 * 640
RESERVE = 1.5  # GiB for what the tensors do not show


def device_bytes(pixels: int, dtype: str, degree: int, *, low_memory: bool = False) -> DeviceBytes:
    """The peaks for windows of 81 frames of so many pixels, on each of `degree` ranks; the first rank decodes, and is counted.

    dtype: "bf16" or "fp32", of the transformer and the text and image encoders.
    """
    width = 2 if dtype == "fp32" else 1
    frame = pixels / PIXELS
    blocks = BLOCKS * BLOCKS_AT_ONCE if low_memory else BLOCKS
    layers = TEXT_LAYERS * TEXT_LAYERS_AT_ONCE if low_memory else TEXT_LAYERS
    transformer = (TRANSFORMER - BLOCKS + blocks) * width + CODEC
    generate = transformer + max(FORWARD * width * frame / degree, DECODE * frame) + RESERVE
    encoders = (TEXT_ENCODER - TEXT_LAYERS + layers + IMAGE_ENCODER) * width + CODEC
    return DeviceBytes(condition=round((encoders + ENCODE * frame + RESERVE) * GIB), generate=round(generate * GIB))
