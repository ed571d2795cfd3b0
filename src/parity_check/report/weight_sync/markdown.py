"""The weight-sync report as Markdown, for pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.report.weight_sync import sentences
from parity_check.weight_sync.report import WeightSyncReport


def render(report: WeightSyncReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: WeightSyncReport) -> Iterator[str]:
    yield f"## parity-check weight-sync: {sentences.verdict_line(report)}"
    yield ""
    yield f"Run `{report.run_id}`, model `{report.model['name']}`; {sentences.scenario(report)}."
    yield ""
    yield from _table(sentences.check_rows(report.checks), "<<>><<")
    yield ""
    yield from (f"- {reason}" for reason in sentences.reasons(report.checks))
    for result in report.results:
        yield ""
        yield f"### {sentences.engine_line(report, result)}"
        yield ""
        rows = sentences.timeline_rows(result)
        yield from _table(rows, "<" + ">" * (len(rows[0]) - 1))
        yield ""
        yield f"- {sentences.switches(result)}; {sentences.lags(result)}"
        yield f"- {sentences.magnitudes(result)}"
        yield from (f"- {line}" for line in sentences.update_lines(result))
    yield ""
    yield "What makes V1 behave as the V0 wrapper did:"
    yield from ("", "~~~toml", sentences.AS_V0_DID, "~~~", "", sentences.IN_A_TRAINER, "")
    yield from ("<details><summary>How to read this</summary>", "")
    yield from (f"- {line}" for line in sentences.legend())
    yield from ("", "</details>")


def _table(rows: Sequence[Sequence[str]], alignment: str) -> Iterator[str]:
    head, *body = rows
    yield _row(head)
    yield _row(["---:" if side == ">" else "---" for side in alignment])
    yield from map(_row, body)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
