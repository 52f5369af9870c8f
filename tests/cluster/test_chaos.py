"""Films are bit-identical to a reference run although every kind of fault is injected. `python -m benchmarks.chaos` is the longer soak test."""

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.chaos import BROKEN, CATALOGUE, KINDS, ChaosWorkspace, soak

JOBS = ("portrait", "footage", BROKEN)
SEED = 7


@pytest.mark.timeout(1500)  # two to three minutes on an idle machine
def test_films_equal_the_reference_run_after_every_kind_of_fault(tmp_path: Path):
    """A rank, a worker, a node and the driver are killed, the driver is stopped and the storage fails: each once, in the order of the seed.

    `soak` raises `Lost` if a film is missing, differs in its bits or its sidecar, or if a job other than the broken one has a dead letter.
    """
    workspace = ChaosWorkspace(tmp_path, [row for row in CATALOGUE if row["id"] in JOBS])
    tally = soak(workspace, SEED, 2, lambda tally: tally.injected.total() < len(KINDS), Console(stderr=True))
    assert tally.injected == tally.survived == Counter(KINDS)
    assert tally.films == 2 * tally.rounds
    assert tally.storage.total() > 0
