"""Everything breaks while a catalogue is dubbed, and the films are what they would have been. `python -m benchmarks.chaos` goes on for longer."""

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.chaos import BROKEN, CATALOGUE, KINDS, ChaosWorkspace, soak

JOBS = ("portrait", "footage", BROKEN)
SEED = 7


@pytest.mark.timeout(1500)  # two minutes or three where nothing else runs
def test_whatever_dies_the_films_are_those_of_a_calm_run(tmp_path: Path):
    """A rank, a worker, a node and the driver are killed, the driver is stopped, the storage fails: each once, in an order that the seed gives.

    `soak` raises `Lost` where a film is missing, has other bits or another sidecar, or where another job than the broken one has a dead letter.
    """
    workspace = ChaosWorkspace(tmp_path, [row for row in CATALOGUE if row["id"] in JOBS])
    tally = soak(workspace, SEED, 2, lambda tally: tally.injected.total() < len(KINDS), Console(stderr=True))
    assert tally.injected == tally.survived == Counter(KINDS)
    assert tally.films == 2 * tally.rounds
    assert tally.storage.total() > 0
