"""Files on web servers, to be read only. fsspec's own does not serve here: it takes every failure for a missing file, and a body of any size."""

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

from infinitedub.pipeline.storage.stores.hosts import Hosts
from infinitedub.pipeline.storage.stores.storage_retry import insist
from infinitedub.pipeline.storage.stores.store import Missing, Refused, Stat
from infinitedub.stages.errors import Transient

T = TypeVar("T")

CONNECT_SECONDS = 10
READ_SECONDS = 60
HEAD_SECONDS = 120  # until the body begins, redirects and all
BLOCK_BYTES = 1 << 20
PATIENCE_SECONDS = 120  # so long a server may be as slow as it likes
MIN_BYTES_PER_SECOND = 10_000  # of a server that is given more time than that
MAX_REDIRECTS = 5
WRONG = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError, UnicodeError)
"""What no second try can mend; UnicodeError: a host that IDNA does not know, such as a..b or xn--a."""
LENGTH = re.compile(r"[0-9]{1,18}")


class WebStore:
    """Paths are http and https URIs. Every host that is asked must be on the list, also the one that a redirect leads to; every address is
    judged after it was looked up, and the connection is made to that very address.
    """

    def __init__(self, hosts: Hosts, max_bytes: int, attempts: int) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._attempts = attempts

    def stat(self, path: str) -> Stat:
        # The first byte is asked for rather than the head alone, which signed addresses and some servers refuse.
        async def ask() -> Stat:
            async with self._answer(path, {"Range": "bytes=0-0"}) as answer:
                return _stat(answer, path)

        return self._insist(ask, path)

    def read(self, path: str) -> bytes:
        async def read() -> bytes:
            return b"".join([block async for block in self._blocks(path)])

        return self._insist(read, path)

    def download(self, path: str, to: Path) -> None:
        async def copy() -> None:
            with to.open("wb") as file:
                async for block in self._blocks(path):
                    file.write(block)

        self._insist(copy, path)

    async def _blocks(self, path: str) -> AsyncIterator[bytes]:
        begun, got = time.monotonic(), 0
        async with self._answer(path, {}) as answer:
            async for block in answer.content.iter_chunked(BLOCK_BYTES):
                got += len(block)
                if got > self._max_bytes:
                    raise Refused(f"{path} has more than {self._max_bytes} bytes, whatever the server said")
                spent = time.monotonic() - begun
                if spent > PATIENCE_SECONDS and got < spent * MIN_BYTES_PER_SECOND:
                    raise Transient(f"{path}: only {got} bytes came in {spent:.0f} s")
                yield block

    @asynccontextmanager
    async def _answer(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """What the server says to a GET. Raises Missing, Refused, Transient or aiohttp's errors."""
        # An encoding would be undone without a limit, and hide how long the file is.
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=CheckedResolver(self._hosts), use_dns_cache=False),
            headers={"Accept-Encoding": "identity", **headers},
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(self._judge,),
        )
        try:
            async with session, await self._asked(session, path) as answer:
                if answer.status in (404, 410):
                    raise Missing(f"{path} is not there (the server answered {answer.status})")
                if not (answer.status == 416 and "Range" in headers):  # what a server says to whoever wants the first byte of an empty file
                    answer.raise_for_status()
                    if answer.status >= 300:  # aiohttp takes a redirect that leads nowhere for an answer
                        raise Refused(f"{path}: the server answered {answer.status}, which is no file")
                encoding = answer.headers.get("Content-Encoding", "identity")
                if encoding.lower() != "identity":
                    raise Refused(f"{path} comes in the encoding {encoding}, which was not asked for; copy it to a folder or bucket")
                yield answer
        except WRONG as error:
            raise Refused(f"{path}: {type(error).__name__}: {error}") from error

    @staticmethod
    async def _asked(session: aiohttp.ClientSession, path: str) -> aiohttp.ClientResponse:
        """The answer up to its body. The head has a time limit of its own, since it may come byte by byte."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                return await session.get(path, max_redirects=MAX_REDIRECTS)
        except TimeoutError as error:
            raise Transient(f"{path}: no answer came in time") from error

    async def _judge(
        self, request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
    ) -> aiohttp.ClientResponse:
        """Comes before each request, the first as well as those that redirects lead to."""
        try:
            self._hosts.check_host(request.url.host or "")
        except Refused as error:
            raise Refused(f"{request.url.with_query(None)}: {error}") from error
        return await send(request)

    def _insist(self, call: Callable[[], Awaitable[T]], path: str) -> T:
        def once() -> T:
            done: T = sync(get_loop(), call)
            return done

        return insist(once, path, self._attempts)


class CheckedResolver(AbstractResolver):
    """Looks names up and hands out none but addresses that may be reached. One that may not spoils the name: somebody is playing tricks."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_UNSPEC) -> list[ResolveResult]:
        found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        for one in found:
            self._hosts.check_address(host, ip_address(one["host"]))
        return found

    async def close(self) -> None:
        """Nothing is held."""


def _stat(answer: aiohttp.ClientResponse, path: str) -> Stat:
    """Length and version. Raises Refused where the server does not say: half a file could not be told from a whole one, nor a new from an old."""
    whole = "" if answer.status == 416 else answer.headers.get("Content-Length", "")  # of a refusal it is the length of the excuse
    length = answer.headers.get("Content-Range", "").rpartition("/")[2] or whole
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    if not LENGTH.fullmatch(length) or not version:
        said = "how long the file is" if version else "when the file changes (ETag or Last-Modified)"
        raise Refused(f"{path}: the server does not say {said}; copy it to a folder or bucket")
    return Stat(int(length), version.encode(errors="backslashreplace").decode())  # a header may hold any bytes
