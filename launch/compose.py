"""From overrides on the command line to a validated `RunConfig`; the only file that turns Hydra's objects and errors into ours."""

import difflib
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from infinitedub.pipeline.config import RunConfig
from infinitedub.stages.errors import ConfigError


def compose(overrides: Sequence[str]) -> DictConfig:
    """The composed configuration, unchecked. Raises ConfigError for an unknown key, group or option."""
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("infinitedub.conf", version_base="1.3"):
            return hydra.compose("run", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from None


def checked(composed: DictConfig) -> RunConfig:
    """Plain, frozen, validated settings. Raises ConfigError that names every bad value by its dotted path."""
    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
        missing = [key for key in OmegaConf.missing_keys(composed) if not key.startswith("hydra.")]
        if missing:
            raise ConfigError("; ".join(f"{key}: needs a value ({key}=...)" for key in sorted(missing)))
        return RunConfig.model_validate(plain)
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from None
    except ValidationError as error:
        raise ConfigError("; ".join(_fault(fault) for fault in error.errors())) from None


def _fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "configuration"
    got = "" if fault["type"] == "missing" or isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    return f"{path}: {fault['msg']}{got}"


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """One line for what Hydra could not compose: the first override with an unknown key, and the keys that exist there."""
    if isinstance(error, MissingConfigException):  # the group is there, and Hydra names its options
        return ConfigError(first_line(error))
    try:
        with hydra.initialize_config_module("infinitedub.conf", version_base="1.3"):
            known: Any = OmegaConf.to_container(hydra.compose("run"), resolve=False)
    except (HydraException, OmegaConfBaseException):
        return ConfigError(first_line(error))
    for word in overrides:
        try:
            key = OverridesParser.create().parse_override(word).key_or_group
        except HydraException:
            return ConfigError(
                f"{word!r} is no override; wanted key=value, such as generate.sampler.steps=8; a value with letters beyond ASCII or any of "
                ",()[]{}=~' wants quotes of its own: \"storage.root='films (new)'\""
            )
        where, reached = known, list[str]()
        for part in key.replace("/", ".").split("."):
            if not isinstance(where, dict) or part not in where:
                siblings = sorted(where) if isinstance(where, dict) else []
                close = difflib.get_close_matches(part, siblings, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                place = ".".join(reached) or "the top level"
                return ConfigError(f"{key}: there is no {part!r} in {place}{hint}; known there: {', '.join(siblings) or 'nothing, it is a value'}")
            where = where[part]
            reached.append(part)
    return ConfigError(first_line(error))


def first_line(error: Exception) -> str:
    """A library's error on one line, without its general advice."""
    return " ".join(str(error).split("\nSet the environment variable")[0].split())
