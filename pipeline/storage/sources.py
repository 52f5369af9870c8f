"""What a catalogue may name: from which folders, buckets and web servers, and how large."""

import os
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from infinitedub.pipeline.storage.stores.hosts import read_hosts
from infinitedub.pipeline.storage.uris import locate
from infinitedub.stages.errors import BadInput
from infinitedub.stages.settings import Neutral, Settings

WEB = ("http", "https")


class SourceSettings(Settings):
    """What may be read of what a catalogue names. Others than its launcher may have written it."""

    schemes: Neutral[tuple[Literal["file", "s3", "gs", "gcs", "az", "abfs", "abfss"], ...]]
    """Kinds of storage; `file` stands for paths, too. Web servers are told by `hosts`."""
    roots: Neutral[tuple[str, ...] | None]
    """Folders and URIs below which a source must lie, links resolved; null for everything that this process may read."""
    hosts: Neutral[tuple[str, ...]]
    """Web servers (http and https): names, `*.domain` for every name below it, addresses, networks; none where it is empty.
    A name may only have public addresses, except those that are on the list themselves."""
    max_bytes: Neutral[int] = Field(gt=0)
    """Larger files are refused, bytes."""

    @field_validator("roots")
    @classmethod
    def _roots_are_absolute(cls, roots: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # Workers have other working directories than the driver.
        try:
            located = None if roots is None else [locate(root) for root in roots]
        except BadInput as error:
            raise ValueError(str(error)) from None
        for scheme, path in located or ():
            if scheme in WEB:
                raise ValueError(f"{path}: web servers are listed under storage.sources.hosts")
        return None if located is None else tuple(path for _, path in located)

    @field_validator("hosts")
    @classmethod
    def _hosts_can_be_read(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        read_hosts(hosts)
        return hosts


def admitted(uri: str, settings: SourceSettings) -> tuple[str, str]:
    """Scheme and path of a source, as `locate` gives them; links are resolved where it matters. Raises BadInput for what may not be read."""
    scheme, path = locate(uri)
    if scheme in WEB:
        _check_web(uri, path, settings.hosts)
        return scheme, path
    if scheme not in settings.schemes:
        allowed = ", ".join(settings.schemes)
        raise BadInput(f"{uri}: {scheme} is not among the kinds of URI that may be read ({allowed}; storage.sources.schemes)")
    if settings.roots is None:
        return scheme, path
    real = os.path.realpath(path) if scheme == "file" else path
    if not _below(scheme, real, settings.roots):
        where = uri if real == path else f"{uri} leads to {real}, which"
        allowed = " or ".join(settings.roots) or "anything"
        raise BadInput(f"{where} is not below {allowed} (storage.sources.roots); move it there, or add its folder to them")
    return scheme, real


def _below(scheme: str, path: str, roots: Iterable[str]) -> bool:
    for root in roots:
        kind, place = locate(root)
        if kind == scheme:
            top = os.path.realpath(place) if kind == "file" else place
            if path.startswith(top.rstrip("/") + "/"):
                return True
    return False


def _check_web(uri: str, path: str, hosts: tuple[str, ...]) -> None:
    """What can be said before a server is asked; every hop is judged again."""
    try:
        parts = urlsplit(path)
        host = parts.hostname
    except ValueError as error:
        raise BadInput(f"{uri} is no web address: {error}") from error
    if not host:
        raise BadInput(f"{uri} names no host; wanted https://host/path")
    if "@" in parts.netloc:
        raise BadInput(f"the address on {host} carries a user or password; wanted a signed address, or a copy in a folder or bucket")
    if not hosts:
        raise BadInput(f"{uri}: nothing is read from web servers unless its host is listed: add {host} to storage.sources.hosts, or copy the file")
