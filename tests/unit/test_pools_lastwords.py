"""What is left of a process that cannot be asked any more, or does not answer."""

import subprocess
import sys
from pathlib import Path

from pipeline.pools.lastwords import Witness, last_words

HANGS = """
import sys, time
from pipeline.pools.lastwords import bear_witness

def stuck_here():
    print("ready", flush=True)
    time.sleep(3600)

print("before it hung", file=sys.stderr, flush=True)
bear_witness()
stuck_here()
"""


def test_a_hanging_process_says_where_it_stands_and_a_dead_one_is_read(tmp_path: Path) -> None:
    log = tmp_path / "errors"
    with log.open("w") as file, subprocess.Popen([sys.executable, "-c", HANGS], stderr=file, stdout=subprocess.PIPE) as hanging:
        assert hanging.stdout is not None
        hanging.stdout.readline()
        witness = Witness(hanging.pid, str(log))
        assert last_words(witness, hung=False) == "before it hung"
        said = last_words(witness, hung=True)
        assert hanging.poll() is None  # asking does it no harm
        hanging.kill()
    assert said.startswith("before it hung")
    assert "in stuck_here" in said
    assert last_words(witness, hung=True) == said  # nobody is asked whose number it may be now


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "errors"
    log.write_text(":job_id:01000000\n" + "".join(f"line {number}\n" for number in range(100_000)))
    said = last_words(Witness(0, str(log)), hung=False).splitlines()
    assert said[-1] == "line 99999"
    assert len(said) == 40
    assert last_words(Witness(0, ""), hung=False) == ""
