"""Reads files from web servers. fsspec's HTTP file system is not used: it reports every failure as a missing file, and reads a body of any size."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from socket import AF_UNSPEC, AddressFamily
from typing import TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from fsspec.asyn import get_loop, sync

from infinitedub.pipeline.storage.stores.hosts import AllowedHosts
from infinitedub.pipeline.storage.stores.storage_retry import retry_storage_call
from infinitedub.pipeline.storage.stores.store import AccessRefused, FileStat, NotFound
from infinitedub.stages.errors import Transient

T = TypeVar("T")

CONNECT_SECONDS = 10
READ_SECONDS = 60
HEAD_SECONDS = 120  # until the body begins, including all redirects
BLOCK_BYTES = 1 << 20
SLOW_SECONDS = 120  # after this time a download must be faster than MIN_BYTES_PER_SECOND on average
MIN_BYTES_PER_SECOND = 10_000
MAX_REDIRECTS = 5
PERMANENT = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError, UnicodeError)
"""Errors that no retry can solve; UnicodeError: a host name that IDNA cannot encode, such as a..b or xn--a."""
LENGTH = re.compile(r"[0-9]{1,18}")


class WebStore:
    """Paths are http and https URIs. Every host must be allowed, including those that redirects lead to. Every address is checked after the
    name is resolved, and the connection is made to that same address.
    """

    def __init__(self, hosts: AllowedHosts, max_bytes: int, attempts: int) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._attempts = attempts

    def stat(self, path: str) -> FileStat:
        # A GET of the first byte rather than a HEAD, which signed URLs and some servers refuse.
        async def stat() -> FileStat:
            async with self._get(path, {"Range": "bytes=0-0"}) as response:
                return _stat(response, path)

        return self._retry(stat, path)

    def read(self, path: str) -> bytes:
        async def read() -> bytes:
            return b"".join([block async for block in self._blocks(path)])

        return self._retry(read, path)

    def download(self, path: str, to: Path) -> None:
        async def copy() -> None:
            with to.open("wb") as file:
                async for block in self._blocks(path):
                    file.write(block)

        self._retry(copy, path)

    async def _blocks(self, path: str) -> AsyncIterator[bytes]:
        started, received = time.monotonic(), 0
        async with self._get(path, {}) as response:
            async for block in response.content.iter_chunked(BLOCK_BYTES):
                received += len(block)
                if received > self._max_bytes:
                    raise AccessRefused(f"{path} has more than {self._max_bytes} bytes, whatever length the server announced")
                elapsed = time.monotonic() - started
                if elapsed > SLOW_SECONDS and received < elapsed * MIN_BYTES_PER_SECOND:
                    raise Transient(f"{path}: only {received} bytes arrived in {elapsed:.0f} s")
                yield block

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a GET. Raises NotFound, AccessRefused, Transient or aiohttp's errors."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=CheckedResolver(self._hosts), use_dns_cache=False),
            # A content encoding would be decoded without a limit, and hide the length of the file.
            headers={"Accept-Encoding": "identity", **headers},
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(self._check_request,),
        )
        try:
            async with session, await self._response(session, path) as response:
                if response.status in (404, 410):
                    raise NotFound(f"{path} does not exist (the server answered {response.status})")
                if not (response.status == 416 and "Range" in headers):  # the answer to a request for the first byte of an empty file
                    response.raise_for_status()
                    if response.status >= 300:  # aiohttp returns a redirect without a target as a response
                        raise AccessRefused(f"{path}: the server answered {response.status}; wanted a file")
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding.lower() != "identity":
                    raise AccessRefused(f"{path} is sent in the encoding {encoding}, which was not requested; copy the file to a folder or bucket")
                yield response
        except PERMANENT as error:
            raise AccessRefused(f"{path}: {type(error).__name__}: {error}") from error

    @staticmethod
    async def _response(session: aiohttp.ClientSession, path: str) -> aiohttp.ClientResponse:
        """The response up to its body. The headers have a time limit of their own, since they may arrive byte by byte."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                return await session.get(path, max_redirects=MAX_REDIRECTS)
        except TimeoutError as error:
            raise Transient(f"{path}: no response within {HEAD_SECONDS} s") from error

    async def _check_request(
        self, request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
    ) -> aiohttp.ClientResponse:
        """Runs before each request: the first one and those that redirects lead to."""
        try:
            self._hosts.check_host(request.url.host or "")
        except AccessRefused as error:
            raise AccessRefused(f"{request.url.with_query(None)}: {error}") from error
        return await send(request)

    def _retry(self, call: Callable[[], Awaitable[T]], path: str) -> T:
        def run() -> T:
            result: T = sync(get_loop(), call)
            return result

        return retry_storage_call(run, path, self._attempts)


class CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to. One refused address refuses the name, since a mixed answer suggests an attack."""

    def __init__(self, hosts: AllowedHosts) -> None:
        self._hosts = hosts

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_UNSPEC) -> list[ResolveResult]:
        results = await aiohttp.ThreadedResolver().resolve(host, port, family)
        for result in results:
            self._hosts.check_address(host, ip_address(result["host"]))
        return results

    async def close(self) -> None:
        """Does nothing: the resolver holds no resources."""


def _stat(response: aiohttp.ClientResponse, path: str) -> FileStat:
    """Length and version. Raises AccessRefused if the server sends neither: a truncated or changed file could not be recognised."""
    whole = "" if response.status == 416 else response.headers.get("Content-Length", "")  # of a refusal it is the length of the error page
    length = response.headers.get("Content-Range", "").rpartition("/")[2] or whole
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if not LENGTH.fullmatch(length) or not version:
        lacking = "the length of the file" if version else "an ETag or Last-Modified header"
        raise AccessRefused(f"{path}: the server does not send {lacking}; copy the file to a folder or bucket")
    return FileStat(int(length), version.encode(errors="backslashreplace").decode())  # a header may hold any bytes
