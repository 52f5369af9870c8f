"""The catalogue: one row per film. Every row is read and checked before anything starts; a bad row is reported with all its errors."""

import json
import posixpath
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from reprlib import Repr
from typing import Any, BinaryIO, TypeVar

from pydantic import Field

from infinitedub.pipeline.catalogue.tables import TableRow, read_rows
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.records import Box, Job, Length, Material, Prompt, Speaker, Turns
from infinitedub.stages.settings import Decides, Settings

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

VoicesFault = Callable[[int], str]

COLUMNS = ("id", "source", "speech", "speech_2", "speakers", "boxes", "turns", "prompt", "negative_prompt", "length", "seed")
IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,128}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
CSV_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?")  # pandas writes 7.0, spreadsheets may write 1E+06
COMPARISON = ".comparison"  # publish delivers <id>.comparison.mp4 beside <id>.mp4
MAX_SEED = 2**63 - 1
MAX_ROWS = 100_000
"""The driver holds every job in memory; a larger catalogue should be split."""


class RowSettings(Settings):
    """Values for columns that a row leaves out."""

    prompt: Decides[str] = Field(min_length=1)
    """What the film shows, in English."""
    negative_prompt: Decides[str]
    """What the film should not show; used if the text guidance scale is not 1."""
    turns: Decides[Turns]
    """How two voices share the film."""
    seed: Decides[int] = Field(ge=0, le=MAX_SEED)
    """Seed of the random numbers, which also depend on the row's id."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row with errors."""

    line: int  # of the file, from 1; of the table for Parquet
    id: str | None  # None if it could not be read
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}{f' ({self.id})' if self.id else ''}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The rows of a catalogue: valid ones as jobs, and bad ones, both in the order of the file."""

    jobs: tuple[Job, ...]
    bad: tuple[BadRow, ...]


def read_catalogue(
    uri: str, opener: Callable[[str], BinaryIO], defaults: RowSettings, *, needs_speech: bool = True, voices_fault: VoicesFault = lambda voices: ""
) -> Catalogue:
    """Every row of a JSONL, CSV or Parquet file. Relative URIs in it are relative to the catalogue's folder.

    `voices_fault`: why the model cannot dub a row with so many voices; empty if it can.
    Raises ConfigError if the file cannot be opened, is not a table, or has more than MAX_ROWS rows.
    """
    good: dict[int, Job] = {}
    bad: dict[int, BadRow] = {}
    lines_of: dict[str, list[int]] = {}
    try:
        with opener(uri) as stream:
            for count, row in enumerate(read_rows(uri, stream), start=1):
                if count > MAX_ROWS:
                    raise ConfigError(f"catalogue {uri} has more than {MAX_ROWS} rows; split it into several")
                parsed = _parse_row(row, uri, defaults, needs_speech, voices_fault)
                if parsed.id:
                    lines_of.setdefault(parsed.id, []).append(row.line)
                if isinstance(parsed, Job):
                    good[row.line] = parsed
                else:
                    bad[row.line] = parsed
    except (OSError, BadInput) as error:
        raise ConfigError(f"catalogue {uri} cannot be read: {error}") from error
    for name, lines in lines_of.items():
        if len(lines) > 1:
            named = ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
            reason = f"id: {name!r} is on lines {named}; wanted a different one for every row, since it names the film"
            for line in lines:
                good.pop(line, None)
                bad[line] = BadRow(line, name, (*(bad[line].reasons if line in bad else ()), reason))
    return Catalogue(tuple(good.values()), tuple(bad[line] for line in sorted(bad)))


# -- one row ------------------------------------------------------------------------------------------------------------


def _parse_row(row: TableRow, uri: str, defaults: RowSettings, needs_speech: bool, voices_fault: VoicesFault) -> Job | BadRow:
    """The job of a row, or all its errors."""
    if row.problem:
        return BadRow(row.line, None, (row.problem,))
    cells = row.cells
    unknown = [column for column in cells if column not in COLUMNS]
    reasons = [_unknown(column) for column in unknown[:5]]
    if unknown[5:]:
        reasons.append(f"{len(unknown) - 5} more unknown columns")

    def read_cell(column: str, read: Callable[[Any], T]) -> T | None:
        if column not in cells:
            return None
        try:
            return read(_parse_csv_cell(column, cells[column]) if row.text else cells[column])
        except ValueError as error:
            reasons.append(f"{column}: {error}")
            return None

    def source_uri(value: Any) -> str:
        return _absolute_uri(value, uri)

    name = read_cell("id", _identifier)
    picture = read_cell("source", source_uri)
    speech = read_cell("speech", source_uri)
    speech_2 = read_cell("speech_2", source_uri)
    boxes = read_cell("boxes", _boxes)
    speakers = read_cell("speakers", lambda value: _speakers(value, source_uri))
    turns = read_cell("turns", lambda value: _one_of(Turns, value))
    text = read_cell("prompt", _text)
    negative = read_cell("negative_prompt", _text)
    length = read_cell("length", lambda value: _one_of(Length, value))
    seed = read_cell("seed", _seed)

    reasons += [f"{column} is missing" for column in ("id", "source") if column not in cells]
    if "speakers" in cells:
        reasons += [f"{column} and speakers are both given; wanted one of them" for column in ("speech", "speech_2", "boxes") if column in cells]
    elif not needs_speech and not {"speech", "speech_2", "boxes"} & set(cells):
        speakers = ()
    elif "speech" not in cells:
        reasons.append("speech is missing; wanted the URI of a sound or video file")
    elif speech is not None and (speech_2 is not None or "speech_2" not in cells):
        given = [speech, *([speech_2] if speech_2 is not None else [])]
        if boxes is not None and len(boxes) != len(given):
            reasons.append(f"boxes: {len(boxes)} for {len(given)} voices; wanted one for each, in the order of the voices")
        else:
            speakers = tuple(Speaker(voice, boxes[index] if boxes else None) for index, voice in enumerate(given))

    if speakers and (fault := voices_fault(len(speakers))):
        reasons.append(fault)
    if reasons or name is None or picture is None or speakers is None:
        return BadRow(row.line, name, tuple(reasons))
    return Job(
        id=name,
        material=Material(picture, speakers, turns or defaults.turns),
        length=length,
        prompt=Prompt(defaults.prompt if text is None else text, defaults.negative_prompt if negative is None else negative),
        seed=defaults.seed if seed is None else seed,
    )


def _unknown(column: str) -> str:
    near = get_close_matches(column[:40], COLUMNS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
    return f"unknown column {_short_repr(column)} ({hint})"


# -- one cell: its value, or a ValueError that says what was wanted ------------------------------------------------------


def _short_repr(value: Any) -> str:
    short = Repr()  # the value may have a megabyte, or a thousand levels of brackets
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _identifier(value: Any) -> str:
    if not (isinstance(value, str) and IDENTIFIER.fullmatch(value)) or value in (".", ".."):
        raise ValueError(f"{_short_repr(value)}; wanted text of 1 to 128 characters from A-Z a-z 0-9 . _ -, since it names the film")
    if value.endswith(COMPARISON):
        raise ValueError(f"{_short_repr(value)} ends in {COMPARISON}, as the comparison beside another row's film does; wanted another name")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_short_repr(value)}; wanted text")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t":
            raise ValueError(f"{_short_repr(value)} holds the control character {character!r}; wanted plain text")
    return value


def _absolute_uri(value: Any, catalogue: str) -> str:
    """An absolute URI or path."""
    text = _text(value)
    if not text or text != text.strip() or any(character in text for character in "\n\r\t"):
        raise ValueError(f"{_short_repr(value)}; wanted the URI of a file, without spaces around it or line breaks")
    scheme, catalogue_path = parse_uri(catalogue)
    if SCHEME.match(text):
        authority = text.partition("://")[2].partition("/")[0]
        if "@" in authority:
            raise ValueError(f"the URI on {_short_repr(authority.rpartition('@')[2])} has a user or password; wanted credentials in the environment")
        absolute = text
    elif scheme == "file" or text.startswith("/"):
        absolute = str(Path(catalogue_path).parent / text)
    else:
        host, _, path = catalogue_path.partition("://")[2].partition("?")[0].partition("/")
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
        if joined.split("/")[0] == "..":
            raise ValueError(f"{_short_repr(value)} leads out of {scheme}://{host}")
        absolute = f"{scheme}://{host}/{joined}"
    try:
        parse_uri(absolute)
    except BadInput as error:
        raise ValueError(str(error)) from error
    return absolute


def _one_of(enum: type[E], value: Any) -> E:
    names = [member.value for member in enum]
    if value not in names:
        near = get_close_matches(value, names, n=1) if isinstance(value, str) else []
        raise ValueError(f"{_short_repr(value)}; wanted {', '.join(names)}{f' (did you mean {near[0]!r}?)' if near else ''}")
    return enum(value)


def _integer(value: Any) -> int | None:
    """A whole number, or None if the value is not one; pandas writes 7.0 in a column in which other rows have no value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seed(value: Any) -> int:
    number = _integer(value)
    if number is None or not 0 <= number <= MAX_SEED:
        raise ValueError(f"{_short_repr(value)}; wanted a whole number from 0 to {MAX_SEED}")
    return number


def _box(value: Any) -> Box:
    wanted = "wanted [x_min, y_min, x_max, y_max] in whole pixels of the picture, x to the right and y down"
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{_short_repr(value)}; {wanted}")
    edges = [_integer(edge) for edge in value]
    if any(edge is None or edge < 0 for edge in edges):
        raise ValueError(f"{_short_repr(value)}; {wanted}")
    x_min, y_min, x_max, y_max = (edge or 0 for edge in edges)
    if x_min >= x_max or y_min >= y_max:
        raise ValueError(f"{_short_repr(value)} is empty: a maximum is not above its minimum; {wanted}")
    return Box(x_min, y_min, x_max, y_max)


def _boxes(value: Any) -> list[Box]:
    """One box per voice; a single box may be given without the outer brackets."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_short_repr(value)}; wanted a list of one box [x_min, y_min, x_max, y_max] per voice")
    return [_box(box) for box in (value if isinstance(value[0], list) else [value])]


def _speakers(value: Any, source_uri: Callable[[Any], str]) -> tuple[Speaker, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise ValueError(f"{_short_repr(value)}; wanted a list of one or two {{speech, box}}")
    found = []
    for one in value:
        if not isinstance(one, dict) or one.get("speech") is None or set(one) - {"speech", "box"}:
            raise ValueError(f"{_short_repr(one)}; wanted {{speech: URI, box: [x_min, y_min, x_max, y_max]}}, the box if it is known")
        found.append(Speaker(source_uri(one["speech"]), None if one.get("box") is None else _box(one["box"])))
    if len({speaker.box is None for speaker in found}) > 1:
        raise ValueError("one of two speakers has no box; wanted a box for both, or for neither (then they are the left and the right half)")
    return tuple(found)


def _parse_csv_cell(column: str, cell: str) -> Any:
    """The value of a CSV cell: a number, a JSON list, or the text itself."""
    if column == "seed" and CSV_NUMBER.fullmatch(cell):
        number = Decimal(cell)
        return int(number) if number == number.to_integral_value() else cell
    if column in ("boxes", "speakers"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{_short_repr(cell)} is not a JSON list: {error}") from error
    return cell
