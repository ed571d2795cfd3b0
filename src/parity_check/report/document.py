"""A report of any kind as a list of blocks; each renderer shows every block, and knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from parity_check.errors import ExitCode, InputError
from parity_check.measure.gates import Verdict
from parity_check.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["comparison", "ablation", "weight-sync", "locate", "logs", "training"]
Outcome = Literal["pass", "fail", "not reached", "unknown"]

MARKS: Mapping[Verdict, str] = {"parity": "✓", "drift": "✗", "inconclusive": "?"}
OUTCOME_MARKS: Mapping[Outcome, str] = {
    "pass": "✓",
    "fail": "✗",
    "not reached": "–",
    "unknown": "?",
}


@dataclass(frozen=True, slots=True)
class Head:
    """The tool and the run: the same for every kind."""

    kind: Kind
    run_id: str
    created_utc: str
    command: str
    parity_check: str
    """The version that made the report."""
    config: dict[str, Any]
    model: dict[str, Any]
    host: dict[str, Any]

    @classmethod
    def of(cls, stored: Record, kind: Kind) -> Head:
        """The head of a stored report."""
        return cls(
            kind=kind,
            run_id=stored.run.id,
            created_utc=stored.run.created_utc,
            command=stored.run.command,
            parity_check=stored.tool.version,
            config=stored.run.config,
            model=stored.model,
            host=stored.host,
        )

    @property
    def program(self) -> str:
        """The command that such a report is of, e.g. `parity-check ablation`."""
        return "parity-check" if self.kind == "comparison" else f"parity-check {self.kind}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was requested and what was computed, in the same words.

    There is no document of parity while anything is missing.
    """

    asked: tuple[str, ...]
    computed: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(each for each in self.asked if each not in set(self.computed))


# Cells of a table.


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with its mark. `word` replaces the verdict's own, as in "at the floor"."""

    verdict: Verdict
    word: str | None = None

    def __str__(self) -> str:
        return f"{MARKS[self.verdict]} {self.word or self.verdict}"


@dataclass(frozen=True, slots=True)
class Strip:
    """An interval drawn against a limit. Places are from 0 to 1, None where there is none.

    `cut_low` and `cut_high` say that more lies beyond that end of the strip.
    """

    verdict: Verdict
    band: tuple[float, float]
    interval: tuple[float, float] | None
    value: float | None
    floor: float | None
    cut_low: bool
    cut_high: bool

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Link:
    """Text that leads to a definition of the same page."""

    text: str
    target: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and its interval, judged. Text puts the interval below where a line is too short."""

    verdict: Verdict
    value: str
    interval: str

    def __str__(self) -> str:
        return f"{MARKS[self.verdict]} {self.value} {self.interval}".rstrip()


Cell: TypeAlias = str | Judged | Strip | Link | Measured
"""`str(cell)` is what a format without links and drawings shows."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and the side to which its cells are aligned."""

    heading: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `below` indents it under the row before, `marked` makes it stand out."""

    cells: tuple[Cell, ...]
    below: bool = False
    marked: bool = False


# Blocks.


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A paragraph, `code` in backticks; `muted` is a note to the block before it."""

    text: str
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences that belong together."""

    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """`caption` names it for screen readers.

    `verbatim` cells hold text from outside, such as tokens: Markdown shows them as they are.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    verbatim: bool = False

    @property
    def strips(self) -> bool:
        """Whether there is anything that only a page draws."""
        return any(isinstance(cell, Strip) for row in self.rows for cell in row.cells)

    def written(self) -> Table:
        """The table without columns that only a page draws."""
        drawn = {
            place
            for row in self.rows
            for place, cell in enumerate(row.cells)
            if isinstance(cell, Strip)
        }
        kept = [place for place in range(len(self.columns)) if place not in drawn]
        return Table(
            self.caption,
            tuple(self.columns[place] for place in kept),
            tuple(
                Row(tuple(row.cells[place] for place in kept), row.below, row.marked)
                for row in self.rows
            ),
            self.verbatim,
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was judged: a gate, or a check of another kind.

    `group` says what it was judged on, e.g. `sampled by the reference`; `name` is for machines,
    `label` for people. `verdict` is None for a check that was not run.
    """

    group: str
    name: str
    label: str
    verdict: Verdict | None
    reason: str
    advice: str | None = None
    limit_source: str | None = None

    @property
    def mark(self) -> str:
        return "–" if self.verdict is None else MARKS[self.verdict]

    @property
    def sentence(self) -> str:
        """The reason, and what to do about it."""
        return self.reason if not self.advice else f"{self.reason}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Checks:
    """Why each check was judged as it was: also a test case each, and an annotation.

    `title` names what was judged. Text and Markdown list the checks that are not parity; all of
    them with `every`. A page lists all.
    """

    title: str
    checks: tuple[Check, ...]
    every: bool = False

    def listed(self) -> tuple[Check, ...]:
        """What text and Markdown list."""
        return tuple(check for check in self.checks if self.every or check.verdict != "parity")

    @property
    def heading(self) -> str:
        """The title of what is listed: which checks are not parity, or were not judged."""
        if self.every:
            return self.title
        judged = any(check.verdict is not None for check in self.listed())
        return f"{'not parity' if judged else 'not judged'}: {self.title}"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a list that was gone through: a layer of a diagnosis, a good practice."""

    name: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Stages:
    title: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause, its evidence, and what to do. `tags`: layer, confidence, share explained."""

    id: str
    claim: str
    tags: tuple[str, ...]
    evidence: tuple[str, ...]
    fix: str
    confirm: str | None

    @property
    def sentence(self) -> str:
        return f"{self.claim} ({self.id}; {', '.join(self.tags)})"


@dataclass(frozen=True, slots=True)
class Causes:
    """The likely causes, the likeliest first; `unknown` says what is known where none matched.

    `remarks` are there too, but explain next to nothing of what was measured.
    """

    causes: tuple[Cause, ...]
    unknown: str | None = None
    remarks: tuple[Cause, ...] = ()


@dataclass(frozen=True, slots=True)
class Warnings:
    """What the reader must know to read the numbers right: (id, message)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """A command or a configuration to copy: never wrapped."""

    text: str
    caption: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot, drawn when a page is rendered. `alt` says what it shows; `size` in inches.

    `draw` may adjust the margins of its axes' figure.
    """

    draw: Callable[[Axes], None]
    caption: str
    alt: str
    size: tuple[float, float] = (5.0, 3.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """Plots that belong together; a page alone shows them. `name` is its own in a document."""

    name: str
    title: str
    healthy: str
    """What it looks like when nothing is wrong."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a sample. `shade` from -4 to 4 is 0 where |Δ| is small; logprobs in nats.

    `log_ratio` and `ratio` are None where a logprob is unusable.
    """

    position: int
    token_id: int
    text: str
    behaviour_logprob: float
    evaluating_logprob: float
    log_ratio: float | None
    ratio: float | None
    shade: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample's tokens, shaded by Δ; some of its `length` tokens where it is long."""

    title: str
    facts: str
    prompt_end: str
    length: int
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Whole samples as text; a page alone shows them. `shades` are the edges in nats."""

    samples: tuple[Sample, ...]
    shades: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Legend:
    """How to read the numbers, a sentence each; Markdown folds it away."""

    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """A term, and what it means. `anchor` is what a `Link` leads to."""

    anchor: str
    term: str
    name: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """Terms and their meanings; a page alone shows them."""

    items: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that Markdown and pages fold away; text shows them in place."""

    summary: str
    blocks: tuple[Block, ...]
    open: bool = False


@dataclass(frozen=True, slots=True)
class PageOnly:
    """Blocks that a page alone shows."""

    blocks: tuple[Block, ...]


Block: TypeAlias = (
    Heading
    | Sentence
    | Bullets
    | Table
    | Checks
    | Stages
    | Causes
    | Warnings
    | Code
    | Figure
    | Samples
    | Legend
    | Definitions
    | Details
    | PageOnly
)


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one title, which text leaves out: it shows the headings.

    Text ends with the verdict and keeps the order of the sections. Markdown and pages begin with
    the verdict, and show the `early` sections before the others.
    """

    id: str
    title: str
    blocks: tuple[Block, ...]
    early: bool = False

    @property
    def strips(self) -> bool:
        """Whether a table of this section draws intervals."""
        tables = (block for block in _unfolded(self.blocks) if isinstance(block, Table))
        return any(table.strips for table in tables)


@dataclass(frozen=True, slots=True)
class Document:
    """Everything that any renderer needs."""

    head: Head
    title: str
    """What was compared, e.g. `vllm 0.18.1 against vllm 0.8.5`."""
    verdict: Verdict | None
    """None where nothing could be judged."""
    exit_code: ExitCode
    outcome: str
    """How many checks passed, e.g. `all 12 gates inside their limits`."""
    lead: str
    """The one sentence under a verdict: the likeliest cause, or the number that decided it."""
    facts: Mapping[str, str]
    """Properties for a CI system, e.g. each engine's label."""
    sections: tuple[Section, ...]
    coverage: Coverage
    record: Record
    """What report.json holds."""
    closing: tuple[Block, ...] = ()
    """What a terminal shows below the verdict: where more is, and what to do next."""

    def __post_init__(self) -> None:
        """Raises InputError for parity of something that was not compared."""
        missing = self.coverage.missing
        if self.verdict == "parity" and missing:
            raise InputError(f"no verdict: requested, but not compared: {', '.join(missing)}")

    @property
    def failed(self) -> bool:
        """Whether there is no verdict because something went wrong."""
        return self.verdict is None and self.exit_code is not ExitCode.INCONCLUSIVE

    @property
    def mark(self) -> str:
        return MARKS[self.verdict] if self.verdict else "✗" if self.failed else "–"

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return self.verdict or ("failed" if self.failed else "no verdict")

    @property
    def tone(self) -> Verdict:
        """The verdict in whose colours a page shows this one."""
        return self.verdict or ("drift" if self.failed else "inconclusive")

    @property
    def verdict_line(self) -> str:
        """The verdict, how many checks are behind it, the exit code."""
        return f"{self.mark} {self.word.upper()}  {self.outcome}  (exit {int(self.exit_code)})"

    @property
    def verdict_first(self) -> tuple[Section, ...]:
        """The sections in the order of formats that begin with the verdict."""
        return tuple(sorted(self.sections, key=lambda section: not section.early))

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(
            check for block in self.blocks() if isinstance(block, Checks) for check in block.checks
        )

    @property
    def causes(self) -> tuple[Cause, ...]:
        return tuple(
            cause for block in self.blocks() if isinstance(block, Causes) for cause in block.causes
        )

    @property
    def remarks(self) -> tuple[Cause, ...]:
        return tuple(
            each for block in self.blocks() if isinstance(block, Causes) for each in block.remarks
        )

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            item for block in self.blocks() if isinstance(block, Warnings) for item in block.items
        )

    def blocks(self) -> Iterator[Block]:
        """All blocks, those inside of others too."""
        for section in self.sections:
            yield from _unfolded(section.blocks)


def _unfolded(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details | PageOnly):
            yield from _unfolded(block.blocks)


def capitalised(sentence: str) -> str:
    """A sentence with a capital letter, where it begins with a plain word and not with a name."""
    plain = sentence.partition(" ")[0].rstrip(",:").isalpha()
    return sentence[0].upper() + sentence[1:] if plain else sentence


def full_stop(sentence: str) -> str:
    """A capitalised sentence with an end."""
    sentence = capitalised(sentence)
    return sentence if sentence[-1:] in (".", ":", ";", "?", "!") else f"{sentence}."
