"""The progress display: a bar a name on a terminal, a line a step elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.progress import Progress

from parity_check import console as console_module
from parity_check.console import Console


def test_a_step_does_not_keep_the_total_of_the_step_before() -> None:
    console = Console(progress=True)
    console.err.file = io.StringIO()
    with console.activity() as activity:
        activity.update("reference", "downloading (MB)", 1200, 3188)
        activity.update("candidate", "resolving")
        activity.update("reference", "compiling the C extension")
        bars = activity._bars
        assert isinstance(bars, Progress)
        shown = [(each.description, each.completed, each.total) for each in bars.tasks]
    assert shown == [
        ("reference: compiling the C extension", 0, None),
        ("candidate: resolving", 0, None),
    ]


def test_elsewhere_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().activity() as activity:
        for received in (0, 1200, 3188):
            activity.update("reference", "downloading (MB)", received, 3188)
        activity.update("reference", "checking")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "reference: downloading (MB)",
        "reference: checking",
    ]


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_tokens_per_second_are_of_the_whole_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    console = Console(progress=True)
    console.err.file = io.StringIO()
    with console.activity() as activity:
        bars = activity._bars
        assert isinstance(bars, Progress)

        def shown() -> tuple[float, object]:
            [task] = bars.tasks
            return task.completed, task.fields["rate"]

        activity.whole("candidate", 0, 30)
        activity.update("candidate", "replay", 0, 10)
        assert shown() == (0, "")
        now[0] += 2
        activity.update("candidate", "replay", 10, 10, 4000)
        assert shown() == (10, "2,000 tokens/s")
        activity.whole("candidate", 10, 30)
        now[0] += 2
        activity.update("candidate", "replay", 5, 20, 2000)
        assert shown() == (15, "1,500 tokens/s")
        activity.whole("candidate", 0, None)
        activity.update("candidate", "load")
        assert shown() == (0, "")


def test_elsewhere_each_further_batch_is_a_line_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = clock(monkeypatch)
    with Console().activity() as activity:
        activity.whole("candidate", 10, 40)  # ten samples are there from an earlier run
        activity.update("candidate", "replay", 0, 10)
        now[0] += 60
        activity.update("candidate", "replay", 10, 10, 120_000)
        activity.whole("candidate", 20, 40)
        activity.whole("candidate", 0, None)
    assert capsys.readouterr().err.splitlines() == [
        "[   0.0 s] candidate: replay",
        "[  60.0 s] candidate: replay, 20 of 40 samples, 2,000 tokens/s, 0:02:00 left",
    ]
