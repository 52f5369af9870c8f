"""Draws, speaks and encodes the demo's media: `python -m infinitedub.assets.demo.make FOLDER`. Needs the program espeak-ng for the voices.

The photograph and the catalogue are not made here; the boxes printed at the end are what the catalogue says about interview.png.
"""

import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinitedub.assets.demo.scenes import interview, meadow, moment, portrait, studio
from infinitedub.stages.media.audio_io import to_audio_frame, write_flac
from infinitedub.stages.media.encode import add_h264_stream, open_output

Sound = NDArray[np.int16]
RATE = 22_050  # what espeak-ng gives, Hz
FPS = 30
WIDTH, HEIGHT = 320, 192
CUT, END = 78, 168  # frames: the first shot ends at CUT, the footage at END


@dataclass(frozen=True)
class Line:
    """A sentence and the espeak-ng voice that says it, at a speed in words per minute and a pitch of 0 to 99."""

    text: str
    voice: str
    speed: int
    pitch: int


LINES = {
    "poem": Line("Good evening. Somebody drew me this morning, and now I can talk.", "en-gb+f2", 150, 58),
    "greeting": Line("Hello. I am a photograph, and now I can talk.", "en-us+f3", 150, 52),
    "report": Line("Good evening. The same report, in another language, with lips that follow.", "en-us+f4", 160, 55),
    "host": Line("Welcome. Who speaks first?", "en-gb+m3", 155, 40),
    "guest": Line("You did. Now it is my turn.", "en-us+f2", 155, 55),
}
ORIGINAL = Line("Guten Abend. Heute scheint auf den Hügeln den ganzen Tag die Sonne.", "de+f4", 165, 55)  # what the footage said before


def speak(line: Line) -> Sound:
    """The line, spoken; mono at RATE."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        command = ["espeak-ng", "-v", line.voice, "-s", str(line.speed), "-p", str(line.pitch), "-w", str(path), line.text]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        with wave.open(str(path)) as file:
            return np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)


def mouth_of(sound: Sound, frames: int) -> NDArray[np.float64]:
    """How far the mouth is open in each frame while `sound` is heard, 0 to 1: its loudness, a little smoothed."""
    samples = RATE // FPS
    padded = np.zeros(frames * samples)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)] / 32_768
    loud = np.sqrt((padded.reshape(frames, samples) ** 2).mean(axis=1))
    loud = np.convolve(loud, [0.25, 0.5, 0.25], mode="same")
    return np.clip(loud / np.quantile(loud, 0.95), 0, 1) ** 0.7


def shots(mouth: NDArray[np.float64]) -> Iterator[Image.Image]:
    """The footage, frame by frame: the studio, a cut, the meadow."""
    for frame, opening in enumerate(mouth):
        pose = moment(frame / FPS, float(opening))
        yield studio(WIDTH, HEIGHT, frame / FPS, pose) if frame < CUT else meadow(WIDTH, HEIGHT, (frame - CUT) / FPS, pose)


def write_footage(path: Path, pictures: Iterator[Image.Image], sound: Sound) -> None:
    """H.264 and AAC."""
    with open_output(path, "mp4") as file:
        video = add_h264_stream(file, "libx264", "yuv420p", Fraction(FPS), (WIDTH, HEIGHT), {"crf": "20", "preset": "slow"})
        audio = file.add_stream("aac", rate=RATE, layout="mono")
        audio.bit_rate = 64_000
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_image(picture)))
        file.mux(video.encode())
        resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=RATE)
        for piece in [*resampler.resample(to_audio_frame(sound[None], "mono", RATE)), *resampler.resample(None)]:
            file.mux(audio.encode(piece))
        file.mux(audio.encode())


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, line in LINES.items():
        write_flac(folder / f"{name}.flac", [speak(line)[None]], RATE, "mono")
    original = speak(ORIGINAL)
    write_footage(folder / "footage.mp4", shots(mouth_of(original, END)), original)
    portrait(480, 480).save(folder / "portrait.png", optimize=True)
    picture, boxes = interview(640, 384)
    picture.save(folder / "interview.png", optimize=True)
    print("interview.png:", *([box.x_min, box.y_min, box.x_max, box.y_max] for box in boxes))


if __name__ == "__main__":
    main()
