"""The files of a locate run, and how to recognise its directory."""

from __future__ import annotations

from pathlib import Path

REPORT, PAGE = "locate.json", "report.html"


def is_locate(directory: Path) -> bool:
    """Whether a run directory is of `locate`."""
    return (directory / REPORT).is_file()
