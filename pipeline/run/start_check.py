"""The check before start: what makes a run impossible is said at once, before a cluster or a pool is opened."""

from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.weight_files import StoredWeightFiles
from infinitedub.stages.errors import ConfigError


def check_before_start(config: RunConfig, storage: Storage) -> None:
    """Raises ConfigError, which lists every fault of the model's files and of how its windows are to be shared. Reads some MB."""
    generate = config.generate
    faults = list(dict.fromkeys(config.engine.faults_before_start(generate.model, generate, StoredWeightFiles(storage))))
    if faults:
        advice = "the places of the files are generate.model.weights, .adapter, .speech and .loras"
        raise ConfigError(
            f"{len(faults)} fault{'s' if len(faults) > 1 else ''} of the model, nothing was started ({advice}):\n  " + "\n  ".join(faults)
        )
