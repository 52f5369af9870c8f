"""The circuit breaker of a run: stops it when the same error meets call after call, instead of writing one dead letter per job."""

from collections.abc import Callable

from infinitedub.pipeline.pools.calls import StageCall


class CircuitBreaker:
    """Counts the calls of a stage that failed with the same error since the stage last succeeded, over all pools and jobs of a run.

    One job with an unusual file does not trip it, however many segments the job has, unless the stage could not be opened.
    """

    def __init__(self, limit: int, stop: Callable[[str], None]) -> None:
        """`stop` is called once, with the reason, when `limit` calls have failed alike."""
        self._limit = limit
        self._stop = stop
        self._failed: dict[tuple[str, str], dict[str, str]] = {}  # (stage, fingerprint) -> {content key: job}
        self._succeeded: set[str] = set()  # stages
        self._tripped = False

    def record_failure(self, call: StageCall, fingerprint: str, reason: str, *, while_opening: bool = False) -> None:
        """A call has failed for good. `fingerprint` is equal for the same error, and empty for an error that says nothing about other calls."""
        if not fingerprint or self._tripped:
            return
        failed = self._failed.setdefault((call.stage, fingerprint), {})
        failed[call.key] = call.label.job
        jobs = sorted(set(failed.values()))
        if len(failed) >= self._limit and (len(jobs) > 1 or (while_opening and call.stage not in self._succeeded)):
            self._tripped = True
            named = ", ".join(jobs[:5]) + (", ..." if len(jobs) > 5 else "")
            origin = "" if fingerprint == reason else f" [{fingerprint}]"
            self._stop(f"{call.stage} failed for {len(failed)} calls with the same error and has not succeeded since: {reason}{origin}; jobs {named}")

    def record_success(self, call: StageCall) -> None:
        """A call has its record: the stage's counts start at zero again."""
        self._succeeded.add(call.stage)
        for stage, fingerprint in [failed for failed in self._failed if failed[0] == call.stage]:
            del self._failed[stage, fingerprint]
