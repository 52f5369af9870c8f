"""What a process wrote before it died, and where one stands that does not answer: for the dead letter. Read on the process's own machine."""

import faulthandler
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

STDERR = 2
LINES = 40
BYTES = 64 * 1024
WRITING_SECONDS = 10.0  # for a stack per thread, on a busy machine
STILL_SECONDS = 0.5  # without another line, and it has been written


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """Where to ask about a process."""

    pid: int
    log: str  # the file that its standard error goes to; empty where that is no file


def register_stack_dump() -> WorkerProcess:
    """Called in the process itself: from now on it answers SIGUSR1 with the stacks of its threads, whatever they are doing."""
    faulthandler.register(signal.SIGUSR1, file=STDERR)
    return WorkerProcess(os.getpid(), _errors_of(os.getpid()))


def crash_report(witness: WorkerProcess, hung: bool) -> str:
    """The end of what the process wrote to its standard error; of one that hangs, first asks where it stands."""
    if not witness.log:
        return ""
    if hung and _errors_of(witness.pid) == witness.log:  # else the number is somebody else's by now, whom the signal would end
        size = Path(witness.log).stat().st_size
        os.kill(witness.pid, signal.SIGUSR1)
        _wait_for_more(Path(witness.log), size)
    with Path(witness.log).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if not line.startswith((":job_id:", ":actor_name:", ":task_name:"))][-LINES:])  # Ray's own marks


def _wait_for_more(log: Path, size: int) -> None:
    """Waits until the file has grown from this size and is still; not for ever, since not everybody can answer."""
    begun = changed = monotonic()
    grown = False
    while monotonic() < begun + WRITING_SECONDS and not (grown and monotonic() > changed + STILL_SECONDS):
        sleep(0.05)
        if (now := log.stat().st_size) != size:
            size, changed, grown = now, monotonic(), True


def _errors_of(pid: int) -> str:
    """The file behind a process's standard error, if there is one."""
    try:
        place = os.readlink(f"/proc/{pid}/fd/{STDERR}")
    except OSError:
        return ""
    return place if Path(place).is_file() else ""
