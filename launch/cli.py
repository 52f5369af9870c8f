"""`dub`: the first argument is the verb, the others belong to it. Nothing heavy is imported before the verb is known."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

VERBS = {
    "run": "dub a catalogue:  dub run catalogue=FILE storage.root=URI [key=value ...] [-m to sweep] [--cfg job to look]",
    "rerun": "dub again what failed:  dub rerun [--run ID] [--ids a,b [--segments 0,2 [--windows 3:] --reason WHY]] [key=value ...]",
    "status": "state of a run, job by job:  dub status [--run ID] [storage.root=URI]",
    "failures": "why films are missing:  dub failures [--run ID] [--lines N] [--json] [storage.root=URI]",
    "replay": "one segment in this process, for a debugger:  dub replay JOB[/SEGMENT] [--run ID] [--windows K:] [--pdb] [key=value ...]",
    "gc": "remove files that no result needs:  dub gc [--grace 24h] [--dry-run] [--checkpoints] [storage.root=URI]",
    "verify": "compare the model with golden tensors:  dub verify DIR [key=value ...]",
}

HELP = """dub: a catalogue of videos or portraits and new speech in, films in which they speak it out.

usage: dub VERB [--flags of the verb] [key=value of the configuration ...]

{verbs}

exit codes: 0 all done, 2 finished with failed films, 3 stopped, 4 refused before anything started
configuration: `dub run --cfg job` prints every value; `dub run --help` the groups to choose from
"""


def main() -> int:
    """Runs one verb and returns its exit code."""
    from infinitedub.stages.errors import DubError

    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:<8} {text}" for name, text in VERBS.items())))
        return 0
    if verb == "--version":
        print(f"infinitedub {version('infinitedub')}")
        return 0
    if verb not in VERBS:
        print(f"dub: unknown verb {verb!r}; the verbs are {', '.join(VERBS)} (dub --help)", file=sys.stderr)
        return 4
    run: Callable[[list[str]], int] = import_module(f"infinitedub.launch.{verb}").main
    try:
        return run(rest)
    except DubError as error:
        print(f"dub {verb}: {error}", file=sys.stderr)
        return 4
    except SystemExit as leaving:  # argparse exits with 2 for an unknown flag; here 2 means failed films
        return 4 if leaving.code == 2 else int(leaving.code or 0)


if __name__ == "__main__":
    sys.exit(main())
