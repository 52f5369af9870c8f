"""The events of a run in storage: Parquet pages written one after another, merged so that they stay few, and read as one table.

000007.parquet           the page of that number, as it was written
000000-000064.parquet    pages 0 to 64 (excluded), merged into one file

A merged page is complete before the pages in it are deleted. So if the driver dies at any moment, every event is in some page, and a reader
leaves out pages that a wider page contains. The last page is never merged: if a listing, made during a merge, shows neither the old pages nor
the merged one, the reader notices the gap before the last page.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import Transient

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

PAGES_PER_MERGE = 64
MERGED_BYTES = 16 << 20  # upper bound of a merged page, which is held in memory while it is written
GROUP_ROWS = 1 << 17
READS_AT_ONCE = 16
LISTING_ATTEMPTS = 20
NAME = re.compile(r"(\d{6,})(?:-(\d{6,}))?\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class EventPage:
    """Pages `start` to `stop` (excluded) in one file."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.start:06d}.parquet" if self.stop == self.start + 1 else f"{self.start:06d}-{self.stop:06d}.parquet"


class UnreadablePage(Exception):
    """A page of events is damaged."""

    def __init__(self, page: EventPage, reason: str) -> None:
        super().__init__(reason)
        self.page = page


def parse_page_name(name: str) -> EventPage | None:
    """The page of a file name; None if the name is not that of a page."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    start = int(match[1])
    return EventPage(start, start + 1 if match[2] is None else int(match[2]))


def select_pages(names: Iterable[str]) -> tuple[tuple[EventPage, ...], bool]:
    """The pages that together hold every event once, in order, and whether there is no gap between them."""
    pages = (page for name in names if (page := parse_page_name(name)) is not None)
    chosen: list[EventPage] = []
    complete, reached = True, 0
    for page in sorted(pages, key=lambda page: (page.start, -page.stop)):
        if page.stop <= reached:
            continue
        complete = complete and page.start == reached
        chosen.append(page)
        reached = page.stop
    return tuple(chosen), complete


def pages_to_merge(pages: Sequence[tuple[EventPage, int]], *, ended: bool) -> tuple[EventPage, ...]:
    """Which neighbouring pages are to be merged next; empty if none. `pages`: all pages of the run with their sizes in bytes.

    While the run goes on, 64 neighbours of equal length are merged, so an event is rewritten once each time the number of pages grows 64-fold.
    After its end, all that fit into one page are merged. Never the last page.
    """
    group: list[EventPage] = []
    size = 0
    for page, page_bytes in reversed(pages[:-1]):
        size += page_bytes
        unequal = bool(group) and page.stop - page.start != group[-1].stop - group[-1].start
        if size > MERGED_BYTES or (not ended and (unequal or len(group) == PAGES_PER_MERGE)):
            break
        group.append(page)
    return tuple(reversed(group)) if len(group) >= (2 if ended else PAGES_PER_MERGE) else ()


def merge_pages(storage: Storage, folder: str, pages: Sequence[EventPage]) -> tuple[EventPage, int]:
    """Writes one page with the events of these neighbours; returns it with its size in bytes. They may be deleted afterwards.

    Raises Transient if a page does not exist, and UnreadablePage if it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    merged = EventPage(pages[0].start, pages[-1].stop)
    out = BytesIO()
    tables: list[pa.Table] = []
    with pq.ParquetWriter(out, _schema(), compression="zstd") as writer:
        for page in pages:
            data = storage.read(f"{folder}/{page.name}")
            if data is None:
                raise Transient(f"{folder}/{page.name} does not exist, so it cannot be merged with its neighbours")
            tables.append(_parse(data, page, storage.uri(folder)))
            if sum(len(table) for table in tables) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(tables))
                tables.clear()
        if tables:
            writer.write_table(pa.concat_tables(tables))
    storage.create(f"{folder}/{merged.name}", out.getvalue())  # an existing page of that name holds the same events
    return merged, out.tell()


def write_page(storage: Storage, folder: str, number: int, columns: dict[str, list[object]]) -> tuple[EventPage, int]:
    """Writes a page of events, given by column; returns it with its size in bytes. An existing page of that number is replaced: its writer did
    not get the reply and writes it again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = BytesIO()
    pq.write_table(pa.table(columns, schema=_schema()), out, compression="zstd")
    page = EventPage(number, number + 1)
    storage.put(f"{folder}/{page.name}", out.getvalue())
    return page, out.tell()


def read_pages(storage: Storage, folder: str, columns: list[str] | None = None) -> "pa.Table":
    """Every event so far, in order, as columns of `Event`. Damaged pages are left out with a warning.

    Pages may be written and merged at the same time. Raises Transient if they change in every one of several listings.
    """
    import pyarrow as pa

    empty = _schema().empty_table()
    empty = empty if columns is None else empty.select(columns)

    def read(page: EventPage) -> "pa.Table | None":
        data = storage.read(f"{folder}/{page.name}")
        if data is None:
            return None
        try:
            return _parse(data, page, storage.uri(folder), columns)
        except UnreadablePage as error:
            log.warning("%s; its events are missing", error)
            return empty

    before: list[str] = []
    for _ in range(LISTING_ATTEMPTS):
        names = storage.list(folder)
        pages, complete = select_pages(names)
        if complete or names == before:  # a gap that stays does not come from a merge: the page was deleted by hand
            with ThreadPoolExecutor(READS_AT_ONCE) as threads:
                tables = list(threads.map(read, pages))
            found = [table for table in tables if table is not None]
            if len(found) == len(pages):
                if not complete:
                    log.warning("%s: pages of the run log are missing; the others are read", storage.uri(folder))
                return pa.concat_tables(found or [empty])
        before = names
    raise Transient(f"{storage.uri(folder)}: the pages changed in each of {LISTING_ATTEMPTS} listings")


def _parse(data: bytes, page: EventPage, folder: str, columns: list[str] | None = None) -> "pa.Table":
    """The events of a page. Raises UnreadablePage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(BytesIO(data), columns=columns, schema=_schema())
    except (pa.ArrowException, ValueError, OSError) as error:  # Arrow raises OSError for a damaged column
        raise UnreadablePage(page, f"{folder}/{page.name} cannot be read as a page of events: {error}") from error


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        {
            "time": pa.float64(),
            "job": pa.string(),
            "segment": pa.int32(),
            "window": pa.int32(),
            "stage": pa.string(),
            "what": pa.string(),
            "seconds": pa.float64(),
            "detail": pa.string(),
        }
    )
