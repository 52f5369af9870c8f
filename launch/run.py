"""`dub run`: a true Hydra application, so --cfg, --config-dir, -m and completion work as Hydra's users know them."""

import hashlib
import os
import re
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from infinitedub.launch.compose import checked, explain, first_line
from infinitedub.launch.dispatch import REFUSED, STOPPED, dispatch
from infinitedub.pipeline.config import quoted
from infinitedub.stages.errors import ConfigError, DubError

FOLDER_LETTERS = 120  # of the 255 that file systems allow


def main(argv: list[str]) -> int:
    """Dubs the catalogue, once or once per sweep point; the worst exit code of all points."""
    codes: list[int] = []
    started = False
    overrides = [word for word in argv if "=" in word and not word.startswith("-")]
    with ExitStack() as session:

        @hydra.main(version_base="1.3", config_path="pkg://infinitedub.conf", config_name="run")
        def app(composed: DictConfig) -> None:
            nonlocal started
            started = True
            if STOPPED in codes:  # a stop ends the whole sweep
                return
            task = [*search_path_override(HydraConfig.get().runtime.config_sources), *HydraConfig.get().overrides.task]
            point = point_name(swept_keys(overrides, HydraConfig.get().sweeper.params or ()), task)
            if HydraConfig.get().mode == RunMode.MULTIRUN and point:
                folder = f"{composed.publish.folder}/{point}"
                with open_dict(composed):
                    OmegaConf.update(composed, "publish.folder", folder)
                task.append(f"publish.folder='{folder}'")  # a rerun of this point delivers where the point did
            try:
                if HydraConfig.get().job.config_name != "run":  # a rerun would not use it
                    raise ConfigError("--config-name: there is one main configuration, run; make yours a preset: --config-dir DIR preset=NAME")
                codes.append(dispatch(checked(composed), task, session))
            except DubError as error:  # Hydra would print a line of its own and end the sweep
                print(f"dub run: {error}", file=sys.stderr)
                codes.append(REFUSED)

        sys.argv = ["dub run", *argv]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing them and exiting with 1
        try:
            app()
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides) from None
        except ValueError as error:  # Hydra's error for an option of a group that is not a word, such as pools=3
            if started:
                raise
            raise ConfigError(first_line(error)) from None
    return max(codes, default=0)


def search_path_override(sources: Sequence[Any]) -> list[str]:
    """The folders of `--config-dir` and `hydra.searchpath`, as an override: a rerun knows its run by its overrides alone."""
    added = [source for source in sources if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")]
    return [f"hydra.searchpath=[{','.join(quoted(f'{source.schema}://{source.path}') for source in added)}]"] if added else []


def swept_keys(overrides: Sequence[str], params: Collection[str]) -> frozenset[str]:
    """The keys that a sweep changes: those with several values on the command line, and those of hydra.sweeper.params."""
    parsed = (OverridesParser.create().parse_override(word) for word in overrides)
    return frozenset({*params, *(override.key_or_group for override in parsed if override.is_sweep_override())})


def point_name(keys: Collection[str], task: Sequence[str]) -> str:
    """The folder of a sweep point: its values of the swept `keys`, such as `generate.sampler.steps=2`; empty without a sweep.

    A digest is added if the values cannot be written into a folder name exactly, or are too long: no two points share a folder.
    """
    chosen = sorted(word for word in task if OverridesParser.create().parse_override(word).key_or_group in keys)
    name = ",".join(re.sub(r"[^A-Za-z0-9._=-]", "_", word) for word in chosen)
    if len(name) <= FOLDER_LETTERS and all(re.fullmatch(r"[^=]+=[A-Za-z0-9._=-]*", word) for word in chosen):
        return name
    return f"{name[:FOLDER_LETTERS]}-{hashlib.sha256(','.join(chosen).encode()).hexdigest()[:8]}"
