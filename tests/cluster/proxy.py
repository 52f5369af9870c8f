"""A fault proxy between an S3 client and its server: it resets connections, delays, truncates or drops responses, and answers with error responses.

Requests are forwarded byte for byte, Host header included, so that signatures of path-style addresses stay valid.
Faults are drawn from a seeded generator: the n-th request of a proxy gets the same draw in every run, whatever the request is.
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
HEAD_BYTES = 1 << 20  # largest accepted header section


class Fault(StrEnum):
    """Faults that the proxy can inject into a request."""

    DROP = "drop"  # the connection is reset before the request is forwarded
    DELAY = "delay"
    TRUNCATE = "truncate"  # the server handles the request, the response ends in its middle
    LOSE_REPLY = "lose_reply"  # the server handles the request, the client sees a reset connection
    ERROR_500 = "error_500"  # the request is not forwarded; a drawn one is sent again to the first retry of the request
    ERROR_503 = "error_503"  # likewise
    REFUSE_412 = "refuse_412"  # likewise; drawn faults of this kind apply only to requests with If-None-Match


ANSWERS = {
    Fault.ERROR_500: (500, "Internal Server Error", "InternalError", ""),
    Fault.ERROR_503: (503, "Slow Down", "SlowDown", ""),
    Fault.REFUSE_412: (412, "Precondition Failed", "PreconditionFailed", "<Condition>If-None-Match</Condition>"),
}


@dataclass(frozen=True)
class FaultRates:
    """How often each fault is injected."""

    share: float  # of requests that get a fault, 0 to 1
    faults: Mapping[Fault, float] = field(default_factory=lambda: dict.fromkeys(Fault, 1.0))  # relative weights
    delay_seconds: float = 0.3

    def draw(self, random: Random) -> Fault | None:
        """The fault of the next request, or None. Consumes the same number of random numbers in every case."""
        chance, fault = random.random(), random.choices(list(self.faults), list(self.faults.values()))[0]
        return fault if chance < self.share else None


NO_FAULTS = FaultRates(share=0.0)


@dataclass(frozen=True)
class Request:
    """A parsed HTTP request."""

    method: str
    target: str  # path and query, as sent
    headers: Mapping[str, str]  # by lower-case name
    head: bytes  # as sent, without `Expect`, which the proxy answers itself
    body: bytes


@dataclass
class PlannedFault:
    """A fault that will be injected into the next matching requests."""

    fault: Fault
    method: str | None
    containing: str
    times: int

    def matches(self, request: Request) -> bool:
        return self.times > 0 and self.method in (None, request.method) and self.containing in unquote(request.target)


class FaultProxy:
    """Listens on a local port inside its `with` block. The fault rates may be changed at any time and from any thread."""

    def __init__(self, upstream: str, *, seed: int = 0, rates: FaultRates = NO_FAULTS) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname, parts.port or 80
        self._random = Random(seed)
        self._rates = rates
        self._planned: list[PlannedFault] = []
        self._pending: dict[tuple[str, str], list[Fault | None]] = {}  # faults of the next requests with this method and target
        self._lock = Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self.injected: Counter[Fault] = Counter()  # injected faults by kind
        self.served = 0  # requests that the server has answered, whether or not the client got the response

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES), self._loop).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def fault_rates(self, rates: FaultRates) -> Iterator[None]:
        """Uses these fault rates inside the block."""
        before, self._rates = self._rates, rates
        try:
            yield
        finally:
            self._rates = before

    def inject(self, fault: Fault, *, method: str | None = None, containing: str = "", times: int = 1) -> None:
        """Injects a fault into the next requests of this method whose path and query contain the text. Takes precedence over drawn faults."""
        with self._lock:
            self._planned.append(PlannedFault(fault, method, containing, times))

    def clear(self) -> None:
        """Removes all planned and pending faults."""
        with self._lock:
            self._planned.clear()
            self._pending.clear()

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            while await self._answer(await _request(reader, writer), writer):
                pass
        writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection can be reused."""
        fault = self._next_fault(request)
        if fault is Fault.DROP:
            return _reset(writer)
        if fault in ANSWERS:
            writer.write(_refusal(request, *ANSWERS[fault]))
            await writer.drain()
            return True
        if fault is Fault.DELAY:
            await asyncio.sleep(self._rates.delay_seconds)
        head, body, framed = await self._forward(request)
        with self._lock:
            self.served += 1
        if fault is Fault.LOSE_REPLY:
            return _reset(writer)
        if fault is Fault.TRUNCATE:
            answer = head + body[: len(body) // 2] if body else head[: len(head) // 2]
            writer.write(answer)
            await writer.drain()
            return False  # closed, not reset, so that the sent bytes arrive
        writer.write(head + body)
        await writer.drain()
        return framed

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            fault = self._choose(request)
            if fault is not None:
                self.injected[fault] += 1
            return fault

    def _choose(self, request: Request) -> Fault | None:
        for planned in self._planned:
            if planned.matches(request):
                planned.times -= 1
                return planned.fault
        request_line = request.method, request.target
        if request_line in self._pending:
            fault = self._pending[request_line].pop(0)
            if not self._pending[request_line]:
                del self._pending[request_line]
            return fault
        fault = self._rates.draw(self._random)
        if fault is Fault.REFUSE_412 and "if-none-match" not in request.headers:
            return None
        if fault in ANSWERS:
            self._pending[request_line] = [fault, None]
        return fault

    async def _forward(self, request: Request) -> tuple[bytes, bytes, bool]:
        """Header section and body of the server's response, and whether its length is known without closing the connection."""
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
    """The body as sent, chunk sizes included."""
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
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected fault</Message>{details}</Error>'.encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if request.method == "HEAD" else body)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Closes the connection with a TCP reset. Returns False: the connection cannot be reused."""
    held = writer.get_extra_info("socket")
    with suppress(OSError):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
