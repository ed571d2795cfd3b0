"""A document in Markdown, for pull requests and step summaries: the verdict first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from parity_check.report import text
from parity_check.report.document import (
    OUTCOME_MARKS,
    Block,
    Bullets,
    Causes,
    Checks,
    Code,
    Details,
    Document,
    Heading,
    Legend,
    Sentence,
    Stages,
    Table,
    Warnings,
    capitalised,
    full_stop,
)

_CODE = re.compile(r"(`[^`]*`)")


def render(document: Document) -> str:
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    head = document.head
    yield f"## {head.program}: {document.verdict_line}"
    yield ""
    yield f"**{_inline(document.title)}:** {_inline(full_stop(document.lead))}"
    yield ""
    model = f", model `{head.model['name']}`" if head.model else ""
    yield f"Run `{head.run_id}`{model}, parity-check {head.parity_check}."
    for section in document.verdict_first:
        lines = list(_blocks(section.blocks))
        if lines:
            yield from ("", f"### {_inline(section.title)}", *lines)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    """The lines of blocks, an empty one before each."""
    for block in blocks:
        lines = list(_block(block))
        if lines:
            yield ""
            yield from lines


def _block(block: Block) -> Iterator[str]:
    """The lines of a block; none for what only a page shows."""
    match block:
        case Heading(words):
            yield f"#### {_inline(capitalised(words))}"
        case Sentence(words):
            yield _inline(full_stop(words))
        case Bullets(sentences):
            yield from _bullets(sentences)
        case Table():
            yield from _table(block)
        case Checks():
            yield from _checks(block)
        case Stages(title, stages):
            yield from (f"**{_inline(capitalised(title))}**", "")
            yield from (
                f"- {OUTCOME_MARKS[stage.outcome]} {_inline(stage.name)}, {stage.outcome}: "
                f"{_inline(stage.sentence)}"
                for stage in stages
            )
        case Causes():
            yield from _causes(block)
        case Warnings(items):
            for number, (id, message) in enumerate(items):
                yield from [""] if number else []
                yield f"> **{id}**: {_inline(message)}"
        case Code(words):
            yield from ("~~~", *words.splitlines(), "~~~")
        case Legend(sentences):
            yield from _details("How to read this", [*_bullets(sentences), ""])
        case Details(summary, blocks):
            lines = list(_blocks(blocks))
            if lines:
                yield from _details(summary, [*lines[1:], ""])


def _details(summary: str, lines: Sequence[str]) -> Iterator[str]:
    yield from (
        f"<details><summary>{_inline(capitalised(summary))}</summary>",
        "",
        *lines,
        "</details>",
    )


def _bullets(sentences: Sequence[str]) -> Iterator[str]:
    return (f"- {_inline(sentence)}" for sentence in sentences)


def _checks(block: Checks) -> Iterator[str]:
    listed = block.listed()
    if listed:
        yield from (f"**{_inline(capitalised(block.heading))}**", "")
    for check in listed:
        yield f"- {check.mark} {_inline(check.label)}: {_inline(check.sentence)}"


def _causes(block: Causes) -> Iterator[str]:
    if block.causes or block.unknown:
        yield from ("**Likely causes**", "")
    if block.unknown:
        yield _inline(block.unknown)
    for number, cause in enumerate(block.causes, 1):
        yield f"{number}. {_inline(cause.sentence)}"
        yield from (f"   - {_inline(sentence)}" for sentence in cause.evidence)
        yield f"   - fix: {_inline(cause.fix)}"
        if cause.confirm:
            yield f"   - confirm: `{cause.confirm}`"
    if block.remarks:
        yield from ("", "**Remarks**", "")
    for remark in block.remarks:
        yield f"- {_inline(remark.sentence)} Fix: {_inline(remark.fix)}"


def _table(table: Table) -> Iterator[str]:
    if table.verbatim:
        yield from ("~~~text", *text.table_lines(table), "~~~")
        return
    table = table.written()
    yield _row([column.heading for column in table.columns])
    yield _row(["---:" if column.align == "right" else "---" for column in table.columns])
    for row in table.rows:
        yield _row(list(map(str, row.cells)))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inline(cell).replace("|", "\\|") for cell in cells) + " |"


def _inline(sentence: str) -> str:
    """A sentence in which nothing outside of backticks begins a tag."""
    parts = _CODE.split(sentence)
    return "".join(
        part if number % 2 else part.replace("<", "\\<") for number, part in enumerate(parts)
    )
