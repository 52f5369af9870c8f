"""Catalogues by strangers: a bad row is told with its reason and costs no other row; an id is never more than a name; nothing swells."""

import csv
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitedub.pipeline.catalogue.memory_limit import limit_memory
from infinitedub.pipeline.catalogue.rows import IDENTIFIER, Catalogue, RowSettings, read_catalogue
from infinitedub.pipeline.state.run_log import DeadLetter, RunLog, read_dead_letters
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Job, Turns

DEFAULTS = RowSettings(prompt="a person talks", negative_prompt="blurry", turns=Turns.TOGETHER, seed=42)


def read(content: bytes, kind: str = "jsonl") -> Catalogue:
    return read_catalogue(f"/films/rows.{kind}", lambda uri: io.BytesIO(content), DEFAULTS)


def row(name: Any, **cells: Any) -> dict[str, Any]:
    return {"id": name, "source": "face.png", "speech": "voice.wav"} | cells


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(cells) + "\n" for cells in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    spelt = {column: pa.array([cells[column].encode("utf-8", "surrogatepass") for cells in rows], pa.binary()) for column in rows[0]}
    texts = {column: pa.Array.from_buffers(pa.string(), len(cells), cells.buffers()) for column, cells in spelt.items()}  # also what is not UTF-8
    buffer = io.BytesIO()
    pq.write_table(pa.table(texts), buffer)
    return buffer.getvalue()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {"jsonl": as_jsonl, "csv": as_csv, "parquet": as_parquet}


# -- ids ------------------------------------------------------------------------------------------------------------------

PATHS = [
    *(
        ".",
        "..",
        "../x",
        "a/b",
        "a/../b",
        "/etc/passwd",
        "a/",
        "~",
        "~/x",
        "a\\b",
        "..\\x",
        "C:\\x",
        "c:x",
        "//server/share",
        "file:///x",
        "s3://b/x",
    ),
    *(
        "a\0b",
        "\0",
        "a%00b",
        "%2e%2e",
        "..%2fx",
        "a*",
        "a?",
        "a b",
        " ",
        "a\nb",
        "a\tb",
        "a\x1b[31mb",
        "a\x7f",
        "$(x)",
        "`x`",
        "a;b",
        "a|b",
        "'a'",
        "a&b",
    ),
    *(
        "x" * 129,
        "x" * 300,
        "ä",
        "\u202ea",
        "a\u200b",
        "\ufeffa",
        "ａ",
        "e\u0301",
        "١",
        "a\u2024b",
        "a\u2215b",
        "😀",
        "a\ud800",
        "a.comparison",
        "\uff0e\uff0e",
    ),
]
"""Names that are paths, patterns, words of a shell, or look like other names."""

NAMES = [
    *("a", "A-b_c.9", "-x", "_", ".hidden", "...", "a..b", "a.", "x" * 128, "0", "nul", "CON", "con.txt", "aux", "lost+found".replace("+", "_")),
    *("films", "runs", "cas", "a.mp4", "a.json", "a.part", "index.html", "None", "null", "true", "nan", "1e5", "__proto__", "comparison"),
]
"""Names that look odd and are none but names."""


@pytest.mark.parametrize("kind", FORMS)
def test_an_id_that_is_more_than_a_name_spoils_its_row_and_no_other(kind: str) -> None:
    """The two good rows are the first and the last. CSV takes white space around a cell away, so that such an id is good there, or missing."""
    ids = [name for name in PATHS if kind != "csv" or (name == name.strip() and "\0" not in name)]
    catalogue = read(FORMS[kind]([row("first"), *map(row, ids), row("last")]), kind)
    assert [job.id for job in catalogue.jobs] == ["first", "last"]
    assert len(catalogue.bad) == len(ids)
    for bad in catalogue.bad:
        assert bad.id is None
        assert bad.reasons
        assert str(bad).isprintable()


@pytest.mark.parametrize("kind", FORMS)
def test_names_that_only_look_odd(kind: str) -> None:
    catalogue = read(FORMS[kind]([row(name) for name in NAMES]), kind)
    assert catalogue.bad == ()
    assert [job.id for job in catalogue.jobs] == NAMES


def delivered(name: str) -> set[str]:
    """What publish may put into the films' folder for a row of this id."""
    return {f"films/{name}.mp4", f"films/{name}.json", f"films/{name}.comparison.mp4"}


@given(st.text(max_size=140) | st.from_regex(IDENTIFIER, fullmatch=True) | st.sampled_from(PATHS + NAMES))
def test_whatever_an_id_is_its_film_lies_in_the_folder_of_films(name: str) -> None:
    catalogue = read(as_jsonl([row(name)]))
    assert len(catalogue.jobs) + len(catalogue.bad) == 1
    for job in catalogue.jobs:
        for place in delivered(job.id):
            assert Path("/films-of", place).resolve().parent == Path("/films-of/films")
            assert len(Path(place).name.encode()) <= 255


@given(st.lists(st.from_regex(r"[Aa]?(\.comparison|\.mp4|\.json|\.)?", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_two_rows_never_write_the_same_file(names: list[str]) -> None:
    jobs = read(as_jsonl([row(name) for name in names])).jobs
    if len(jobs) == 2:
        assert not delivered(jobs[0].id) & delivered(jobs[1].id)


@pytest.mark.parametrize("name", [name for name in NAMES if name != ".hidden"])
def test_a_dead_letter_lies_with_its_run(storage: Storage, name: str) -> None:
    letter = DeadLetter(name, "ingest", None, "input", "why", 1, "", "dub rerun")
    with RunLog.begin(storage, {}) as log:
        log.dead_letter(letter)
        assert len(storage.list(f"runs/{log.run}/dead")) == 1
        assert [found.job for found in read_dead_letters(storage, log.run)] == [name]


@pytest.mark.parametrize("name", [name for name in [*PATHS, "x/" * 30] if len(name) <= 129 and "\ud800" not in name])
def test_even_an_id_that_no_catalogue_could_have_is_escaped(storage: Storage, name: str) -> None:
    """Dead letters do not lean on the catalogue's check."""
    with RunLog.begin(storage, {}) as log:
        log.dead_letter(DeadLetter(name, "ingest", None, "input", "why", 1, "", "dub rerun"))
        (found,) = storage.list(f"runs/{log.run}/dead")
    assert found.isprintable()
    assert found.isascii()


# -- rows -----------------------------------------------------------------------------------------------------------------

GOOD = [row(f"r{number}", seed=str(number)) for number in range(6)]


def jobs_of(kind: str) -> list[Job]:
    rows = [{**cells, "seed": int(cells["seed"])} for cells in GOOD] if kind == "jsonl" else GOOD
    return list(read(FORMS[kind](rows), kind).jobs)


line_of_bytes = st.binary(min_size=1, max_size=60).filter(lambda line: not set(line) & set(b'\n\r"'))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@given(place=st.integers(1, 5), line=line_of_bytes)
def test_a_line_of_any_bytes_costs_no_other(kind: str, place: int, line: bytes) -> None:
    """Not the first line, whose bytes may say what the file is; and no quotes, which in CSV may span lines."""
    lines = FORMS[kind](GOOD if kind == "csv" else [{**cells, "seed": 1} for cells in GOOD]).splitlines()
    head = lines[:1] if kind == "csv" else []
    rows = lines[len(head) :]
    catalogue = read(b"\n".join([*head, *rows[:place], line, *rows[place:]]), kind)
    assert [job.id for job in catalogue.jobs if job.id in {cells["id"] for cells in GOOD}] == [cells["id"] for cells in GOOD]
    number = place + 1 + len(head)
    assert {bad.line for bad in catalogue.bad} <= {number}
    assert bool(catalogue.bad) or not line.decode("utf-8", "replace").strip().strip(", ")


@given(place=st.integers(0, 5), line=line_of_bytes.map(lambda line: line + b'"') | st.just(b'x,"y,z') | st.just(b'"'))
def test_an_open_quote_in_a_csv_tells_what_it_has_swallowed(place: int, line: bytes) -> None:
    lines = as_csv(GOOD).splitlines()
    catalogue = read(b"\n".join([*lines[: place + 1], line, *lines[place + 1 :]]) + b"\n", "csv")
    missing = {cells["id"] for cells in GOOD} - {job.id for job in catalogue.jobs}
    told = " ".join(map(str, catalogue.bad))
    if missing:
        assert "were read as part of this row" in told
        assert [bad.line for bad in catalogue.bad] == [place + 2]
        assert missing == {f"r{number}" for number in range(place, 6)}


WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    10**400,
    "",
    " ",
    "\0",
    "\ud800",
    [],
    [[]],
    [None],
    {},
    {"a": 1},
    [[1, 2, 3, 4]],
    ["x"],
    "x" * 5000,
]


@pytest.mark.parametrize(
    "column", ["id", "source", "speech", "speech_2", "speakers", "boxes", "turns", "prompt", "negative_prompt", "length", "seed", "x"]
)
def test_a_value_of_any_kind_in_any_column(column: str) -> None:
    """Each wrong row stands between two good ones and says its column; a null is none."""
    rows = []
    for number, value in enumerate(WRONG):
        rows += [row(f"g{number}"), {**row(f"w{number}"), column: value}]
    catalogue = read(as_jsonl(rows))
    assert {f"g{number}" for number in range(len(WRONG))} <= {job.id for job in catalogue.jobs}
    assert len(catalogue.jobs) + len(catalogue.bad) == len(rows)
    for bad in catalogue.bad:
        assert column in str(bad) or "missing" in str(bad)
        assert len(str(bad)) < 1500
        assert str(bad).isprintable()


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("id", pa.array([1, 2])),
        ("id", pa.array([b"a", b"b"])),
        ("source", pa.array([["a"], ["b"]])),
        ("source", pa.array([{"x": 1}, {"x": 2}])),
        ("seed", pa.array(["1", "2"])),
        ("seed", pa.array([1.5, float("inf")])),
        ("seed", pa.array([2**62, 2**63 + 1], pa.uint64()).cast(pa.decimal128(38, 0))),
        ("boxes", pa.array([[[[1]]], [[[2]]]])),
        ("speakers", pa.array([[{"speech": None}], [{"speech": None}]], pa.list_(pa.struct([("speech", pa.string())])))),
        ("turns", pa.array([0, 1])),
        ("prompt", pa.array([1, 2], pa.timestamp("us"))),
        ("length", pa.array([1, 2], pa.duration("s"))),
        ("length", pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int32()))),
    ],
)
def test_a_parquet_column_of_any_type(column: str, cells: Any) -> None:
    columns: dict[str, Any] = {"id": ["a", "b"], "source": ["f", "f"]} | ({} if column == "speakers" else {"speech": ["v", "v"]})
    buffer = io.BytesIO()
    pq.write_table(pa.table({**columns, column: cells}), buffer)
    catalogue = read(buffer.getvalue(), "parquet")
    assert catalogue.jobs == ()
    assert [bad.line for bad in catalogue.bad] == [1, 2]
    assert all(column in str(bad) for bad in catalogue.bad)


# -- bombs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("magic", "said"),
    [(b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "a ZIP"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "Zstandard")],
)
@pytest.mark.parametrize("kind", [*FORMS, "jsonl.gz"])
def test_a_packed_catalogue_is_never_unpacked(magic: bytes, said: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"is {said}.*unpack it"):
        read(magic + b"\n" * 1000, kind)


def one_long_text(length: int) -> pa.Table:
    return pa.table({"id": ["a"], "source": ["a" * length]})


def many_of_one_text(length: int, rows: int) -> pa.Table:
    return pa.table({"id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * length])).cast(pa.string())})


BOMBS: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "a long text": (lambda: one_long_text(40 << 20), "MemoryError"),
    "many long texts": (lambda: many_of_one_text(1 << 20, 64), "MemoryError"),
    "a long list": (lambda: pa.table({"id": ["a"], "boxes": pa.array([np.zeros(10 << 20, np.int32)])}), "MemoryError"),
    "long texts over many batches": (lambda: many_of_one_text(100_000, 400), "NoneType"),  # each is small, their sum is not
}
READER = """
import sys
from infinitedub.pipeline.catalogue import tables
from infinitedub.pipeline.catalogue.rows import RowSettings, read_catalogue
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Turns
tables.MAX_DECODED_BYTES = 16 << 20
try:
    read_catalogue(sys.argv[1], lambda uri: open(uri, "rb"), RowSettings(prompt="talks", negative_prompt="still", turns=Turns.TOGETHER, seed=1))
except ConfigError as error:
    print(type(error.__cause__).__name__, error)
"""
"""In a process of its own: one that has been at work for long has memory to fill before it asks the system for more."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what it is asked for")
@pytest.mark.parametrize(("make", "cause"), BOMBS.values(), ids=BOMBS)
def test_a_parquet_file_that_swells_is_given_up(make: Callable[[], pa.Table], cause: str, tmp_path: Path) -> None:
    """Each takes less than 2 kB on the disk and 40 MB in memory, where 16 MiB are allowed here."""
    path = tmp_path / "rows.parquet"
    pq.write_table(make(), path, compression="zstd")
    assert path.stat().st_size < 2000
    told = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"{cause} catalogue {path} has more than 16777216 bytes when it is decoded")


def test_a_parquet_file_of_too_many_columns() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({f"c{number}": [1] for number in range(1001)}), buffer)
    with pytest.raises(ConfigError, match="1001 columns"):
        read(buffer.getvalue(), "parquet")


def test_a_large_and_honest_parquet_file_is_read() -> None:
    rows = [row(f"r{number}", prompt="a person talks " * 20) for number in range(1000)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    assert [job.id for job in read(buffer.getvalue(), "parquet").jobs] == [cells["id"] for cells in rows]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what it is asked for")
def test_a_ceiling_is_taken_away_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), limit_memory(64 << 20):
        bytearray(256 << 20)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(bytearray(256 << 20)) == 256 << 20
