"""A document for a terminal: its blocks in order, then the verdict, then what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from parity_check.report.document import (
    MARKS,
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
    Measured,
    Row,
    Sentence,
    Stages,
    Table,
    Warnings,
)

WIDTH = 100
"""Sentences are wrapped at this unless the terminal is narrower; commands keep their own width."""
NARROWEST = 60
FLOWING = (Sentence, Bullets, Code)
"""What follows one another without a gap."""


def render(document: Document, width: int = WIDTH) -> str:
    return "\n".join(_lines(document, min(WIDTH, max(NARROWEST, width)))) + "\n"


def _lines(document: Document, width: int) -> Iterator[str]:
    head = document.head
    model = f"   model {head.model['name']}" if head.model else ""
    yield f"{head.program} {head.parity_check}   run {head.run_id}{model}"
    for section in document.sections:
        lines = list(_blocks(section.blocks, width))
        if lines:
            yield ""
            yield from lines
    yield ""
    yield document.verdict_line
    yield from _blocks(document.closing, width)


def _blocks(blocks: Sequence[Block], width: int) -> Iterator[str]:
    before: Block | None = None
    for block in blocks:
        lines = list(_block(block, width))
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


def _block(block: Block, width: int) -> Iterator[str]:
    """The lines of a block; none for what only a page shows."""
    match block:
        case Heading(text) | Sentence(text):
            yield from wrapped(text, width)
        case Bullets(sentences) | Legend(sentences):
            for sentence in sentences:
                yield from wrapped(sentence, width)
        case Table():
            yield from table_lines(block, width)
        case Checks():
            yield from _checks(block, width)
        case Stages(title, stages):
            yield title
            name = max(len(stage.name) for stage in stages)
            outcome = max(len(stage.outcome) for stage in stages)
            for stage in stages:
                mark = OUTCOME_MARKS[stage.outcome]
                start = f"  {stage.name:{name}}  {mark} {stage.outcome:{outcome}}  "
                yield from wrapped(start + stage.sentence, width, indent=4)
        case Causes():
            yield from _causes(block, width)
        case Warnings(items):
            for number, (id, message) in enumerate(items):
                yield from [""] if number else []
                yield from wrapped(f"warning [{id}]: {message}", width)
        case Code(text):
            yield from (f"  {line}".rstrip() for line in text.splitlines())
        case Details():
            yield from _blocks(block.blocks, width)


def _checks(block: Checks, width: int) -> Iterator[str]:
    listed = block.listed()
    if listed:
        yield from wrapped(block.heading, width)
    for check in listed:
        sentence = f"  {check.mark} {check.label}: {check.sentence}"
        yield from wrapped(sentence, width, indent=4)


def _causes(block: Causes, width: int) -> Iterator[str]:
    if block.causes or block.unknown:
        yield "likely causes"
    if block.unknown:
        yield from wrapped(f"  {block.unknown}", width, indent=4)
    for number, cause in enumerate(block.causes, 1):
        yield from wrapped(f"  {number}  {cause.sentence}", width, indent=5)
        for sentence in cause.evidence:
            yield from wrapped(f"     - {sentence}", width, indent=7)
        yield from wrapped(f"     fix: {cause.fix}", width, indent=10)
        if cause.confirm:
            yield f"     confirm: {cause.confirm}"  # in one line: it is to be copied
    if block.remarks:
        yield from [""] if block.causes or block.unknown else []
        yield "remarks"
    for remark in block.remarks:
        yield from wrapped(f"  - {remark.sentence}", width, indent=4)
        yield from wrapped(f"    fix: {remark.fix}", width, indent=9)


def table_lines(table: Table, width: int = WIDTH) -> list[str]:
    """A table's lines, without what only a page draws.

    Intervals go below their values where the table is wider than `width`; other tables keep their
    own width.
    """
    table = table.written()
    headings = [[column.heading for column in table.columns]]
    alignment = "".join("<>"[column.align == "right"] for column in table.columns)
    lines = columns([*headings, *([*row] for row in _beside(table.rows))], alignment)
    if max(map(len, lines)) > width and _measured(table.rows):
        return columns(
            [*headings, *(line for row in table.rows for line in _below(row))], alignment
        )
    return lines


def _measured(rows: Sequence[Row]) -> list[Measured]:
    return [cell for row in rows for cell in row.cells if isinstance(cell, Measured)]


def _beside(rows: Sequence[Row]) -> Iterator[list[str]]:
    """The cells of each row as text, intervals beside their values, both padded."""
    measured = _measured(rows)
    value = max((len(cell.value) for cell in measured), default=0)
    interval = max((len(cell.interval) for cell in measured), default=0)
    for row in rows:
        first, *others = (
            f"{MARKS[cell.verdict]} {cell.value:>{value}} {cell.interval:>{interval}}"
            if isinstance(cell, Measured)
            else str(cell)
            for cell in row.cells
        )
        yield [f"  {first}" if row.below else first, *others]


def _below(row: Row) -> Iterator[list[str]]:
    """A row as text in two lines, intervals below their values."""
    yield [
        f"{MARKS[cell.verdict]} {cell.value}" if isinstance(cell, Measured) else str(cell)
        for cell in row.cells
    ]
    yield [f"  {cell.interval}" if isinstance(cell, Measured) else "" for cell in row.cells]


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


def wrapped(sentence: str, width: int, indent: int = 2) -> list[str]:
    """A sentence as lines of a terminal's width."""
    return textwrap.wrap(
        sentence, width, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
