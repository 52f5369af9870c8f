"""Which sources a catalogue may name: from which folders, buckets and web servers, and of which size."""

import os
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from infinitedub.pipeline.storage.stores.hosts import parse_hosts
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.stages.errors import BadInput
from infinitedub.stages.settings import Neutral, Settings

WEB = ("http", "https")


class SourceSettings(Settings):
    """Which of the sources that a catalogue names may be read. The catalogue may have been written by someone else than the user."""

    schemes: Neutral[tuple[Literal["file", "s3", "gs", "gcs", "az", "abfs", "abfss"], ...]]
    """URI schemes; `file` includes plain paths. Web servers are listed in `hosts`."""
    roots: Neutral[tuple[str, ...] | None]
    """Folders and URIs below which a source must lie after links are resolved; null for everything that this process can read."""
    hosts: Neutral[tuple[str, ...]]
    """Web servers (http and https): names, `*.domain` for every name below it, addresses, networks; empty for none.
    A name may only have public addresses, or addresses that are on the list themselves."""
    max_bytes: Neutral[int] = Field(gt=0)
    """Size of the largest file that is read, bytes."""

    @field_validator("roots")
    @classmethod
    def _roots_are_absolute(cls, roots: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # Workers have other working directories than the driver.
        try:
            parsed = None if roots is None else [parse_uri(root) for root in roots]
        except BadInput as error:
            raise ValueError(str(error)) from None
        for scheme, path in parsed or ():
            if scheme in WEB:
                raise ValueError(f"{path}: web servers are listed under storage.sources.hosts")
        return None if parsed is None else tuple(path for _, path in parsed)

    @field_validator("hosts")
    @classmethod
    def _hosts_can_be_read(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        parse_hosts(hosts)
        return hosts


def check_source(uri: str, settings: SourceSettings) -> tuple[str, str]:
    """Scheme and path of a source, as from `parse_uri`; links are resolved if storage.sources.roots is set. Raises BadInput if it may not be read."""
    scheme, path = parse_uri(uri)
    if scheme in WEB:
        _check_web(uri, path, settings.hosts)
        return scheme, path
    if scheme not in settings.schemes:
        allowed = ", ".join(settings.schemes)
        raise BadInput(f"{uri}: the scheme {scheme} may not be read (storage.sources.schemes: {allowed})")
    if settings.roots is None:
        return scheme, path
    real = os.path.realpath(path) if scheme == "file" else path
    if not _is_below(scheme, real, settings.roots):
        where = uri if real == path else f"{uri} leads to {real}, which"
        allowed = " or ".join(settings.roots) or "any folder"
        raise BadInput(f"{where} is not below {allowed} (storage.sources.roots); move the file there, or add its folder to storage.sources.roots")
    return scheme, real


def _is_below(scheme: str, path: str, roots: Iterable[str]) -> bool:
    for root in roots:
        root_scheme, location = parse_uri(root)
        if root_scheme == scheme:
            top = os.path.realpath(location) if root_scheme == "file" else location
            if path.startswith(top.rstrip("/") + "/"):
                return True
    return False


def _check_web(uri: str, path: str, hosts: tuple[str, ...]) -> None:
    """Checks the URI before any request; `WebStore` checks every redirect again."""
    try:
        parts = urlsplit(path)
        host = parts.hostname
    except ValueError as error:
        raise BadInput(f"{uri} is not a valid URL: {error}") from error
    if not host:
        raise BadInput(f"{uri} has no host; wanted https://host/path")
    if "@" in parts.netloc:
        raise BadInput(f"the URL on {host} contains a user or password; wanted a signed URL, or a copy in a folder or bucket")
    if not hosts:
        raise BadInput(f"{uri}: web servers must be listed; add {host} to storage.sources.hosts, or copy the file to a folder or bucket")
