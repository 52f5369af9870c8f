"""Parses paths and URIs into a scheme and a path."""

import os
import re
from urllib.parse import unquote, urlsplit

from infinitedub.stages.errors import BadInput

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
BRACKETS = re.compile(r"https?://\[", re.IGNORECASE)  # around an IPv6 address
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def parse_uri(uri: str) -> tuple[str, str]:
    """The scheme, and the path for its store: an absolute path for `file`, otherwise the URI itself. Raises BadInput for what is neither.

    `file://` URIs are percent-decoded (RFC 8089); plain paths are taken as they are.
    """
    if not uri or UNPRINTABLE.search(uri):
        raise BadInput(f"{uri!r} is neither a path nor a URI; wanted something like /films/a.mp4 or s3://bucket/a.mp4")
    if "::" in uri and not BRACKETS.match(uri):
        raise BadInput(f"{uri}: chains of file systems (`::`) are not opened; give the URI of the file itself")
    match = SCHEME.match(uri)
    if match is None:
        return "file", os.path.abspath(os.path.expanduser(uri))
    scheme = match[1].lower()
    if scheme == "file":
        parts = urlsplit(uri)
        path = unquote(uri[match.end() + len(parts.netloc) :])
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or UNPRINTABLE.search(path):
            raise BadInput(f"{uri}: wanted file:///absolute/path, or the path alone")
        return "file", os.path.abspath(path)
    rest = uri[match.end() :]
    if not rest.strip("/") or ".." in rest.split("/"):
        raise BadInput(f"{uri}: wanted {scheme}://bucket/name without `..`")
    if scheme == "s3" and "?versionId=" in rest:  # s3fs would silently read the latest version
        raise BadInput(f"{uri}: versions of objects are not supported; give the URI without ?versionId=")
    return scheme, f"{scheme}://{rest}"
