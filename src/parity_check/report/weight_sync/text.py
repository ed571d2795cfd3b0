"""The weight-sync report for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from parity_check.report.numbers import columns
from parity_check.report.text import WIDTH
from parity_check.report.weight_sync import sentences
from parity_check.weight_sync.report import WeightSyncReport


def render(report: WeightSyncReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: WeightSyncReport) -> Iterator[str]:
    yield (
        f"parity-check {report.parity_check} weight-sync   run {report.run_id}   "
        f"model {report.model['name']}"
    )
    yield ""
    yield from _wrapped(f"scenario  {sentences.scenario(report)}", indent=10)
    for result in report.results:
        yield ""
        yield from _wrapped(sentences.engine_line(report, result))
        for line in sentences.update_lines(result):
            yield from _wrapped(line)
        rows = sentences.timeline_rows(result)
        yield from columns(rows, "<" + ">" * (len(rows[0]) - 1))
        yield from _wrapped(f"{sentences.switches(result)}; {sentences.lags(result)}")
        yield from _wrapped(sentences.magnitudes(result))
    yield ""
    for sentence in sentences.legend():
        yield from _wrapped(sentence)
    yield ""
    yield from columns(sentences.check_rows(report.checks), "<<>><<")
    yield ""
    for sentence in sentences.reasons(report.checks):
        yield from _wrapped(sentence)
    yield ""
    yield "what makes V1 behave as the V0 wrapper did:"
    yield from (f"  {line}".rstrip() for line in sentences.AS_V0_DID.splitlines())
    yield from _wrapped(sentences.IN_A_TRAINER)
    yield ""
    yield sentences.verdict_line(report)


def _wrapped(sentence: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
