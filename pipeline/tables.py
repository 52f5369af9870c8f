"""Numbered rows from a JSONL, CSV or Parquet stream, read as they are needed; what cannot be read says why."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NoReturn

from stages.errors import ConfigError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
UNDECODED = re.compile("[\udc80-\udcff]")  # what Python makes of a byte that is not UTF-8
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
"""A longer line is not a row of a catalogue but another kind of file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it lies in the file: values by column, absent and null ones left out."""

    line: int  # of the file, from 1; of the table for Parquet
    cells: dict[str, Any]
    text: bool = False  # CSV: every cell is text, also where a number or a list is wanted
    problem: str = ""  # why it could not be read; then there are no cells


def read_rows(uri: str, stream: BinaryIO) -> Iterator[Row]:
    """Every row but blank ones, in order. The kind of file is told by the name's suffix, else by the first bytes.

    CSV cells are text, and empty ones absent; the rest keeps its JSON or Parquet type. Raises ConfigError where the file as a whole is no table.
    """
    head = stream.read(8192)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"catalogue {uri} is UTF-16; wanted UTF-8: save it as such")
    kind = _kind(uri, head)
    if kind == "parquet":
        return _parquet(uri, stream, head)
    lines = _lines(uri, chain([head], iter(lambda: stream.read(BLOCK_BYTES), b"")))
    return _jsonl(lines) if kind == "jsonl" else _csv(uri, lines)


def _kind(uri: str, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    kind = SUFFIXES.get(PurePosixPath(uri.partition("?")[0]).suffix.lower())
    if kind:
        return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return "jsonl"
    if b"," in text.partition(b"\n")[0] and b"\0" not in text:
        return "csv"
    raise ConfigError(f"catalogue {uri} is neither JSONL, CSV nor Parquet, by its name or its first bytes; name it .jsonl, .csv or .parquet")


def _lines(uri: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a byte stream, their ends kept, a byte order mark dropped."""
    rest, number = b"", 0
    for block in chain(blocks, [b"\n"]):  # the last line may lack its end; where it does not, a blank one follows and is no row
        *whole, rest = (rest + block).split(b"\n")
        if max(map(len, (*whole, rest))) > MAX_LINE_BYTES:
            raise ConfigError(f"catalogue {uri}: a line after line {number} is longer than {MAX_LINE_BYTES} bytes; this is not a catalogue")
        for line in whole:
            number += 1
            yield (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line) + b"\n"


# -- JSONL --------------------------------------------------------------------------------------------------------------


def _jsonl(lines: Iterator[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
        except UnicodeDecodeError as error:
            yield Row(number, {}, problem=f"byte {error.start + 1} is not UTF-8")
        except json.JSONDecodeError as error:
            yield Row(number, {}, problem=f"not JSON: {error.msg} at character {error.pos + 1}; wanted one object on one line")
        except (ValueError, RecursionError) as error:  # our own hooks; a number of thousands of digits; thousands of brackets
            yield Row(number, {}, problem=f"not a row: {error}")
        else:
            if isinstance(cells, dict):
                yield Row(number, {column: value for column, value in cells.items() if value is not None})
            else:
                yield Row(number, {}, problem=f"a JSON {type(cells).__name__}; wanted one object on one line")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twins = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twins:
        raise ValueError(f"{twins[0]!r} is given twice")
    return dict(pairs)


# -- CSV ----------------------------------------------------------------------------------------------------------------


def _csv(uri: str, lines: Iterator[bytes]) -> Iterator[Row]:
    # Bytes that are not UTF-8 become lone surrogates, which spoil their own row and no other.
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), skipinitialspace=True, strict=True)
    header: list[str] = []
    while True:
        first = reader.line_num + 1
        try:
            record = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            if not header:
                raise ConfigError(f"catalogue {uri}, line {first}: no CSV header: {error}") from error
            yield Row(first, {}, problem=f"not CSV: {error}; quotes around a cell are doubled inside it and closed at its end")
            continue
        if not any(record):
            continue
        if not header:
            header = _header(uri, first, record)
        elif len(record) != len(header):
            yield Row(first, {}, problem=f"{len(record)} cells; wanted {len(header)}, as in the header (a cell with a comma needs quotes)")
        elif any(UNDECODED.search(cell) for cell in record):
            yield Row(first, {}, problem="not UTF-8")
        else:
            yield Row(first, {column: cell for column, cell in zip(header, record, strict=True) if cell}, text=True)


def _header(uri: str, line: int, record: list[str]) -> list[str]:
    twins = [name for name, count in Counter(record).items() if count > 1 and name]
    if twins:
        raise ConfigError(f"catalogue {uri}, line {line}: the column {twins[0]!r} is there twice")
    if len(record) == 1:
        for character, name in ((";", "semicolons"), ("\t", "tabs")):
            if character in record[0]:
                raise ConfigError(f"catalogue {uri}, line {line}: cells are separated by {name}; wanted commas")
    return record


# -- Parquet ------------------------------------------------------------------------------------------------------------


def _parquet(uri: str, stream: BinaryIO, head: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if stream.seekable():
        stream.seek(0)
    else:
        stream = BytesIO(head + stream.read())
    try:
        table = pq.ParquetFile(stream)
        twins = [name for name, count in Counter(table.schema_arrow.names).items() if count > 1]
        if twins:
            raise ConfigError(f"catalogue {uri}: the column {twins[0]!r} is there twice")
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for index in range(batch.num_rows):
                number += 1
                yield _parquet_row(number, batch.slice(index, 1))
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:  # ValueError: a column name that is not UTF-8
        raise ConfigError(f"catalogue {uri} cannot be read as Parquet: {error}") from error


def _parquet_row(number: int, one: Any) -> Row:
    try:
        (cells,) = one.to_pylist()
    except (ValueError, OverflowError, NotImplementedError) as error:  # text that is not UTF-8, dates beyond the calendar
        return Row(number, {}, problem=f"a cell cannot be read: {error}")
    return Row(number, {column: value for column, value in cells.items() if not _missing(value)})


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes a missing number as NaN
