"""Stopping a run: softly, so that calls in progress reach their next commit first, or at once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from infinitedub.pipeline.pools.inline_group import Interrupted
from infinitedub.pipeline.state.run_log import legible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Whether the run must end, and why. Signals and the circuit breaker set it; the driver waits for it."""

    def __init__(self) -> None:
        self.soft = asyncio.Event()
        self.hard = asyncio.Event()
        self.reason = ""
        self._signals = 0
        self._blocking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def request(self, reason: str) -> None:
        """A soft stop; the first reason is kept."""
        self.soft.set()
        self.reason = self.reason or legible(reason)

    def watch_signals(self) -> None:
        """Handles SIGINT and SIGTERM: the first stops softly, the second at once, the third kills the process.

        Signals are counted, not requests: after the circuit breaker has stopped the run softly, one Ctrl-C does not discard work in progress.
        The handlers are Python's, not the loop's, which would not run while a stage or `ray.init` blocks the loop.
        """
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            with suppress(ValueError):  # only the main thread may set handlers
                previous = signal.signal(number, self._handle)
                self._previous.setdefault(number, previous)

    def release_signals(self) -> None:
        """Restores the handlers from before `watch_signals`."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For code that blocks the event loop: the second signal raises `Interrupted` in it."""
        self._blocking = True
        try:
            yield
        finally:
            self._blocking = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self.request, signal.Signals(number).name)
        if self._signals > 1:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            self._loop.call_soon_threadsafe(self.hard.set)
            if self._blocking:
                raise Interrupted
