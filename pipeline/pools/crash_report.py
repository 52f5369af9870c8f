"""What a process wrote before it died, and the stacks of one that hangs: for the dead letter. Read on the process's own machine."""

import faulthandler
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

STDERR = 2
MAX_LINES = 40
MAX_BYTES = 64 * 1024
DUMP_SECONDS = 10.0  # for a stack per thread, on a busy machine
QUIET_SECONDS = 0.5  # without another line: the dump is complete
RAY_MARKERS = (":job_id:", ":actor_name:", ":task_name:")  # lines that Ray writes into the logs of its workers


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """How to report on a process."""

    pid: int
    stderr_log: str  # the file behind its standard error; empty if that is no file


def register_stack_dump() -> WorkerProcess:
    """Called in the process itself: from now on SIGUSR1 writes the stacks of all threads to standard error, whatever they are doing."""
    faulthandler.register(signal.SIGUSR1, file=STDERR)
    return WorkerProcess(os.getpid(), _stderr_log(os.getpid()))


def crash_report(process: WorkerProcess, hung: bool) -> str:
    """The end of the process's standard error, at most 40 lines; of a process that hangs with a fresh dump of its stacks."""
    if not process.stderr_log:
        return ""
    if hung and _stderr_log(process.pid) == process.stderr_log:  # otherwise the pid belongs to another process, which the signal would end
        size = Path(process.stderr_log).stat().st_size
        os.kill(process.pid, signal.SIGUSR1)
        _wait_for_dump(Path(process.stderr_log), size)
    with Path(process.stderr_log).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if not line.startswith(RAY_MARKERS)][-MAX_LINES:])


def _wait_for_dump(log: Path, size: int) -> None:
    """Waits until the file has grown from this size and stopped growing; at most DUMP_SECONDS, since not every process can answer."""
    started = changed = monotonic()
    grown = False
    while monotonic() < started + DUMP_SECONDS and not (grown and monotonic() > changed + QUIET_SECONDS):
        sleep(0.05)
        if (now := log.stat().st_size) != size:
            size, changed, grown = now, monotonic(), True


def _stderr_log(pid: int) -> str:
    """The file behind a process's standard error; empty if it is a terminal or pipe, or the process is gone."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{STDERR}")
    except OSError:
        return ""
    return target if Path(target).is_file() else ""
