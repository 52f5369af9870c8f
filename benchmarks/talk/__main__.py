"""How well the bundled model talks: lip sync, silence, seams, drift, dubbed footage and two speakers, with people and voices it never met.

    python -m benchmarks.talk [--faces 24] [--seconds 5] [--recorded FILE.wav ...] [--sheet talk.png] [--json talk.json] [setting=value ...]

Every film is made by the product's own stages. Needs espeak-ng and scipy. How far a mouth is open is measured against drawings of the same person
(assets.tiny_bundle.meter), and compared with how far the drawn mouth would have been open to the same speech.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.talk import cast, measures
from benchmarks.talk.film_stages import FilmStages
from benchmarks.talk.measures import Dubbing, Shown
from benchmarks.talk.sheet import write_sheet
from infinitedub.assets.tiny_bundle.faces import FPS

NOISE_DB = -45.0
RECORDED_ON = 3  # faces that speak with recorded voices


def main() -> None:
    """Makes the films and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="such as generate.model.weights=FOLDER; the preset `tiny` otherwise")
    parser.add_argument("--faces", type=int, default=24)
    parser.add_argument("--footage", type=int, default=8, help="films of dubbed footage")
    parser.add_argument("--pairs", type=int, default=6, help="films of two people in turn, and as many together")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each film")
    parser.add_argument("--minute", type=float, default=60.0, help="length in seconds of the film that drift is measured on; 0 for none")
    parser.add_argument("--recorded", type=Path, nargs="*", default=[], help="sound files of people who speak")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the product's CPU pools, and so that seconds are those of one core
    with tempfile.TemporaryDirectory() as folder:
        stages = FilmStages(Path(folder), options.settings)
        shown: list[Shown] = []
        results = portraits(stages, options.faces, options.seconds, options.recorded, shown)
        results |= footage(stages, options.footage, options.seconds, shown) if options.footage else {}
        results |= pairs(stages, options.pairs, options.seconds, shown) if options.pairs else {}
        results["silence_p98"] = max(measures.silence(stages, 200 + index, level) for index, level in enumerate((None, NOISE_DB, None, NOISE_DB)))
        results |= {"minute": asdict(measures.minute(stages, 300, options.minute))} if options.minute else {}
    print(json.dumps({name: value for name, value in results.items() if name != "films"}, indent=2))
    if options.sheet:
        write_sheet(shown, options.sheet)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def portraits(stages: FilmStages, number: int, seconds: float, recorded: Sequence[Path], shown: list[Shown]) -> dict[str, Any]:
    """Unseen faces with unseen voices, and a few of them with recorded ones."""
    said = measures.unseen(range(number), seconds)
    films = []
    for index, utterance in enumerate(said):
        portrait, picture = cast.cast(index)
        talk, row = measures.talk(stages, portrait, picture, utterance, said[(index + 1) % number], index)
        print(
            f"face {index}: r {talk.r:.3f} at {talk.lag:+d}, wrong {talk.wrong:.3f}, amplitude {talk.amplitude:.2f}, seam {talk.seam:.2f}", flush=True
        )
        films.append(talk)
        shown += [row] if index in (0, 1, 2, 6, 7) else []
    behind = [measures.autoencoder(stages, index, utterance) for index, utterance in enumerate(said[:8])]
    results: dict[str, Any] = dict(
        faces=number,
        **spread("r", [talk.r for talk in films]),
        on_time=mean([talk.on_time for talk in films]),
        wrong=mean([talk.wrong for talk in films]),
        chance=measures.chance(said),
        **spread("amplitude", [talk.amplitude for talk in films]),
        seam=mean([talk.seam for talk in films]),
        autoencoder_db=mean([likeness for likeness, _ in behind]),
        autoencoder_r=mean([r for _, r in behind]),
        seconds_per_second=stages.busy / stages.made * FPS,
        films=[asdict(talk) for talk in films],
    )
    if recorded:
        real = cast.recorded(recorded)
        real_films = [measures.talk(stages, *cast.cast(100 + index), real, said[0], index) for index in range(RECORDED_ON)]
        shown.append(real_films[0][1])
        results["recorded"] = [asdict(talk) for talk, _ in real_films]
    return results


def footage(stages: FilmStages, number: int, seconds: float, shown: list[Shown]) -> dict[str, Any]:
    """Footage of unseen people who said something else: half of it by a camera that pans slowly, half by a hand-held one."""
    said = measures.unseen(range(number + 1), seconds)
    films: dict[str, list[Dubbing]] = {"panned": [], "hand_held": []}
    for index in range(number):
        how = list(films)[index % 2]
        film, row = measures.dubbing(stages, cast.filmed(index // 2, said[index + 1], how == "panned"), said[index], index)
        told = f"r {film.r:.3f}, old {film.old:.3f} of {film.alike:.3f}, followed {film.followed:.3f}, off {film.off:.1f} px, seam {film.seam:.2f}"
        print(f"{how} {index}: {told}", flush=True)
        films[how].append(film)
        shown += [row] if index < 2 else []
    names = ("r", "old", "alike", "followed", "off", "seam")
    return {how: {name: mean([getattr(film, name) for film in those]) for name in names} for how, those in films.items() if those}


def pairs(stages: FilmStages, number: int, seconds: float, shown: list[Shown]) -> dict[str, Any]:
    """Two unseen people in one picture."""
    films = []
    for index in range(number):
        said = measures.unseen(range(2 * index, 2 * index + 2), seconds / 2)
        film, row = measures.pair(stages, index, said)
        print(f"pair {index}: silent {film.silent:.3f} of the talking, r in turn {film.in_turn:.3f}, together {film.together:.3f}", flush=True)
        films.append(film)
        shown += [row] if index < 2 else []
    return {"pairs": {name: mean([getattr(film, name) for film in films]) for name in ("silent", "in_turn", "together")}}


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_mean": mean(values),
        f"{name}_least": float(min(values)),
        f"{name}_median": float(np.median(values)),
        f"{name}_most": float(max(values)),
    }


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
