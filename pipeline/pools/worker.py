"""A stage in the process that runs it: opened once, then called. Knows nothing of Ray."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.calls import StageCall, Worked, Yielded
from infinitedub.pipeline.pools.failures import Failure, failure_of
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage, StorageSettings
from infinitedub.pipeline.storage.weights import check_weights, on_this_node
from infinitedub.stages.contract import Rank, Stage


@dataclass(frozen=True, slots=True)
class Done:
    """The call has succeeded: the record that is committed under its key; None from ranks other than 0."""

    record: Any


Reply = Yielded | Worked | Done | Failure


class Worker:
    """Opens a stage and calls it. Errors are returned as `Failure`, never raised: the caller may be on another machine."""

    def __init__(self, stage: Stage, storage: StorageSettings, threads: int | None, weights: str = "") -> None:
        """`threads` for tensor work; None keeps the process's setting. `weights`: the digest that the stage's weights must have; empty for none."""
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is first imported, which is in the stage's `open`
        self._stage = stage
        self._storage_settings = storage
        self._threads = threads
        self._weights = weights
        self._rank = Rank()

    @property
    def device(self) -> str:
        """The device that the stage's settings ask for: where it runs if no pool places it."""
        return "cuda:0" if getattr(self._stage.config, "device", "cpu") == "cuda" else "cpu"

    def open(self, rank: Rank) -> Failure | None:
        """Opens the stage as this rank of its group."""
        self._rank = rank
        if rank.low_memory:
            os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # less fragmentation; read by torch when it starts
        try:
            self._storage = Storage(self._storage_settings)
            self._stage = with_local_weights(self._stage, self._storage)
            if self._weights:
                check_weights(self._storage, self._stage.config, self._weights)
            self._stage.open(rank)
        except Exception as error:  # noqa: BLE001 - the driver classifies it
            return failure_of(error)
        if self._threads is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return None

    def work(self, call: StageCall) -> Iterator[Reply]:
        """Each record that the stage yields, then `Worked` and `Done`, or a `Failure`. The last record of a stage that yields is its result.

        Only rank 0 replies and commits; what the other ranks yield is dropped.
        """
        first, started = self._rank.index == 0, monotonic()
        try:
            with StageFiles(self._storage, stage=call.stage, key=call.key, sources=dict(call.sources)) as files:
                record = None
                for record, seconds in self._records(call, files):
                    if first and seconds is not None:
                        yield Yielded(record, seconds)
                files.check_sources()
                if first:
                    record = Ledger(self._storage).commit(call.stage, call.key, files.attempt, record)
        except Exception as error:  # noqa: BLE001 - the driver classifies it
            yield failure_of(error)
        else:
            if first:
                yield Worked(monotonic() - started)
            yield Done(record if first else None)

    def close(self) -> None:
        """Closes the stage."""
        self._stage.close()

    def _records(self, call: StageCall, files: StageFiles) -> Iterator[tuple[Any, float | None]]:
        """What the stage gives: the records that it yields with their seconds, or its one record without."""
        last = monotonic()
        result = self._stage(*call.records, files=files)
        if not isinstance(result, Iterator):
            yield result, None
            return
        for record in result:
            now = monotonic()
            yield record, now - last
            last = monotonic()


def with_local_weights(stage: Stage, storage: Storage) -> Stage:
    """The stage, not yet opened, with its weights on this node's disk."""
    local = on_this_node(storage, stage.config)
    return stage if local == stage.config else type(stage)(local)
