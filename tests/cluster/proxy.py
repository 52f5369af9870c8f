"""Bad weather between an S3 client and its server: a proxy that breaks connections, delays, cuts and loses answers, or answers for the server.

Requests reach the server byte for byte as the client signed them, Host header included, so signatures hold with path-style addresses.
What happens is drawn from a seed: the n-th request of a proxy meets the same weather in every run, whatever it asks for.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

HEAD_END = b"\r\n\r\n"
HEAD_BYTES = 1 << 20  # of a head at most


class Failure(StrEnum):
    """What may happen to a request."""

    DROP = "drop"  # the connection breaks before the server has heard of it
    DELAY = "delay"
    TRUNCATE = "truncate"  # the server does it, the answer breaks off in its middle
    LOSE_REPLY = "lose_reply"  # the server does it, the client sees a reset connection
    ERROR_500 = "error_500"  # the server hears nothing; answered twice to the same request
    ERROR_503 = "error_503"  # likewise
    REFUSE_412 = "refuse_412"  # likewise, to puts that ask for If-None-Match; others pass


ANSWERS = {
    Failure.ERROR_500: (500, "Internal Server Error", "InternalError", ""),
    Failure.ERROR_503: (503, "Slow Down", "SlowDown", ""),
    Failure.REFUSE_412: (412, "Precondition Failed", "PreconditionFailed", "<Condition>If-None-Match</Condition>"),
}


@dataclass(frozen=True)
class Weather:
    """How often which fault happens."""

    share: float  # of requests that meet one, 0 to 1
    faults: Mapping[Failure, float] = field(default_factory=lambda: dict.fromkeys(Failure, 1.0))  # how often each, relative to the others
    delay_seconds: float = 0.3

    def draw(self, random: Random) -> Failure | None:
        """The fate of the next request. Takes the same number of random numbers whatever comes out."""
        whether, which = random.random(), random.choices(list(self.faults), list(self.faults.values()))[0]
        return which if whether < self.share else None


CALM = Weather(share=0.0)


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    target: str  # path and query, as sent
    headers: Mapping[str, str]  # by lower-case name
    head: bytes  # as sent, but for `Expect`, which was answered here
    body: bytes


@dataclass
class Strike:
    """A fault planned for certain requests."""

    fault: Failure
    method: str | None
    containing: str
    times: int

    def hits(self, request: Request) -> bool:
        return self.times > 0 and self.method in (None, request.method) and self.containing in unquote(request.target)


class FaultProxy:
    """Listens on a port of this machine while its `with` block lasts; may be asked for other weather at any time, from any thread."""

    def __init__(self, upstream: str, *, seed: int = 0, weather: Weather = CALM) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname, parts.port or 80
        self._random = Random(seed)
        self._weather = weather
        self._strikes: list[Strike] = []
        self._fates: dict[tuple[str, str], list[Failure | None]] = {}  # what the next requests of the same words will meet
        self._lock = Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self.struck: Counter[Failure] = Counter()  # faults that have happened
        self.served = 0  # requests that the server has done, with or without the client's knowledge

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._talk, "127.0.0.1", 0, limit=HEAD_BYTES), self._loop).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def weather(self, weather: Weather) -> Iterator[None]:
        """Other weather for the length of a block."""
        before, self._weather = self._weather, weather
        try:
            yield
        finally:
            self._weather = before

    def strike(self, fault: Failure, *, method: str | None = None, containing: str = "", times: int = 1) -> None:
        """Plans a fault for the next requests of this method whose path and query contain the text. Goes before the weather."""
        with self._lock:
            self._strikes.append(Strike(fault, method, containing, times))

    def calm(self) -> None:
        """Takes back what was planned."""
        with self._lock:
            self._strikes.clear()
            self._fates.clear()

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            while await self._answer(await _request(reader, writer), writer):
                pass
        writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; whether the connection is still good for another."""
        fault = self._fate(request)
        if fault is Failure.DROP:
            return _reset(writer)
        if fault in ANSWERS:
            writer.write(_refusal(request, *ANSWERS[fault]))
            await writer.drain()
            return True
        if fault is Failure.DELAY:
            await asyncio.sleep(self._weather.delay_seconds)
        head, body, framed = await self._forward(request)
        with self._lock:
            self.served += 1
        if fault is Failure.LOSE_REPLY:
            return _reset(writer)
        if fault is Failure.TRUNCATE:
            answer = head + body[: len(body) // 2] if body else head[: len(head) // 2]
            writer.write(answer)
            await writer.drain()
            return False  # closed, not reset: what was sent arrives
        writer.write(head + body)
        await writer.drain()
        return framed

    def _fate(self, request: Request) -> Failure | None:
        with self._lock:
            fault = self._drawn(request)
            if fault is not None:
                self.struck[fault] += 1
            return fault

    def _drawn(self, request: Request) -> Failure | None:
        for strike in self._strikes:
            if strike.hits(request):
                strike.times -= 1
                return strike.fault
        words = request.method, request.target
        if words in self._fates:
            fate = self._fates[words].pop(0)
            if not self._fates[words]:
                del self._fates[words]
            return fate
        fault = self._weather.draw(self._random)
        if fault is Failure.REFUSE_412 and "if-none-match" not in request.headers:
            return None
        if fault in ANSWERS:
            self._fates[words] = [fault, None]
        return fault

    async def _forward(self, request: Request) -> tuple[bytes, bytes, bool]:
        """Head and body of the server's answer, and whether its end can be told without closing the connection."""
        reader, writer = await asyncio.open_connection(*self._upstream, limit=HEAD_BYTES)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            head = b"HTTP/1.1 100 "
            while head.split(b" ", 2)[1].startswith(b"1"):
                head = await reader.readuntil(HEAD_END)
            first, headers = _parsed(head)
            if request.method == "HEAD" or first.split(" ")[1] in ("204", "304"):
                return head, b"", True
            if "content-length" in headers or "chunked" in headers.get("transfer-encoding", ""):
                return head, await _body(reader, headers), True
            return head, await reader.read(-1), False
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = await reader.readuntil(HEAD_END)
    first, headers = _parsed(head)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        lines = [line for line in head.removesuffix(HEAD_END).split(b"\r\n") if not line.lower().startswith(b"expect:")]
        head = b"\r\n".join(lines) + HEAD_END
    method, target, _ = first.split(" ", 2)
    return Request(method, target, headers, head, await _body(reader, headers))


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return first, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """The body as it was sent, chunk sizes included."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


def _refusal(request: Request, status: int, phrase: str, code: str, details: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>bad weather</Message>{details}</Error>'.encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if request.method == "HEAD" else body)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Breaks the connection so that the other side sees a reset; False, since it is good for nothing more."""
    held = writer.get_extra_info("socket")
    with suppress(OSError):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
