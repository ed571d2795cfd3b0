"""A document for a terminal: its blocks in order, the verdict last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

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
)

WIDTH = 100
"""Sentences are wrapped at this; tables and commands keep their own width."""
FLOWING = (Sentence, Bullets, Code)
"""What follows one another without a gap."""


def render(document: Document) -> str:
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    head = document.head
    model = f"   model {head.model['name']}" if head.model else ""
    yield f"{head.program} {head.parity_check}   run {head.run_id}{model}"
    for section in document.sections:
        lines = list(_blocks(section.blocks))
        if lines:
            yield ""
            yield from lines
    yield ""
    yield document.verdict_line


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    before: Block | None = None
    for block in blocks:
        lines = list(_block(block))
        if not lines:
            continue
        if before is not None and _gap(before, block):
            yield ""
        yield from lines
        before = block


def _gap(before: Block, block: Block) -> bool:
    """Whether there is an empty line between two blocks."""
    if isinstance(before, Heading):
        return False
    if isinstance(before, Table):
        return not (isinstance(block, Sentence) and block.muted)
    return not (isinstance(before, FLOWING) and isinstance(block, (*FLOWING, Table)))


def _block(block: Block) -> Iterator[str]:
    """The lines of a block; none for what only a page shows."""
    match block:
        case Heading(text) | Sentence(text):
            yield from wrapped(text)
        case Bullets(sentences) | Legend(sentences):
            for sentence in sentences:
                yield from wrapped(sentence)
        case Table():
            yield from table_lines(block)
        case Checks():
            yield from _checks(block)
        case Stages(title, stages):
            yield title
            width = max(len(stage.name) for stage in stages)
            outcome = max(len(stage.outcome) for stage in stages)
            for stage in stages:
                mark = OUTCOME_MARKS[stage.outcome]
                start = f"  {stage.name:{width}}  {mark} {stage.outcome:{outcome}}  "
                yield from wrapped(start + stage.sentence, indent=4)
        case Causes():
            yield from _causes(block)
        case Warnings(items):
            for number, (id, message) in enumerate(items):
                yield from [""] if number else []
                yield from wrapped(f"warning [{id}]: {message}")
        case Code(text):
            yield from (f"  {line}".rstrip() for line in text.splitlines())
        case Details():
            yield from _blocks(block.blocks)


def _checks(block: Checks) -> Iterator[str]:
    listed = block.listed()
    if listed:
        yield from wrapped(block.title if block.every else f"not parity: {block.title}")
    for check in listed:
        sentence = f"  {check.mark} {check.label}: {check.sentence}"
        yield from wrapped(sentence, indent=4)


def _causes(block: Causes) -> Iterator[str]:
    if block.causes or block.unknown:
        yield "likely causes"
    if block.unknown:
        yield from wrapped(f"  {block.unknown}", indent=4)
    for number, cause in enumerate(block.causes, 1):
        yield from wrapped(f"  {number}  {cause.sentence}", indent=5)
        for sentence in cause.evidence:
            yield from wrapped(f"     - {sentence}", indent=7)
        yield from wrapped(f"     fix: {cause.fix}", indent=10)
        if cause.confirm:
            yield f"     confirm: {cause.confirm}"  # in one line: it is to be copied


def table_lines(table: Table) -> list[str]:
    """A table's lines, without what only a page draws."""
    table = table.written()
    rows = [[column.heading for column in table.columns]]
    for row in table.rows:
        first, *others = map(str, row.cells)
        rows.append([f"  {first}" if row.below else first, *others])
    return columns(rows, "".join("<>"[column.align == "right"] for column in table.columns))


def columns(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Pad cells to columns; `alignment` holds `<` or `>` for each."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}"
            for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def wrapped(sentence: str, indent: int = 2) -> list[str]:
    """A sentence as lines of a terminal's width."""
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
