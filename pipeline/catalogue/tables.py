"""Reads numbered rows from a JSONL, CSV or Parquet stream, one at a time; a row that cannot be read holds the reason."""

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

from infinitedub.pipeline.catalogue.memory_limit import limit_memory
from infinitedub.stages.errors import ConfigError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
UNDECODED = re.compile("[\udc80-\udcff]")  # surrogateescape's code for a byte that is not UTF-8
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive, such as an Excel file",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
"""A file with a longer line is not a catalogue."""
BATCH_ROWS = 64  # of Parquet, decoded at a time
MAX_COLUMNS = 1000  # of Parquet
MAX_DECODED_BYTES = 512 << 20  # of Parquet


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the file: values by column, without missing and null ones."""

    line: int  # of the file, from 1; of the table for Parquet
    cells: dict[str, Any]
    text: bool = False  # CSV: every value is text, also of a number or a list
    problem: str = ""  # why the row could not be read; then it has no cells


def read_rows(uri: str, stream: BinaryIO) -> Iterator[TableRow]:
    """Every row except blank ones, in order. The suffix of the name decides the file type, otherwise the first bytes.

    CSV values are text, and empty ones count as missing; the others keep their JSON or Parquet type. Raises ConfigError if the file is not a table.
    """
    head = stream.read(8192)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"catalogue {uri} is UTF-16; save it as UTF-8")
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise ConfigError(f"catalogue {uri} is {name}; wanted an uncompressed JSONL, CSV or Parquet file: unpack it, or save it as one of these")
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
    raise ConfigError(f"catalogue {uri} is not JSONL, CSV or Parquet by its name or its first bytes; name it .jsonl, .csv or .parquet")


def _lines(uri: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a byte stream, with their line ends and without a byte order mark."""
    rest, number = b"", 0
    for block in chain(blocks, [b"\n"]):  # the last line may have no line end; if it has one, this adds a blank line, which is not a row
        *lines, rest = (rest + block).split(b"\n")
        if max(map(len, (*lines, rest))) > MAX_LINE_BYTES:
            raise ConfigError(f"catalogue {uri}: a line after line {number} is longer than {MAX_LINE_BYTES} bytes; wanted one row per line")
        for line in lines:
            number += 1
            yield (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line) + b"\n"


# -- JSONL --------------------------------------------------------------------------------------------------------------


def _jsonl(lines: Iterator[bytes]) -> Iterator[TableRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_names)
        except UnicodeDecodeError as error:
            yield TableRow(number, {}, problem=f"byte {error.start + 1} is not UTF-8")
        except json.JSONDecodeError as error:
            yield TableRow(number, {}, problem=f"not JSON: {error.msg} at character {error.pos + 1}; wanted one object on one line")
        except (ValueError, RecursionError) as error:  # from the hooks; a number of thousands of digits; thousands of brackets
            yield TableRow(number, {}, problem=f"not a row: {error}")
        else:
            if isinstance(cells, dict):
                yield TableRow(number, {column: value for column, value in cells.items() if value is not None})
            else:
                yield TableRow(number, {}, problem=f"a JSON {type(cells).__name__}; wanted one object on one line")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    duplicates = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if duplicates:
        raise ValueError(f"{duplicates[0]!r} is given twice")
    return dict(pairs)


# -- CSV ----------------------------------------------------------------------------------------------------------------


def _csv(uri: str, lines: Iterator[bytes]) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; Python's own limit is 131,072 characters a cell
    # Bytes that are not UTF-8 become lone surrogates, so that only their own row is bad.
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
                raise ConfigError(f"catalogue {uri}, line {first}: the CSV header cannot be read: {error}") from error
            reason = f"not CSV: {error}; a quoted cell must double its quotes and end with one"
            yield TableRow(first, {}, problem=reason + _unclosed_quote(first, reader.line_num))
            continue
        if not any(record):
            continue
        if not header:
            header = _header(uri, first, record)
        elif len(record) != len(header):
            reason = f"{len(record)} cells; wanted {len(header)}, as in the header (a cell with a comma needs quotes)"
            yield TableRow(first, {}, problem=reason + _unclosed_quote(first, reader.line_num))
        elif any(UNDECODED.search(cell) for cell in record):
            yield TableRow(first, {}, problem="not UTF-8")
        else:
            yield TableRow(first, {column: cell for column, cell in zip(header, record, strict=True) if cell}, text=True)


def _unclosed_quote(first: int, last: int) -> str:
    """The lines that an unclosed quote has made part of the row."""
    return f"; the lines up to {last} were read as part of this row" if last > first else ""


def _header(uri: str, line: int, record: list[str]) -> list[str]:
    duplicates = [name for name, count in Counter(record).items() if count > 1 and name]
    if duplicates:
        raise ConfigError(f"catalogue {uri}, line {line}: the column {duplicates[0]!r} appears twice")
    if len(record) == 1:
        for character, name in ((";", "semicolons"), ("\t", "tabs")):
            if character in record[0]:
                raise ConfigError(f"catalogue {uri}, line {line}: cells are separated by {name}; wanted commas")
    return record


# -- Parquet ------------------------------------------------------------------------------------------------------------


def _parquet(uri: str, stream: BinaryIO, head: bytes) -> Iterator[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if stream.seekable():
        stream.seek(0)
    else:
        stream = BytesIO(head + stream.read())
    pa.allocate_buffer(1)  # Arrow's allocator reserves a gigabyte at its first use, which must not count for the file
    try:
        table = pq.ParquetFile(stream)
        if table.metadata.num_columns > MAX_COLUMNS:
            raise ConfigError(f"catalogue {uri} has {table.metadata.num_columns} columns; wanted at most {MAX_COLUMNS}")
        duplicates = [name for name, count in Counter(table.schema_arrow.names).items() if count > 1]
        if duplicates:
            raise ConfigError(f"catalogue {uri}: the column {duplicates[0]!r} appears twice")
        number = decoded = 0
        batches = table.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
        while True:
            # A few bytes can expand to gigabytes, and the sizes that the file states cannot be trusted.
            with limit_memory(MAX_DECODED_BYTES):
                batch = next(batches, None)
                rows = [_parquet_row(number + index + 1, batch.slice(index, 1)) for index in range(batch.num_rows)] if batch else []
            if batch is None:
                return
            yield from rows
            number, decoded = number + len(rows), decoded + batch.nbytes
            if decoded > MAX_DECODED_BYTES:
                raise ConfigError(_too_large(uri))
    except MemoryError as error:  # Arrow's own is a subclass
        raise ConfigError(_too_large(uri)) from error
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:  # ValueError: a column name that is not UTF-8
        raise ConfigError(f"catalogue {uri} cannot be read as Parquet: {error}") from error


def _too_large(uri: str) -> str:
    return f"catalogue {uri} has more than {MAX_DECODED_BYTES} bytes when it is decoded; split it, or correct the program that wrote it"


def _parquet_row(number: int, one: Any) -> TableRow:
    try:
        (cells,) = one.to_pylist()
    except (ValueError, OverflowError, NotImplementedError) as error:  # text that is not UTF-8, dates beyond the calendar
        return TableRow(number, {}, problem=f"a cell cannot be read: {error}")
    return TableRow(number, {column: value for column, value in cells.items() if not _is_missing(value)})


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes a missing number as NaN
