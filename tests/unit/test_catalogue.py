"""What a catalogue may say, in each of its three forms, and what is said about what it may not."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitedub.pipeline.catalogue.rows import BadRow, Catalogue, RowSettings, read_catalogue
from infinitedub.stages.errors import ConfigError, DubError
from infinitedub.stages.records import Box, Job, Length, Material, Prompt, Speaker, Turns

DEFAULTS = RowSettings(prompt="a person talks", negative_prompt="blurry", turns=Turns.TOGETHER, seed=42)


def read(content: bytes, name: str = "/films/rows.jsonl") -> Catalogue:
    return read_catalogue(name, lambda uri: io.BytesIO(content), DEFAULTS)


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def row(**cells: Any) -> dict[str, Any]:
    return {"id": "one", "source": "face.png", "speech": "voice.wav"} | cells


def reasons(content: bytes, name: str = "/films/rows.jsonl") -> list[tuple[int, str]]:
    catalogue = read(content, name)
    assert catalogue.jobs == ()
    return [(bad.line, "; ".join(bad.reasons)) for bad in catalogue.bad]


@pytest.mark.parametrize(("cell", "seed"), [("7.0", 7), ("7.", 7), ("+7.00", 7), ("1E+06", 1_000_000), ("9007199254740993.0", 2**53 + 1)])
def test_a_seed_in_csv_may_be_written_as_pandas_and_spreadsheets_write_it(cell: str, seed: int) -> None:
    (job,) = read(f"id,source,speech,seed\na,f,v,{cell}\n".encode(), "/films/rows.csv").jobs
    assert job.seed == seed


@pytest.mark.parametrize("cell", ["7.5", "-7.0", "1e-3", "1e99"])
def test_a_seed_in_csv_that_is_no_whole_number_is_refused(cell: str) -> None:
    assert "wanted a whole number" in reasons(f"id,source,speech,seed\na,f,v,{cell}\n".encode(), "/films/rows.csv")[0][1]


def test_a_csv_cell_may_be_longer_than_131072_characters() -> None:
    prompt = "a long story " * 20_000
    (job,) = read(f"id,source,speech,prompt\na,f,v,{prompt}\n".encode(), "/films/rows.csv").jobs
    assert job.prompt.text == prompt.strip()


# -- good rows ------------------------------------------------------------------------------------------------------------

FULL = Job(
    id="Shot-7.b",
    material=Material(
        "s3://in/street.mp4",
        (Speaker("/films/a.wav", Box(10, 20, 110, 220)), Speaker("/films/sub/b.mp4", Box(300, 20, 400, 220))),
        Turns.IN_TURN,
    ),
    length=Length.SHORTEST,
    prompt=Prompt("two people, talking", ""),
    seed=7,
)
PLAIN = Job("one", Material("/films/face.png", (Speaker("/films/voice.wav", None),), Turns.TOGETHER), None, Prompt("a person talks", "blurry"), 42)


def test_jsonl() -> None:
    full = {
        "id": "Shot-7.b",
        "source": "s3://in/street.mp4",
        "speech": "a.wav",
        "speech_2": "sub/b.mp4",
        "boxes": [[10, 20, 110, 220], [300, 20, 400, 220]],
        "turns": "in_turn",
        "prompt": "two people, talking",
        "negative_prompt": "",
        "length": "shortest",
        "seed": 7,
    }
    speakers = {"speakers": [{"speech": "a.wav", "box": [10, 20, 110, 220]}, {"speech": "sub/b.mp4", "box": [300, 20, 400, 220]}]}
    other = {k: v for k, v in full.items() if k not in ("speech", "speech_2", "boxes")} | speakers | {"id": "other"}
    catalogue = read(jsonl(full, row(prompt=None), other))
    assert catalogue.bad == ()
    first, second, third = catalogue.jobs
    assert first == FULL
    assert second == PLAIN
    assert third.material == FULL.material


def test_csv() -> None:
    lines = [
        "id, source,speech,speech_2,boxes,turns,prompt,length,seed",
        'Shot-7.b,s3://in/street.mp4,a.wav,sub/b.mp4,"[[10, 20, 110, 220], [300, 20, 400, 220]]",in_turn, "two people, talking",shortest,7',
        "",
        "one,face.png,voice.wav,,,,,,",
        ",,,,,,,,",
    ]
    catalogue = read("\r\n".join(lines).encode("utf-8-sig"), "/films/rows.csv")
    assert catalogue.bad == ()
    first, second = catalogue.jobs
    assert second == PLAIN
    assert (first.material, first.length, first.seed) == (FULL.material, FULL.length, FULL.seed)
    assert first.prompt == Prompt("two people, talking", "blurry")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["Shot-7.b", "one"],
            "source": ["s3://in/street.mp4", "face.png"],
            "speakers": [
                [{"speech": "a.wav", "box": [10, 20, 110, 220]}, {"speech": "sub/b.mp4", "box": [300, 20, 400, 220]}],
                [{"speech": "voice.wav", "box": None}],
            ],
            "turns": ["in_turn", None],
            "prompt": ["two people, talking", None],
            "negative_prompt": ["", None],
            "length": ["shortest", None],
            "seed": [7.0, float("nan")],  # what pandas makes of whole numbers with a gap
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    catalogue = read((tmp_path / "rows.parquet").read_bytes(), "/films/rows.parquet")
    assert catalogue == Catalogue((FULL, PLAIN), ())


def test_one_box_needs_no_outer_brackets() -> None:
    (job,) = read(jsonl(row(boxes=[1, 2, 3, 4]))).jobs
    assert job.material.speakers[0].box == Box(1, 2, 3, 4)


def test_two_voices_need_no_boxes() -> None:
    (job,) = read(jsonl(row(speech_2="b.wav"))).jobs
    assert [speaker.box for speaker in job.material.speakers] == [None, None]


def test_the_kind_of_file_is_seen_in_its_first_bytes_where_its_name_says_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["one"], "source": ["face.png"], "speech": ["voice.wav"]}), tmp_path / "p")
    for content in (jsonl(row()), b"\xef\xbb\xbf" + jsonl(row()), b"id,source,speech\none,face.png,voice.wav", (tmp_path / "p").read_bytes()):
        assert read(content, "/films/rows") == Catalogue((PLAIN,), ())


def test_a_parquet_file_that_cannot_seek_is_read_all_the_same(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError("not seekable")

    pq.write_table(pa.table({"id": ["one"], "source": ["face.png"], "speech": ["voice.wav"]}), tmp_path / "p")
    assert read_catalogue("/films/rows.parquet", lambda uri: Pipe((tmp_path / "p").read_bytes()), DEFAULTS).jobs == (PLAIN,)


@pytest.mark.parametrize(
    ("catalogue", "uri", "absolute"),
    [
        ("/films/rows.jsonl", "face.png", "/films/face.png"),
        ("/films/rows.jsonl", "/other/face.png", "/other/face.png"),
        ("/films/rows.jsonl", "https://host/face.png?sig=1", "https://host/face.png?sig=1"),
        ("s3://bucket/day/rows.jsonl", "media/face.png", "s3://bucket/day/media/face.png"),
        ("s3://bucket/day/rows.jsonl", "../face.png", "s3://bucket/face.png"),
        ("s3://bucket/rows.jsonl", "face.png", "s3://bucket/face.png"),
        ("https://host/rows.jsonl?sig=1/2", "face.png", "https://host/face.png"),
        ("file:///films/rows.jsonl", "face.png", "/films/face.png"),
        ("file:///my%20films/rows.jsonl", "50%.png", "/my films/50%.png"),
        ("s3://bucket/rows.jsonl", "/nfs/face.png", "/nfs/face.png"),
    ],
)
def test_relative_uris_start_at_the_catalogue(catalogue: str, uri: str, absolute: str) -> None:
    (job,) = read(jsonl(row(source=uri)), catalogue).jobs
    assert job.material.picture == absolute


def test_a_catalogue_named_from_here_makes_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(row()))
    monkeypatch.chdir(tmp_path)
    (job,) = read_catalogue("rows.jsonl", lambda uri: io.BytesIO(Path(uri).read_bytes()), DEFAULTS).jobs
    assert job.material.picture == str(tmp_path / "face.png")


def test_the_examples_of_the_manual_are_the_same_films(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text()
    blocks = {kind: manual.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("json", "csv", "python")}
    (tmp_path / "example.py").write_text(blocks["python"])
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True)
    as_jsonl = read(blocks["json"].encode())
    assert as_jsonl.bad == ()
    assert [job.id for job in as_jsonl.jobs] == ["anna", "street", "talk"]
    assert read(blocks["csv"].encode(), "/films/rows.csv") == as_jsonl
    assert read((tmp_path / "rows.parquet").read_bytes(), "/films/rows.parquet") == as_jsonl


# -- bad rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"id": None}, "id is missing"),
        ({"id": "a b"}, "id: 'a b'; wanted text of 1 to 128 characters"),
        ({"id": ".."}, "id: '..'"),
        ({"id": "x" * 129}, "id: 'xxx"),
        ({"id": "ä"}, "id: 'ä'"),
        ({"id": 7}, "id: 7; wanted text"),
        ({"source": ""}, "source: ''; wanted the URI of a file"),
        ({"source": 3}, "source: 3; wanted text"),
        ({"source": "a\0b"}, "source: 'a\\x00b' holds the control character"),
        ({"source": "a\nb"}, "source: 'a\\nb'; wanted the URI"),
        ({"source": "zip://x::s3://b/y.zip"}, "chains of file systems"),
        ({"source": "s3://bucket/a/../b"}, "without `..`"),
        ({"source": "s3://"}, "wanted s3://bucket/name"),
        ({"source": "s3://key:secret@bucket/a"}, "the URI on 'bucket' has a user or password"),
        ({"speech": None}, "speech is missing"),
        ({"speech": None, "speech_2": "b.wav"}, "speech is missing"),
        ({"speech": ["a.wav"]}, "speech: ['a.wav']; wanted text"),
        ({"speakers": [{"speech": "a.wav"}]}, "speech and speakers are both given"),
        ({"speech": None, "speakers": []}, "speakers: []; wanted a list of one or two"),
        ({"speech": None, "speakers": [{"speech": "a"}] * 3}, "wanted a list of one or two"),
        ({"speech": None, "speakers": [{"speach": "a"}]}, "speakers: {'speach': 'a'}; wanted {speech: URI"),
        ({"speech": None, "speakers": [{"speech": "a", "box": [1, 2, 3]}]}, "speakers: [1, 2, 3]; wanted [x_min"),
        ({"speech": None, "speakers": [{"speech": "a"}, {"speech": "b", "box": [1, 2, 3, 4]}]}, "speakers: one of two speakers has no box"),
        ({"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}, "boxes: 2 for 1 voices"),
        ({"speech_2": "b.wav", "boxes": [[1, 2, 3, 4]]}, "boxes: 1 for 2 voices"),
        ({"boxes": [[3, 2, 1, 4]]}, "boxes: [3, 2, 1, 4] is empty"),
        ({"boxes": [[-1, 2, 3, 4]]}, "boxes: [-1, 2, 3, 4]; wanted [x_min"),
        ({"boxes": [[1.5, 2, 3, 4]]}, "boxes: [1.5, 2, 3, 4]"),
        ({"boxes": [[True, 2, 3, 4]]}, "boxes: [True, 2, 3, 4]"),
        ({"boxes": "face"}, "boxes: 'face'; wanted a list"),
        ({"boxes": []}, "boxes: []; wanted a list"),
        ({"turns": "in turn"}, "turns: 'in turn'; wanted together, in_turn (did you mean 'in_turn'?)"),
        ({"length": "sound"}, "length: 'sound'; wanted audio, video, shortest"),
        ({"length": 4}, "length: 4; wanted audio"),
        ({"prompt": 5}, "prompt: 5; wanted text"),
        ({"prompt": "a\ud800"}, "prompt: 'a\\ud800' holds the control character"),
        ({"seed": -1}, "seed: -1; wanted a whole number from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed: 9223372036854775808"),
        ({"seed": True}, "seed: True"),
        ({"seed": "7"}, "seed: '7'"),
        ({"seed": 7.5}, "seed: 7.5"),
        ({"promt": "x"}, "unknown column 'promt' (did you mean 'prompt'?)"),
        ({"colour": "x"}, "unknown column 'colour' (known are id, source"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_wanted(cells: dict[str, Any], said: str) -> None:
    catalogue = read(jsonl(row(**cells), row(id="other")))
    assert [job.id for job in catalogue.jobs] == ["other"]
    (bad,) = catalogue.bad
    assert bad.line == 1
    assert said in str(bad)
    str(bad).encode()  # can be printed


def test_everything_wrong_with_a_row_is_said_at_once() -> None:
    assert reasons(jsonl({"id": "a/b", "seed": -3, "sauce": "x"})) == [
        (
            1,
            "unknown column 'sauce' (did you mean 'source'?); id: 'a/b'; wanted text of 1 to 128 characters from A-Z a-z 0-9 . _ -, since it "
            "names the film; seed: -3; wanted a whole number from 0 to 9223372036854775807; source is missing; "
            "speech is missing; wanted the URI of a sound or video file",
        )
    ]


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    content = (
        b"\n" + jsonl(row()) + b"\r\n[1]\r\n{oops\n\xff\n" + b'{"id": NaN}\n{"id": "a", "id": "b"}\n' + b"[" * 100_000 + b"\n" + b'"' + b"9" * 10
    )
    catalogue = read(content)
    assert catalogue.jobs == (PLAIN,)
    told = {bad.line: bad.reasons[0] for bad in catalogue.bad}
    assert list(told) == [4, 5, 6, 7, 8, 9, 10]
    assert told[4].startswith("a JSON list; wanted one object")
    assert told[5].startswith("not JSON: ")
    assert told[6] == "byte 1 is not UTF-8"
    assert told[7] == "not a row: NaN is not a JSON value"
    assert told[8] == "not a row: 'id' is given twice"


def test_csv_lines_are_counted_through_quoted_breaks() -> None:
    content = b'id,source,speech,prompt\n"a b",face.png,voice.wav,"over\ntwo lines"\n\nok,face.png,voice.wav\nb/c,face.png,voice.wav,\n\xff,f,v,\n'
    told = reasons(content, "/films/rows.csv")
    assert [line for line, _ in told] == [2, 5, 6, 7]
    assert told[0][1].startswith("id: 'a b'")
    assert told[1][1].startswith("3 cells; wanted 4")
    assert told[2][1].startswith("id: 'b/c'")
    assert told[3][1] == "not UTF-8"


def test_csv_cells_that_are_not_what_they_should_be() -> None:
    content = b'id,source,speech,boxes,seed,promt\na,f,v,oops,1.5,\nb,f,v,"[[1,2,3,4]]",seven,\nc,f,v,,,x\nd,f,v,,,\n"e"x,f,v,,,\ng,f,v,,-1,\n'
    catalogue = read(content, "/films/rows.csv")
    assert [job.id for job in catalogue.jobs] == ["d"]  # an unknown column hurts only the rows that use it
    told = {bad.line: "; ".join(bad.reasons) for bad in catalogue.bad}
    assert sorted(told) == [2, 3, 4, 6, 7]
    assert "boxes: 'oops' is not a JSON list" in told[2]
    assert "seed: '1.5'; wanted a whole number" in told[2]
    assert told[3].startswith("seed: 'seven'")
    assert "did you mean 'prompt'" in told[4]
    assert told[6].startswith("not CSV")
    assert told[7].startswith("seed: -1;")


def test_an_open_quote_is_told_where_it_begins() -> None:
    catalogue = read(b'id,source,speech\none,face.png,voice.wav\ntwo,face.png,"voice.wav\n', "/films/rows.csv")
    assert catalogue.jobs == (PLAIN,)
    assert [(bad.line, bad.reasons[0].startswith("not CSV")) for bad in catalogue.bad] == [(3, True)]


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b b", "c"], "source": ["f", "f", None], "speech": ["v", "v", "v"], "seed": [1, 2, 3], "when": [None, None, None]})
    pq.write_table(table, tmp_path / "rows.pq", row_group_size=1)
    catalogue = read((tmp_path / "rows.pq").read_bytes(), "/films/rows.pq")
    assert [job.id for job in catalogue.jobs] == ["a"]
    assert [(bad.line, bad.id) for bad in catalogue.bad] == [(2, None), (3, "c")]


def test_a_parquet_cell_of_spoilt_text_spoils_its_row_only(tmp_path: Path) -> None:
    spoilt = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ab", b"\xff\xfe"], pa.binary()).buffers())
    pq.write_table(pa.table({"id": spoilt, "source": ["f", "f"], "speech": ["v", "v"]}), tmp_path / "rows.pq")
    catalogue = read((tmp_path / "rows.pq").read_bytes(), "/films/rows.pq")
    assert [job.id for job in catalogue.jobs] == ["ab"]
    assert [bad.line for bad in catalogue.bad] == [2]


def test_an_id_twice_is_bad_on_every_line_it_is_on() -> None:
    catalogue = read(jsonl(row(), row(id="two"), row(seed=-1), row(id="three"), row()))
    assert [job.id for job in catalogue.jobs] == ["two", "three"]
    assert [(bad.line, bad.id) for bad in catalogue.bad] == [(1, "one"), (3, "one"), (5, "one")]
    assert all("'one' is on lines 1, 3, 5" in bad.reasons[-1] for bad in catalogue.bad)
    assert catalogue.bad[1].reasons[0].startswith("seed: -1")


def test_a_uri_that_leads_out_of_the_bucket() -> None:
    ((_, said),) = reasons(jsonl(row(source="../../etc/passwd")), "s3://bucket/day/rows.jsonl")
    assert said == "source: '../../etc/passwd' leads out of s3://bucket"


@pytest.mark.parametrize("depth", [100, 900, 990, 3000, 100_000])
def test_a_cell_of_many_brackets(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for column in (b"boxes", b"seed", b"speech", b"other"):
        ((line, said),) = reasons(b'{"id": "one", "source": "f", "turns": "together", "%s": %s}' % (column, nested))
        assert line == 1
        assert len(said) < 1000


def test_a_bad_row_reads_well() -> None:
    assert str(BadRow(3, "one", ("seed: -1; wanted more", "source is missing"))) == "line 3 (one): seed: -1; wanted more; source is missing"
    assert str(BadRow(3, None, ("not UTF-8",))) == "line 3: not UTF-8"


# -- files that are no catalogue --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("/films/rows", b"\x00\x01\x02", "is not JSONL, CSV or Parquet"),
        ("/films/rows", b"", "is not JSONL, CSV or Parquet"),
        ("/films/rows.parquet", b"id,source\n", "cannot be read as Parquet"),
        ("/films/rows.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "cannot be read as Parquet"),
        ("/films/rows.csv", "id,source\n".encode("utf-16"), "UTF-16"),
        ("/films/rows.csv", b"id;source;speech\na;b;c\n", "separated by semicolons"),
        ("/films/rows.csv", b"id\tsource\tspeech\n", "separated by tabs"),
        ("/films/rows.csv", b"id,id\n", "'id' appears twice"),
        ("/films/rows.jsonl", b" " * 3_000_000, "longer than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(name: str, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(content, name)


def test_a_catalogue_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl cannot be read: .*No such file"):
        read_catalogue(str(tmp_path / "nothing.jsonl"), lambda uri: io.BytesIO(Path(uri).read_bytes()), DEFAULTS)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infinitedub.pipeline.catalogue.rows.MAX_ROWS", 3)
    assert len(read(jsonl(*(row(id=f"r{n}") for n in range(3)))).jobs) == 3
    with pytest.raises(ConfigError, match="more than 3 rows; split it"):
        read(jsonl(*(row(id=f"r{n}") for n in range(4))))


# -- whatever comes ---------------------------------------------------------------------------------------------------------

scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
anything = scalar | st.lists(scalar, max_size=3) | st.dictionaries(st.sampled_from(["speech", "box", "x"]), scalar, max_size=2)
likely: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["a", "b", "c.d", "..", "x y"]) | anything,
    "source": st.sampled_from(["face.png", "s3://b/f.mp4", "a::b", ""]) | anything,
    "speech": st.sampled_from(["v.wav", "../v.wav"]) | anything,
    "speech_2": st.just("w.wav") | anything,
    "speakers": st.just([{"speech": "v.wav", "box": [0, 0, 4, 4]}]) | anything,
    "boxes": st.lists(st.lists(st.integers(-1, 9), min_size=3, max_size=5), max_size=3) | anything,
    "turns": st.sampled_from(["together", "in_turn", "intern"]) | anything,
    "prompt": anything,
    "length": st.sampled_from(["audio", "AUDIO"]) | anything,
    "seed": anything,
    "sede": anything,
}
rows_of_anything = st.lists(st.fixed_dictionaries({}, optional=likely), max_size=5)


def accounted(catalogue: Catalogue, wanted: list[int]) -> None:
    """Every row is once among the good or the bad, and each bad one says why."""
    assert len(catalogue.jobs) + len(catalogue.bad) == len(wanted)
    assert {bad.line for bad in catalogue.bad} <= set(wanted)
    assert len({job.id for job in catalogue.jobs}) == len(catalogue.jobs)
    for bad in catalogue.bad:
        assert bad.reasons
        str(bad).encode()


@settings(deadline=None)
@given(rows=rows_of_anything)
def test_no_jsonl_row_is_lost(rows: list[dict[str, Any]]) -> None:
    accounted(read(jsonl(*rows)), list(range(1, len(rows) + 1)))


@settings(deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(sorted(likely)), st.text(max_size=12) | st.sampled_from(["a", "[[1,2,3,4]]", "7"])), max_size=6))
def test_no_csv_row_is_lost(rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, sorted(likely))
    writer.writeheader()
    writer.writerows(rows)
    catalogue = read(text.getvalue().encode("utf-8", "surrogatepass"), "/films/rows.csv")
    filled = [cells for cells in rows if any(cell.strip() for cell in cells.values())]
    assert len(catalogue.jobs) + len(catalogue.bad) == len(filled)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode), name=st.sampled_from(["a.jsonl", "a.csv", "a.parquet", "a"]))
def test_any_bytes_give_a_catalogue_or_an_error_of_ours(content: bytes, name: str) -> None:
    try:
        catalogue = read(content, f"/films/{name}")
    except DubError:
        return
    for bad in catalogue.bad:
        str(bad).encode()


@settings(deadline=None)
@given(where=st.integers(4, 2000), new=st.binary(min_size=1, max_size=8))
def test_a_damaged_parquet_file_gives_a_catalogue_or_an_error_of_ours(good_parquet: Callable[[], bytes], where: int, new: bytes) -> None:
    content = bytearray(good_parquet())
    where %= len(content)
    content[where : where + len(new)] = new
    try:
        read(bytes(content), "/films/rows.parquet")
    except DubError:
        return


@pytest.fixture(scope="module")
def good_parquet() -> Callable[[], bytes]:
    buffer = io.BytesIO()
    boxes = [[[1, 2, 3, 4]]] * 20
    pq.write_table(
        pa.table({"id": [f"r{n}" for n in range(20)], "source": ["f"] * 20, "speech": ["v"] * 20, "boxes": boxes, "seed": [1] * 20}), buffer
    )
    return buffer.getvalue
