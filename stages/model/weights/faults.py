"""How faults of many names are written in one message."""

from collections.abc import Iterable

LISTED = 20  # names per fault in an error message


def describe_fault(fault: str, names: Iterable[str]) -> str:
    """One line with the number of `names` and the first of them; empty if there are none."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {fault}: {', '.join(names[:LISTED])}{more}" if names else ""
