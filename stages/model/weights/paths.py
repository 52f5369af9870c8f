"""Locations of weights: a path, a URI, or `bundled:NAME` for a model that comes with the package."""

import os
import posixpath
from importlib.resources import files
from pathlib import Path

from infinitedub.stages.errors import ConfigError

BUNDLED = "bundled:"


def absolute_location(location: str) -> str:
    """`location` independent of the working directory: paths are made absolute, URIs and `bundled:NAME` stay unchanged."""
    return location if is_bundled_or_uri(location) else os.path.abspath(os.path.expanduser(location))


def join_location(weights: str, location: str) -> str:
    """`location` joined to the folder `weights`, unless it is absolute, a URI or `bundled:NAME`."""
    if is_bundled_or_uri(location) or os.path.isabs(location):
        return location
    head, separator, rest = weights.rpartition("://")
    return head + separator + posixpath.normpath(posixpath.join(rest, location))


def is_bundled_or_uri(location: str) -> bool:
    return is_bundled(location) or "://" in location


def is_bundled(location: str) -> bool:
    return location.startswith(BUNDLED)


def bundled_path(location: str) -> Path:
    """The folder or file of `bundled:NAME[/...]`, whether it exists or not. Raises ConfigError if the package has no such bundle."""
    name, _, inside = location.removeprefix(BUNDLED).partition("/")
    if not name.isidentifier():
        raise ConfigError(f"weights: {location!r} names no bundle; wanted {BUNDLED}NAME, such as {BUNDLED}tiny")
    bundle = files("infinitedub.assets") / f"{name}_bundle"
    if not isinstance(bundle, Path) or not bundle.is_dir():
        raise ConfigError(f"weights: the package has no bundle {name!r}; set generate.model.weights to a folder or a URI")
    return bundle / inside


def resolve_weights(location: str) -> Path:
    """The folder or file on this machine for a path or for `bundled:NAME[/...]`.

    Raises ConfigError if it does not exist.
    """
    path = bundled_path(location) if is_bundled(location) else Path(location)
    if not path.exists():
        raise ConfigError(f"weights: {path} does not exist; download the model there, or set generate.model.* to its location")
    return path
