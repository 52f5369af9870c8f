"""The width of the audio adapter's input, which ties it to the speech encoder it was trained with."""

from infinitedub.stages.errors import ConfigError

AUDIO_WINDOW = 5  # feature rows per film frame in the release; the shapes give only the product of rows, layers and channels


def check_audio_width(location: str, inputs: int, layers: int, channels: int) -> None:
    """Raises ConfigError unless the adapter in `location`, which takes `inputs` values, fits a speech encoder of that many layers and channels."""
    if inputs != AUDIO_WINDOW * layers * channels:
        raise ConfigError(
            f"{location} takes {inputs} values per frame; a speech encoder of {layers} layers and {channels} channels gives "
            f"{AUDIO_WINDOW} x {layers} x {channels} = {AUDIO_WINDOW * layers * channels}; adapter and speech encoder must have been trained together"
        )
