"""Stopping a run: softly, so that calls in progress reach their next commit first, or at once."""

import asyncio
import signal
from contextlib import suppress

from infinitedub.pipeline.state.run_log import legible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Whether the run must end, and why. Signals and the circuit breaker set it; the driver waits for it."""

    def __init__(self) -> None:
        self.soft = asyncio.Event()
        self.hard = asyncio.Event()
        self.reason = ""
        self._signals = 0

    def request(self, reason: str) -> None:
        """A soft stop; the first reason is kept."""
        self.soft.set()
        self.reason = self.reason or legible(reason)

    def watch_signals(self) -> None:
        """Handles SIGINT and SIGTERM: the first stops softly, the second at once, the third kills the process.

        Signals are counted, not requests: after the circuit breaker has stopped the run softly, one Ctrl-C does not discard work in progress.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            with suppress(NotImplementedError, RuntimeError, ValueError):  # signals reach the main thread only
                loop.add_signal_handler(number, self._handle, signal.Signals(number).name)

    def _handle(self, name: str) -> None:
        self._signals += 1
        self.request(name)
        if self._signals > 1:
            loop = asyncio.get_running_loop()
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
            self.hard.set()
