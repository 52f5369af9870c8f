"""Where the weights lie: how a setting names a place, and what that is on this machine."""

import os
import posixpath
from importlib.resources import files
from pathlib import Path

from infinitedub.stages.errors import ConfigError

BUNDLED = "bundled:"


def absolute(place: str) -> str:
    """The same place for every process, whatever its working directory: URIs and `bundled:NAME` stay, paths are made absolute."""
    return place if is_uri(place) else os.path.abspath(os.path.expanduser(place))


def beside(weights: str, place: str) -> str:
    """`place`, which is meant from the folder `weights` where it is neither absolute nor a URI."""
    if is_uri(place) or os.path.isabs(place):
        return place
    head, separator, rest = weights.rpartition("://")
    return head + separator + posixpath.normpath(posixpath.join(rest, place))


def is_uri(place: str) -> bool:
    return place.startswith(BUNDLED) or "://" in place


def locate(place: str) -> Path:
    """The folder or file that a place on this machine means: a path, or `bundled:NAME[/...]`, which comes with the package.

    Raises ConfigError where nothing is there.
    """
    if place.startswith(BUNDLED):
        name, _, inside = place.removeprefix(BUNDLED).partition("/")
        if not name.isidentifier():
            raise ConfigError(f"weights: {place!r} names no bundle; wanted {BUNDLED}NAME, such as {BUNDLED}tiny")
        bundle = files("assets") / f"{name}_bundle"
        if not isinstance(bundle, Path) or not bundle.is_dir():
            raise ConfigError(f"weights: the package has no bundle {name!r}; set generate.model.weights to a folder or URI")
        path = bundle / inside
    else:
        path = Path(place)
    if not path.exists():
        raise ConfigError(f"weights: nothing is at {path}; download the model there, or set generate.model.* to where it lies")
    return path
