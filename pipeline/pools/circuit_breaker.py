"""Notices when nothing works any more: an error that meets every order is no order's fault, and going on would only write dead letters."""

from collections.abc import Callable

from infinitedub.pipeline.pools.pool import StageCall


class CircuitBreaker:
    """Counts, over all pools of a run, the orders of a stage that end with the same error, until one of that stage ends well.

    A single job with a peculiar file does not raise it, however many segments it has, unless the error comes before anybody looks at the job.
    """

    def __init__(self, limit: int, stop: Callable[[str], None]) -> None:
        """`stop` is told why, once, when `limit` orders have failed alike."""
        self._limit = limit
        self._stop = stop
        self._hits: dict[tuple[str, str], dict[str, str]] = {}  # stage and mark of the error -> key of the order -> its job
        self._worked: set[str] = set()
        self._raised = False

    def failed(self, order: StageCall, mark: str, reason: str, *, opening: bool = False) -> None:
        """An order has been given up. `mark` is the same for the same error, and empty for one that says nothing about other orders.

        `opening`: the error was met before the order was looked at.
        """
        if not mark or self._raised:
            return
        hits = self._hits.setdefault((order.stage, mark), {})
        hits[order.key] = order.label.job
        jobs = sorted(set(hits.values()))
        if len(hits) >= self._limit and (len(jobs) > 1 or (opening and order.stage not in self._worked)):
            self._raised = True
            told = ", ".join(jobs[:5]) + (", ..." if len(jobs) > 5 else "")
            where = "" if mark == reason else f" [{mark}]"
            self._stop(f"{order.stage} failed for {len(hits)} orders with the same error and has not worked since: {reason}{where}; jobs {told}")

    def ended_well(self, order: StageCall) -> None:
        """An order has its record."""
        self._worked.add(order.stage)
        for stage, mark in [hit for hit in self._hits if hit[0] == order.stage]:
            del self._hits[stage, mark]
