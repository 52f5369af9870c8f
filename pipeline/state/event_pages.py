"""The events of a run in storage: Parquet pages written one after another, bound together so that they stay few, read as one table.

000007.parquet           the page of that number, as it was written
000000-000064.parquet    pages 0 to 64, the latter excluded, bound together

A bound page is there in full before the pages in it are deleted, so whoever dies at whatever moment: each event lies in some page, and a reader
leaves out what a wider page holds as well. The last page written is never bound: by the gap before it a reader notices that a listing made
while pages were being bound shows neither them nor what they became.
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

BOUND_TOGETHER = 64
BOUND_BYTES = 16 << 20  # larger pages are left alone: one is held in memory while it is bound
GROUP_ROWS = 1 << 17
READS_AT_ONCE = 16
LISTINGS = 20
NAME = re.compile(r"(\d{6,})(?:-(\d{6,}))?\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Page:
    """Pages `start` to `stop` in one file."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.start:06d}.parquet" if self.stop == self.start + 1 else f"{self.start:06d}-{self.stop:06d}.parquet"


def page_of(name: str) -> Page | None:
    """The page of a file name; None for what is no page."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    start = int(match[1])
    return Page(start, start + 1 if match[2] is None else int(match[2]))


def to_read(names: Iterable[str]) -> tuple[tuple[Page, ...], bool]:
    """The pages that hold everything once, in order, and whether they follow each other without a gap."""
    pages = (page for name in names if (page := page_of(name)) is not None)
    chosen: list[Page] = []
    whole, reached = True, 0
    for page in sorted(pages, key=lambda page: (page.start, -page.stop)):
        if page.stop <= reached:
            continue
        whole = whole and page.start == reached
        chosen.append(page)
        reached = page.stop
    return tuple(chosen), whole


def to_bind(pages: Sequence[tuple[Page, int]], *, ended: bool) -> tuple[Page, ...]:
    """Which neighbours among all pages of a run, given with their bytes, are to become one; none for nothing to do.

    While the run goes on: as soon as there are 64 of equal length, which writes each event once for every 64-fold of its pages. When it has ended:
    what there is. Never the last page.
    """
    group: list[Page] = []
    size = 0
    for page, page_bytes in reversed(pages[:-1]):
        size += page_bytes
        unequal = bool(group) and page.stop - page.start != group[-1].stop - group[-1].start
        if size > BOUND_BYTES or (not ended and (unequal or len(group) == BOUND_TOGETHER)):
            break
        group.append(page)
    return tuple(reversed(group)) if len(group) >= (2 if ended else BOUND_TOGETHER) else ()


def bind(storage: Storage, folder: str, pages: Sequence[Page]) -> tuple[Page, int]:
    """One page that holds what these neighbours do, and its bytes; they may be deleted from now on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    bound = Page(pages[0].start, pages[-1].stop)
    out = BytesIO()
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(out, _schema(), compression="zstd") as writer:
        for page in pages:
            data = storage.read(f"{folder}/{page.name}")
            if data is None:
                raise Transient(f"{folder}/{page.name} is not to be found, so it is not bound with its neighbours")
            waiting.append(pq.read_table(BytesIO(data)))
            if sum(len(table) for table in waiting) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    storage.create(f"{folder}/{bound.name}", out.getvalue())  # where one of that name is there, it holds the same events
    return bound, out.tell()


def write(storage: Storage, folder: str, number: int, columns: dict[str, list[object]]) -> tuple[Page, int]:
    """A page of events given column by column, and its bytes. One of that number is replaced: its writer has not heard that it arrived."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = BytesIO()
    pq.write_table(pa.table(columns, schema=_schema()), out, compression="zstd")
    page = Page(number, number + 1)
    storage.put(f"{folder}/{page.name}", out.getvalue())
    return page, out.tell()


def read(storage: Storage, folder: str, columns: list[str] | None = None) -> "pa.Table":
    """Every event so far, in order, as columns of `Event`; pages may be written and bound meanwhile. Raises Transient where that goes on too fast."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def one(page: Page) -> "pa.Table | None":
        data = storage.read(f"{folder}/{page.name}")
        return None if data is None else pq.read_table(BytesIO(data), columns=columns)

    before: list[str] = []
    for _ in range(LISTINGS):
        names = storage.list(folder)
        pages, whole = to_read(names)
        if whole or names == before:  # a gap that stays is none of ours: somebody has taken a page away
            with ThreadPoolExecutor(READS_AT_ONCE) as threads:
                tables = list(threads.map(one, pages))
            found = [table for table in tables if table is not None]
            if len(found) == len(pages):
                if not whole:
                    log.warning("%s: pages of the run log are missing; what is there is read", storage.uri(folder))
                empty = _schema().empty_table()
                return pa.concat_tables(found or [empty if columns is None else empty.select(columns)])
        before = names
    raise Transient(f"{storage.uri(folder)}: the pages changed in each of {LISTINGS} listings")


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
