"""The standard error of a dead process, and the stacks of one that hangs."""

import subprocess
import sys
from pathlib import Path

from infinitedub.pipeline.pools.crash_report import WorkerProcess, crash_report

HANGS = """
import sys, time
from infinitedub.pipeline.pools.crash_report import register_stack_dump

def stuck_here():
    print("ready", flush=True)
    time.sleep(3600)

print("before it hung", file=sys.stderr, flush=True)
register_stack_dump()
stuck_here()
"""


def test_a_hanging_process_dumps_its_stacks_and_a_dead_one_is_read(tmp_path: Path) -> None:
    log = tmp_path / "errors"
    with log.open("w") as file, subprocess.Popen([sys.executable, "-c", HANGS], stderr=file, stdout=subprocess.PIPE) as hanging:
        assert hanging.stdout is not None
        hanging.stdout.readline()
        process = WorkerProcess(hanging.pid, str(log))
        assert crash_report(process, hung=False) == "before it hung"
        report = crash_report(process, hung=True)
        assert hanging.poll() is None  # the signal does it no harm
        hanging.kill()
    assert report.startswith("before it hung")
    assert "in stuck_here" in report
    assert crash_report(process, hung=True) == report  # the pid may belong to another process now: no signal is sent


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "errors"
    log.write_text(":job_id:01000000\n" + "".join(f"line {number}\n" for number in range(100_000)))
    report = crash_report(WorkerProcess(0, str(log)), hung=False).splitlines()
    assert report[-1] == "line 99999"
    assert len(report) == 40
    assert crash_report(WorkerProcess(0, ""), hung=False) == ""
