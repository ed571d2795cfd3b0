"""The progress display: a bar a name on a terminal, a line a step elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress

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
