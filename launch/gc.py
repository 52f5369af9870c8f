"""`dub gc`: the command line of `pipeline/state/garbage_collection.py`. Removes files that no result needs: of killed and superseded attempts, of
results made again, unfinished uploads, and leftovers on this node.

Results, films and run logs stay. It may run at any time, beside runs and beside itself, for example once a day from a timer on one machine."""

import argparse
import re
from collections import Counter

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: list[str]) -> int:
    """Prints what was removed, or would be; 0."""
    parser = argparse.ArgumentParser(prog="dub gc", description=__doc__)
    parser.add_argument("--grace", type=_seconds, default="24h", metavar="TIME", help="leave what is younger: 90m, 24h, 7d (default: 24h)")
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, only list what would be removed")
    parser.add_argument(
        "--checkpoints",
        action="store_true",
        help="also the checkpoints of finished segments: making a window again then costs the ones before it",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, such as storage.root=URI")
    args = parser.parse_intermixed_args(argv)

    from infinitedub.launch.compose import checked, compose
    from infinitedub.pipeline.state.garbage_collection import collect_garbage
    from infinitedub.pipeline.state.run_log import latest_run
    from infinitedub.pipeline.storage.storage import Storage

    storage = Storage(checked(compose(["catalogue=none", *args.overrides])).storage)
    things, files, sizes = Counter[str](), Counter[str](), Counter[str]()
    for garbage in collect_garbage(storage, args.grace, checkpoints=args.checkpoints, dry_run=args.dry_run):
        print(f"{garbage.kind:<10}  {amount(garbage.bytes):>9}  {garbage.location}")
        things[garbage.kind] += 1
        files[garbage.kind] += garbage.files
        sizes[garbage.kind] += garbage.bytes
    word = "would be removed" if args.dry_run else "removed"
    for kind in things:
        print(f"{kind}: {things[kind]} places, {files[kind]} files, {amount(sizes[kind])} {word}")
    nothing = "nothing to remove" if latest_run(storage) else "nothing to remove, and no run here; name the root with storage.root=URI"
    print(f"{storage.root}: {amount(sizes.total())} {word}" if things else f"{storage.root}: {nothing}")
    return 0


def amount(size: float) -> str:
    """Bytes with a unit, such as 1.5 GB."""
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
