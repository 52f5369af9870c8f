"""What a person sees while a run goes on."""

from io import StringIO

import pytest

from infinitedub.pipeline.run.progress import ProgressBoard, event_line
from infinitedub.pipeline.state.run_log import Event


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(0.0, "a", 3, 1, "generate", "window", 12.44, "2/5"), "job=a segment=3 generate window 2/5 12.4 s"),
        (Event(0.0, "a", None, None, "listen", "finished", 0.5, ""), "job=a listen finished 0.5 s"),
        (Event(0.0, "a", None, None, "", "job_done", None, "films/a.mp4"), "job=a job_done: films/a.mp4"),
        (Event(0.0, "a", 0, None, "generate", "failed", None, "a : b"), "job=a segment=0 generate failed: a : b"),
    ],
)
def test_an_event_is_a_line_of_facts(event: Event, said: str):
    assert event_line(event) == said


def test_where_nobody_watches_what_was_done_is_told_line_by_line():
    out = StringIO()
    with ProgressBoard(["ingest"], 1, out) as board:
        for what in ("started", "finished", "reused", "failed"):
            board(Event(0.0, "a", None, None, "ingest", what, None, "[b]" if what == "failed" else ""))
    assert out.getvalue().splitlines() == ["job=a ingest finished", "job=a ingest failed: [b]"]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_table_of_all_stages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with ProgressBoard(["ingest", "generate"], 3, out) as board:
        board(Event(0.0, "a", None, None, "ingest", "reused", None, ""))
        board(Event(0.0, "a", 0, None, "generate", "started", None, ""))
        board(Event(0.0, "a[/b]:cat:", 0, 1, "generate", "window", 1.0, "2/5"))
        board(Event(0.0, "b", None, None, "", "job_done", None, "films/b.mp4"))
    shown = out.getvalue()
    assert "1 of 3 films, 0 failed" in shown
    assert "a[/b]:cat: segment 0: window 2/5" in shown  # letter by letter
    rows = {words[0]: words[1:] for text in shown.splitlines() if (words := text.split()) and words[0] in ("ingest", "generate")}
    assert rows == {"ingest": ["0", "0", "1", "0"], "generate": ["1", "0", "0", "0"]}  # running, done, reused, failed
