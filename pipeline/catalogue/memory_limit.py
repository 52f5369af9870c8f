"""A temporary limit on this process's memory, for decoding files that may expand to any size."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limit_memory(more_bytes: int) -> Iterator[None]:
    """Lets the whole process allocate at most so many bytes more; further allocations raise MemoryError.

    Works on Linux (RLIMIT_DATA, since 4.7) and does nothing elsewhere. It applies to all threads, so it is for short work beside few others.
    """
    allocated = _allocated_bytes()
    if allocated is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (allocated + more_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _allocated_bytes() -> int | None:
    """Bytes of data that this process has allocated, as the limit counts them; None if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = next((line for line in status.splitlines() if line.startswith("VmData:")), None)
    return None if found is None else int(found.split()[1]) << 10
