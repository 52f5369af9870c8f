"""A stage at work in a process: it opens once, then turns orders into committed records. Knows nothing of Ray."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.pool import StageCall, WorkSeconds
from infinitedub.pipeline.pools.retry import Failure, failure_of
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage, StorageSettings
from infinitedub.pipeline.storage.weights import check_weights, on_this_node
from infinitedub.stages.contract import Rank, Stage


@dataclass(frozen=True, slots=True)
class Part:
    """Something the stage has yielded."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The call has ended well: the record that holds for its key from now on; None from ranks other than 0."""

    record: Any


Reply = Part | Done | Failure


class Worker:
    """One process's share of a pool. Errors are given as `Failure`, never raised: who listens may be on another machine."""

    def __init__(self, stage: Stage, storage: StorageSettings, threads: int | None, weights: str = "") -> None:
        """`threads` for tensor work; None leaves the process as it is. `weights`: the digest of those that the stage is to work with, if any."""
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is first imported, which is in the stage's `open`
        self._stage = stage
        self._storage_settings = storage
        self._threads = threads
        self._weights = weights
        self._rank = Rank()

    def open(self, rank: Rank) -> Failure | None:
        """Makes the stage ready to work at this rank."""
        self._rank = rank
        if rank.low_memory:
            os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # less is lost between blocks; read by torch when it starts
        try:
            self._storage = Storage(self._storage_settings)
            self._stage = with_local_weights(self._stage, self._storage)
            if self._weights:
                check_weights(self._storage, self._stage.config, self._weights)
            self._stage.open(rank)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver decides what it means
            return failure_of(error)
        if self._threads is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return None

    def work(self, order: StageCall) -> Iterator[Reply]:
        """The stage's parts as they come, then `WorkSeconds` and `Done`, or a `Failure`. The last part of a stage that yields is its record.

        Only rank 0 speaks and commits; what the other ranks make is dropped.
        """
        first, begun = self._rank.index == 0, monotonic()
        try:
            with StageFiles(self._storage, stage=order.stage, key=order.key) as files:
                record = self._stage(*order.records, files=files)
                if isinstance(record, Iterator):
                    parts, record = record, None
                    for record in parts:
                        if first:
                            yield Part(record)
                if first:
                    record = Ledger(self._storage).commit(order.stage, order.key, files.attempt, record)
        except Exception as error:  # noqa: BLE001 - as above
            yield failure_of(error)
        else:
            if first:
                yield Part(WorkSeconds(monotonic() - begun))
            yield Done(record if first else None)

    def close(self) -> None:
        """Lets go of what `open` took."""
        self._stage.close()


def with_local_weights(stage: Stage, storage: Storage) -> Stage:
    """The stage, still closed, with its weights on this node's disk."""
    local = on_this_node(storage, stage.config)
    return stage if local == stage.config else type(stage)(local)
