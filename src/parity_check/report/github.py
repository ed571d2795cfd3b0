"""Workflow commands for GitHub Actions: an annotation a check that is not parity, one a cause."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.report.document import Document

LEVELS = {
    "parity": "notice", "drift": "error", "inconclusive": "warning", "no verdict": "warning",
    "failed": "error",
}  # fmt: skip


def render(document: Document) -> str:
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    """The verdict and its causes first: GitHub shows ten annotations of a level for each step."""
    program, level = document.head.program, LEVELS[document.word]
    yield _command(level, program, document.verdict_line)
    for cause in document.causes:
        yield _command(level, f"{program} ({cause.id})", f"{cause.sentence} Fix: {cause.fix}")
    for check in document.checks:
        if check.verdict not in ("parity", None):
            sentence = f"{check.group}: {check.sentence}"
            yield _command(LEVELS[check.verdict], f"{program} ({check.name})", sentence)
    for cause in document.remarks:
        yield _command("notice", f"{program} ({cause.id})", f"{cause.sentence} Fix: {cause.fix}")
    for id, message in document.warnings:
        yield _command("warning", f"{program} ({id})", message)


def _command(level: str, title: str, message: str) -> str:
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={escaped}::{_escaped(message)}"


def _escaped(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
