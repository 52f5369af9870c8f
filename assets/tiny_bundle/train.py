"""Trains the tiny bundle, from nothing to weights.

    python -m infinitedub.assets.tiny_bundle.train WORK_DIR [--processes 2] [--device cpu] [--only STAGE ...]

Needs espeak-ng and scipy, which the product does not. WORK_DIR keeps the drawn clips, the latents and the state of every stage: a run that was
cut off, or told to stop, goes on from there. On a CPU each process uses one thread, and the processes share every batch. The last stage writes
WORK_DIR/bundle.

With `--device cuda --processes 1` batches are eight times as large and plans longer. Meant for three runs of ten minutes: the first up to
`clips`, the second up to `latents`, the third the rest; each goes on where the one before was cut off. This has not been tried.
"""

import argparse
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from infinitedub.assets.tiny_bundle import autoencoder, clips, export, latent_cache, mouth_reader, rollouts, train_denoiser
from infinitedub.assets.tiny_bundle.trainer import Crew

Stage = Callable[[Path, Crew], object]

STAGES: dict[str, tuple[Stage, bool]] = {  # and whether several processes take part
    "corpus": (lambda folder, _: clips.load_corpus(folder), False),
    **{shape: (partial(clips.render, shape=shape), True) for shape in clips.SHAPES},
    "hearing": (mouth_reader.learn, False),
    **{stage: (partial(autoencoder.learn, stage=stage), True) for stage in autoencoder.PLANS},
    "latents": (latent_cache.encode_all, True),
    "denoiser": (partial(train_denoiser.learn, stage="alone"), True),
    "rollouts": (rollouts.roll_out_all, True),
    "chained": (partial(train_denoiser.learn, stage="chained"), True),
    "export": (lambda folder, _: export.write_bundle(folder, folder / "bundle"), False),
}


def main() -> None:
    """Runs the stages in order; those that are done take no time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; with cuda one process is enough")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        processes = options.processes if STAGES[name][1] else 1
        with socket.create_server(("127.0.0.1", 0)) as free:
            meeting = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        multiprocessing.spawn(take_part, (name, processes, meeting, options.device, options.folder), nprocs=processes)


def take_part(rank: int, name: str, processes: int, meeting: str, device: str, folder: Path) -> None:
    """One process's part in one stage."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    STAGES[name][0](folder, Crew(rank, processes, torch.device(device)))
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
