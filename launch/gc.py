"""`dub gc`: takes away what no result needs: files of killed and second attempts, of results made anew, half-done writes, leftovers on this node.

Results, films and run logs stay. May run at any time, beside runs and beside itself; from a timer on one machine, say, once a day."""

import argparse
import re
from collections import Counter

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: list[str]) -> int:
    """Says what went, or what would go; 0."""
    parser = argparse.ArgumentParser(prog="dub gc", description=__doc__)
    parser.add_argument("--grace", type=_seconds, default="24h", metavar="TIME", help="leave what is younger: 90m, 24h, 7d (default: 24h)")
    parser.add_argument("--dry-run", action="store_true", help="take nothing away, only say what would go")
    parser.add_argument(
        "--checkpoints",
        action="store_true",
        help="also the checkpoints of finished segments: to redo a window then costs the ones before it",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, such as storage.root=URI")
    asked = parser.parse_intermixed_args(argv)

    from infinitedub.launch.compose import checked, compose
    from infinitedub.pipeline.state.garbage_collection import sweep
    from infinitedub.pipeline.state.run_log import latest_run
    from infinitedub.pipeline.storage.storage import Storage

    storage = Storage(checked(compose(["catalogue=none", *asked.overrides])).storage)
    things, files, sizes = Counter[str](), Counter[str](), Counter[str]()
    for swept in sweep(storage, asked.grace, checkpoints=asked.checkpoints, dry_run=asked.dry_run):
        print(f"{swept.kind:<10}  {amount(swept.bytes):>9}  {swept.place}")
        things[swept.kind] += 1
        files[swept.kind] += swept.files
        sizes[swept.kind] += swept.bytes
    word = "would go" if asked.dry_run else "gone"
    for kind in things:
        print(f"{kind}: {things[kind]} places, {files[kind]} files, {amount(sizes[kind])} {word}")
    nothing = "nothing to sweep" if latest_run(storage) else "nothing to sweep, and no run has been here; say where with storage.root=URI"
    print(f"{storage.root}: {amount(sizes.total())} {word}" if things else f"{storage.root}: {nothing}")
    return 0


def amount(size: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; wanted a number and s, m, h or d, such as 90m or 24h")
    return float(match[1]) * SECONDS[match[2]]
