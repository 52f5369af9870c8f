"""A ceiling on this process's memory, for as long as something is unpacked that may be made to swell."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ceiling(more_bytes: int) -> Iterator[None]:
    """Lets the whole process allocate so much more, and raises MemoryError for what goes beyond.

    Linux heeds it (RLIMIT_DATA, since 4.7); elsewhere it does nothing. Other threads are under it, too: for short work where few others are at work.
    """
    held = _held()
    if held is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = [limit for limit in (held + more_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held() -> int | None:
    """Bytes of data that this process has allocated, as the limit counts them; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = next((line for line in status.splitlines() if line.startswith("VmData:")), None)
    return None if found is None else int(found.split()[1]) << 10
