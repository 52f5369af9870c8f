"""`dub verify DIR [key=value ...]`: golden tensors against the classes the pipeline uses.

The configuration matters in two places: generate/parallel=ulysses_N also shares each dit_* fixture between N processes, and
generate/precision=bf16 also computes them in bfloat16.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from infinitedub.launch.compose import checked, compose
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel
from infinitedub.stages.errors import ConfigError

if TYPE_CHECKING:
    from infinitedub.pipeline.verify.comparison import Check, Skipped
    from infinitedub.pipeline.verify.suite import Profile

PASSED, MISSED = 0, 1


def main(argv: list[str]) -> int:
    """Prints a table; 0 where every quantity is within its tolerance, 1 where one is not or nothing was checked."""
    folders = [word for word in argv if "=" not in word]
    usage = "usage: dub verify DIR [generate/parallel=ulysses_2] [generate/precision=bf16]"
    if folders in (["-h"], ["--help"]):
        print(usage)
        return PASSED
    if len(folders) != 1 or folders[0].startswith("-"):
        print(usage, file=sys.stderr)
        return 4
    profile = read_profile([word for word in argv if "=" in word])

    from infinitedub.pipeline.verify.comparison import Check, Skipped
    from infinitedub.pipeline.verify.suite import verify

    outcome = list(verify(Path(folders[0]), profile))
    checks = [line for line in outcome if isinstance(line, Check)]
    missed = sum(not line.passed for line in checks)
    show(checks, [line for line in outcome if isinstance(line, Skipped)])
    print(f"{len(checks)} quantities checked, {missed} missed" if checks else f"nothing to check in {folders[0]}")
    return PASSED if checks and not missed else MISSED


def read_profile(overrides: list[str]) -> "Profile":
    """The number format and number of ranks of the checks, from the configuration. Raises ConfigError."""
    generate = checked(compose(["catalogue=none", *overrides])).generate
    coefficients = {}
    for size in (480, 720):
        model = checked(compose(["catalogue=none", f"generate/model=infinitetalk_{size}"])).generate.model
        if isinstance(model, InfiniteTalkModel):
            coefficients[f"infinitetalk-{size}"] = model.teacache_coefficients
    if generate.device != "cpu":
        raise ConfigError(f"generate.device={generate.device}: golden tensors are compared on the CPU, where they were made")

    import torch

    from infinitedub.pipeline.verify.suite import Profile

    dtype = torch.bfloat16 if generate.precision.dtype == "bf16" else torch.float32
    return Profile(generate.parallel, dtype, coefficients)


def show(checks: "list[Check]", skipped: "list[Skipped]") -> None:
    """The table on standard output, at its full width where that is no terminal."""
    table = Table("fixture", "quantity", title="golden tensors")
    for name in ("max error", "mean error", "tolerance", "verdict"):
        table.add_column(name, justify="right")
    for line in checks:
        tolerance = f"{line.max_tolerance:.0e}" + ("" if line.mean_tolerance == float("inf") else f", mean {line.mean_tolerance:.0e}")
        verdict = "ok" if line.passed else f"[bold red]MISS[/] {line.note}"
        table.add_row(line.fixture, line.quantity, f"{line.max_error:.1e}", f"{line.mean_error:.1e}", tolerance, verdict)
    for left in skipped:
        table.add_row(left.fixture, left.reason, "", "", "", "[dim]skipped[/]")
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
