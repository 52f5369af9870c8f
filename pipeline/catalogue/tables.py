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

from infinitedub.pipeline.catalogue.memory_limit import ceiling
from infinitedub.stages.errors import ConfigError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
UNDECODED = re.compile("[\udc80-\udcff]")  # what Python makes of a byte that is not UTF-8
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive, as Excel's files are",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
"""A longer line is not a row of a catalogue but another kind of file."""
BATCH_ROWS = 64  # of Parquet, unpacked at a time
MAX_COLUMNS = 1000  # of Parquet
MAX_UNPACKED_BYTES = 512 << 20  # of Parquet


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
    for magic, name in PACKED.items():
        if head.startswith(magic):
            raise ConfigError(
                f"catalogue {uri} is {name}, whatever its name; wanted the JSONL, CSV or Parquet file itself: unpack it, or save it as such"
            )
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
            reason = f"not CSV: {error}; quotes around a cell are doubled inside it and closed at its end"
            yield Row(first, {}, problem=reason + _swallowed(first, reader.line_num))
            continue
        if not any(record):
            continue
        if not header:
            header = _header(uri, first, record)
        elif len(record) != len(header):
            reason = f"{len(record)} cells; wanted {len(header)}, as in the header (a cell with a comma needs quotes)"
            yield Row(first, {}, problem=reason + _swallowed(first, reader.line_num))
        elif any(UNDECODED.search(cell) for cell in record):
            yield Row(first, {}, problem="not UTF-8")
        else:
            yield Row(first, {column: cell for column, cell in zip(header, record, strict=True) if cell}, text=True)


def _swallowed(first: int, last: int) -> str:
    """What a quote that is not closed costs."""
    return f"; the lines up to {last} were taken for a part of it" if last > first else ""


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
    pa.allocate_buffer(1)  # Arrow's allocator sets a gigabyte aside when it is first asked; this is not to count as the file's
    try:
        table = pq.ParquetFile(stream)
        if table.metadata.num_columns > MAX_COLUMNS:
            raise ConfigError(f"catalogue {uri} has {table.metadata.num_columns} columns; this is not a catalogue")
        twins = [name for name, count in Counter(table.schema_arrow.names).items() if count > 1]
        if twins:
            raise ConfigError(f"catalogue {uri}: the column {twins[0]!r} is there twice")
        number = unpacked = 0
        batches = table.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
        while True:
            # A few bytes can stand for gigabytes, and the file's own word for how many is no use.
            with ceiling(MAX_UNPACKED_BYTES):
                batch = next(batches, None)
                rows = [_parquet_row(number + index + 1, batch.slice(index, 1)) for index in range(batch.num_rows)] if batch else []
            if batch is None:
                return
            yield from rows
            number, unpacked = number + len(rows), unpacked + batch.nbytes
            if unpacked > MAX_UNPACKED_BYTES:
                raise ConfigError(_swollen(uri))
    except MemoryError as error:  # Arrow's is of this kind, too
        raise ConfigError(_swollen(uri)) from error
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:  # ValueError: a column name that is not UTF-8
        raise ConfigError(f"catalogue {uri} cannot be read as Parquet: {error}") from error


def _swollen(uri: str) -> str:
    return f"catalogue {uri} swells to more than {MAX_UNPACKED_BYTES} bytes when it is unpacked; split it, or mend what wrote it"


def _parquet_row(number: int, one: Any) -> Row:
    try:
        (cells,) = one.to_pylist()
    except (ValueError, OverflowError, NotImplementedError) as error:  # text that is not UTF-8, dates beyond the calendar
        return Row(number, {}, problem=f"a cell cannot be read: {error}")
    return Row(number, {column: value for column, value in cells.items() if not _missing(value)})


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes a missing number as NaN
