"""How well the bundled model talks: lip sync, silence, seams and drift, on people and voices it never met.

    python -m benchmarks.talk [--weights bundled:tiny] [--faces 24] [--seconds 5] [--recorded FILE.wav ...] [--sheet talk.png] [--json talk.json]

Every film is made by the product's own stages: listen, condition, generate. Needs espeak-ng. How far a mouth is open is measured against drawings
of the same person (assets.tiny_bundle.faces.MouthMeter), and compared with how far the drawn mouth would have been open to the same speech.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from assets.tiny_bundle import faces, voices
from assets.tiny_bundle.faces import MouthMeter, Portrait
from assets.tiny_bundle.voices import Sound, Utterance
from launch.compose import checked, compose
from stages.condition.stage import ConditionStage
from stages.contract import Seat
from stages.generate.stage import GenerateStage
from stages.listen.stage import ListenStage
from stages.media.footage import read_frames
from stages.media.sound import read_mono, write_flac
from stages.model.speech import SAMPLE_RATE
from stages.records import Artifact, Chunk, Prompt, Seed, Source, Voice
from stages.segment.plan import plan_segments

Curve = NDArray[np.float64]
Frames = NDArray[np.uint8]

UNSEEN = 90_000  # the seeds of faces that training does not use begin here
LAGS = range(-2, 3)
NOISE_DB = -45.0


@dataclass(frozen=True)
class Talk:
    """What was measured of one film in which somebody talks."""

    r: float  # of openness against the speech, at the best lag
    lag: int  # frames that the mouth is late
    wrong: float  # the same r against another film's speech
    amplitude: float  # deviation of the openness, relative to the drawn truth
    seam: float  # change of picture where windows meet, relative to within windows
    likeness: float  # mean colour drift from the portrait, away from the mouth


class Desk:
    """Files of one benchmark: artifacts are paths in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def fetch(self, what: Artifact | str) -> Path:
        return Path(what if isinstance(what, str) else what.uri)

    def keep(self, path: Path, kind: str) -> Artifact:
        kept = self.scratch() / path.name
        shutil.move(path, kept)
        return Artifact(str(kept), "", kept.stat().st_size, kind)

    def scratch(self) -> Path:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder

    def deliver(self, path: Path, name: str) -> str:
        raise NotImplementedError(f"{name} ({path}): nothing is published in a benchmark")


class Studio:
    """The stages that make a film, opened."""

    def __init__(self, weights: str, folder: Path) -> None:
        config = checked(compose(["catalogue=none", f"generate.model.weights={weights}"]))
        self.desk = Desk(folder)
        self.model = config.generate.model
        self.stages = ListenStage(config.listen), ConditionStage(config.condition), GenerateStage(config.generate)
        for stage in self.stages:
            stage.open(Seat())

    def film(self, picture: Frames, sound: Sound, seed: int) -> Frames:
        """The frames of `picture` [height, width, 3] as it says `sound`."""
        listen, condition, generate = self.stages
        folder = self.desk.scratch()
        Image.fromarray(picture).save(folder / "portrait.png")
        peak = max(float(np.abs(sound).max()), 1.0)
        write_flac(folder / "speech.flac", [(sound[None] / peak * 32767).astype(np.int16)], SAMPLE_RATE, "mono")
        portrait = self.desk.keep(folder / "portrait.png", "picture/png")
        voice = Voice(self.desk.keep(folder / "speech.flac", "sound/flac"), SAMPLE_RATE, len(sound), 0, None)
        source = Source(portrait, False, picture.shape[1], picture.shape[0], self.model.fps, 1, (voice,))
        frames = len(sound) * round(self.model.fps) // SAMPLE_RATE
        (segment,) = plan_segments(frames, 1, (), window_frames=self.model.window_frames, overlap_frames=self.model.motion_frames, extend="hold")
        conditions = condition(source, segment, Prompt("somebody talks", "noise"), files=self.desk)
        made = generate(segment, conditions, listen(source, files=self.desk), Seed(seed, "talk"), files=self.desk)
        chunks = [part for part in made if isinstance(part, Chunk)]
        return np.concatenate([np.stack(list(read_frames(Path(chunk.picture.uri), range(chunk.frames)))) for chunk in chunks])

    def borders(self, frames: int) -> list[int]:
        """The first frame of each window but the first."""
        (segment,) = plan_segments(frames, 1, (), window_frames=self.model.window_frames, overlap_frames=self.model.motion_frames, extend="hold")
        return [window.fresh.start for window in segment.windows[1:]]


def correlation(opening: Curve, truth: Curve) -> tuple[float, int]:
    """Pearson's r at the lag that makes it largest, and that lag in frames; positive where the mouth is late. A mouth that never moves has 0."""
    if opening.std() < 1e-6 or truth.std() < 1e-6:
        return 0.0, 0
    n = len(truth)
    at = {lag: float(np.corrcoef(opening[max(lag, 0) : n + min(lag, 0)], truth[max(-lag, 0) : n - max(lag, 0)])[0, 1]) for lag in LAGS}
    best = max(at, key=lambda lag: at[lag])
    return at[best], best


def seam(film: Frames, borders: Sequence[int]) -> float:
    """Mean change of the picture into the frames at `borders`, relative to that into all others."""
    changes = np.abs(np.diff(film.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    at = np.array(borders) - 1
    return float(changes[at].mean() / np.delete(changes, at).mean())


def likeness(film: Frames, picture: Frames, portrait: Portrait) -> float:
    """The largest change of the mean colour of any second of the film from the portrait's, of full scale, away from the mouth."""
    elsewhere = np.ones(picture.shape[:2], bool)
    elsewhere[faces.mouth_box(portrait)] = False
    seconds = [film[start : start + 25][:, elsewhere].mean(axis=(0, 1)) for start in range(0, len(film), 25)]
    return float(np.abs(np.array(seconds) - picture[elsewhere].mean(axis=0)).max() / 255)


def sharpness(frames: Frames) -> float:
    """The mean difference of neighbouring pixels."""
    values = frames.astype(np.float32)
    return float(np.abs(np.diff(values, axis=1)).mean() + np.abs(np.diff(values, axis=2)).mean())


def recorded(paths: Sequence[Path]) -> Utterance:
    """Real voices, one after the other."""
    return voices.heard(np.concatenate([read_mono(path, SAMPLE_RATE) for path in paths]))


def cast(number: int) -> tuple[Portrait, Frames]:
    """An unseen person, and their picture with the mouth shut."""
    portrait = faces.anybody(np.random.default_rng(UNSEEN + number))
    return portrait, faces.still(portrait, np.zeros(1), np.full(1, 0.5))[0]


def sheet(rows: Sequence[tuple[Frames, Curve, Curve]], path: Path, columns: int = 14, zoom: int = 2) -> None:
    """Frames of each film, with the speech (red) and the mouth (blue) below."""
    pictures = []
    for film, truth, opening in rows:
        shown = np.linspace(0, min(len(film), 100) - 1, columns).astype(int)
        strip = np.concatenate(list(film[shown]), axis=1).repeat(zoom, axis=0).repeat(zoom, axis=1)
        plot = Image.new("RGB", (strip.shape[1], 50), "white")
        pen = ImageDraw.Draw(plot)
        across = (np.arange(100) + 0.5) * strip.shape[1] / 100
        for curve, colour in ((truth, (200, 30, 30)), (opening, (30, 60, 200))):
            pen.line([(float(x), float(48 - 44 * y)) for x, y in zip(across, curve[:100].clip(0, 1.05), strict=False)], fill=colour, width=2)
        pictures += [strip, np.asarray(plot)]
    Image.fromarray(np.concatenate(pictures)).save(path, optimize=True)


def main() -> None:
    """Makes the films and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="bundled:tiny")
    parser.add_argument("--faces", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--minute", type=float, default=60.0, help="length in seconds of the film that drift is measured on; 0 for none")
    parser.add_argument("--recorded", type=Path, nargs="*", default=[])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure_all(Studio(options.weights, Path(folder)), options.faces, options.seconds, options.minute, options.recorded, options.sheet)
    print(json.dumps(results["summary"], indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def measure_all(studio: Studio, number: int, seconds: float, minute: float, paths: Sequence[Path], sheet_path: Path | None) -> dict[str, object]:
    """Every measure, per film and in summary."""
    said = [voices.unseen_utterance(index, seconds) for index in range(number)]
    talks, rows = [], []
    began = time.process_time()
    for index, utterance in enumerate(said):
        talk, row = measure_talk(studio, index, utterance, said[(index + 1) % number])
        print(
            f"face {index}: r {talk.r:.3f} at {talk.lag:+d}, wrong {talk.wrong:.3f}, amplitude {talk.amplitude:.2f}, seam {talk.seam:.2f}", flush=True
        )
        talks.append(talk)
        rows.append(row)
    busy = (time.process_time() - began) / (number * seconds)
    chance = np.mean(
        [correlation(said[index].openness, said[(index + 1) % number].openness[: len(said[index].openness)])[0] for index in range(number)]
    )
    summary = dict(
        faces=number,
        r_mean=float(np.mean([talk.r for talk in talks])),
        r_worst=min(talk.r for talk in talks),
        lag_0=float(np.mean([talk.lag == 0 for talk in talks])),
        wrong=float(np.mean([talk.wrong for talk in talks])),
        chance=float(chance),
        amplitude=[
            min(talk.amplitude for talk in talks),
            float(np.median([talk.amplitude for talk in talks])),
            max(talk.amplitude for talk in talks),
        ],
        seam=float(np.mean([talk.seam for talk in talks])),
        likeness=max(talk.likeness for talk in talks),
        seconds_per_second=busy,
    )
    if paths:
        real = recorded(paths)
        talk, row = measure_talk(studio, number, real, said[0])
        rows.insert(0, row)
        summary["r_recorded"], summary["lag_recorded"], summary["amplitude_recorded"] = talk.r, talk.lag, talk.amplitude
    summary["silence_p98"] = max(silence(studio, number + 1 + index, level) for index, level in enumerate((None, NOISE_DB, None, NOISE_DB)))
    if minute:
        summary["minute"] = measure_minute(studio, number + 5, minute)
    if sheet_path:
        sheet(rows[:8], sheet_path)
    return dict(summary=summary, films=[asdict(talk) for talk in talks])


def measure_talk(studio: Studio, index: int, utterance: Utterance, other: Utterance) -> tuple[Talk, tuple[Frames, Curve, Curve]]:
    """Makes and measures one film."""
    portrait, picture = cast(index)
    film = studio.film(picture, utterance.sound, seed=index)
    truth, opening = utterance.openness[: len(film)], MouthMeter.of(portrait)(film)
    r, lag = correlation(opening, truth)
    shared = min(len(film), len(other.openness))
    wrong, _ = correlation(opening[:shared], other.openness[:shared])
    amplitude = float(opening.std() / truth.std())
    return Talk(r, lag, wrong, amplitude, seam(film, studio.borders(len(film))), likeness(film, picture, portrait)), (film, truth, opening)


def silence(studio: Studio, index: int, level: float | None) -> float:
    """The openness that 98 % of the frames stay below while nobody speaks; `level` of the noise in dB of full scale, or nothing at all."""
    portrait, picture = cast(index)
    noise = np.random.default_rng(index).standard_normal(4 * SAMPLE_RATE) * (0.0 if level is None else 10 ** (level / 20))
    return float(np.percentile(MouthMeter.of(portrait)(studio.film(picture, noise.astype(np.float32), seed=index)), 98))


def measure_minute(studio: Studio, index: int, seconds: float) -> dict[str, float]:
    """A long film: what has become of sync, colours and sharpness at its end."""
    portrait, picture = cast(index)
    sound = np.concatenate([voices.unseen_utterance(index + part, 20.0).sound for part in range(-(-int(seconds) // 8))])[: int(seconds * SAMPLE_RATE)]
    utterance = voices.heard(sound)
    film = studio.film(picture, utterance.sound, seed=index)
    tenth = min(250, len(film) // 2)
    opening = MouthMeter.of(portrait)(film[-tenth:])
    return dict(
        seconds=len(film) / 25,
        drift=likeness(film, picture, portrait),
        sharpness=sharpness(film[-tenth:]) / sharpness(film[:tenth]),
        r_at_the_end=correlation(opening, utterance.openness[len(film) - tenth : len(film)])[0],
        seam=seam(film, studio.borders(len(film))),
    )


if __name__ == "__main__":
    main()
