"""A report of any kind as a list of blocks; each renderer shows every block, and knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from parity_check.errors import ExitCode
from parity_check.measure.gates import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["comparison", "ablation", "weight-sync"]
Outcome = Literal["pass", "fail", "not reached", "unknown"]
SCHEMA_VERSION = 2
"""Of every kind's report.json."""


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


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was asked for and what was computed, in the same words: no verdict of parity without.

    `deliver` refuses to report parity while anything is missing.
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


@dataclass(frozen=True, slots=True)
class Link:
    """Text that leads to a definition of the same page."""

    text: str
    target: str


Cell: TypeAlias = str | Judged | Strip | Link
"""`Strip` is drawn on a page alone; the other renderers leave its column out."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and the side to which its cells are aligned."""

    heading: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `below` indents it under the row before, `marked` stands out."""

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
    """A paragraph. `muted` is less important than what it stands beside."""

    text: str
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences that belong together."""

    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """`caption` names it for screen readers."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was judged: a gate, or a check of another kind."""

    group: str
    """What it was judged on, e.g. `sampled by the reference`."""
    name: str
    label: str
    verdict: Verdict
    reason: str
    advice: str | None = None
    limit_source: str | None = None


@dataclass(frozen=True, slots=True)
class Checks:
    """Why each check was judged as it was. They become test cases and annotations.

    Text and Markdown list those that are not parity; `every` lists all.
    """

    title: str
    checks: tuple[Check, ...]
    every: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One layer of a diagnosis."""

    name: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause, what supports it, and what to do."""

    id: str
    claim: str
    tags: tuple[str, ...]
    """Layer, confidence, share of the drift explained."""
    evidence: tuple[str, ...]
    fix: str
    confirm: str | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The layers in their order, then the likely causes; `unknown` where none matched."""

    stages: tuple[Stage, ...]
    causes: tuple[Cause, ...]
    unknown: str | None = None


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
    """One plot, drawn when a page is rendered. `size` in inches."""

    draw: Callable[[Axes], None]
    size: tuple[float, float]
    caption: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Plots that belong together; a page alone shows them."""

    name: str
    title: str
    healthy: str
    """What it looks like when nothing is wrong."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a sample. `shade` from -4 to 4 is 0 where |Δ| is small; logprobs in nats."""

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
    """A sample's tokens, shaded by Δ."""

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
class Definition:
    """A term, and what it means. `anchor` is what a `Link` leads to."""

    anchor: str
    term: str
    name: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Definitions:
    items: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are folded away: Markdown and pages show them on demand, text leaves them out."""

    summary: str
    blocks: tuple[Block, ...]
    open: bool = False


Block: TypeAlias = (
    Heading
    | Sentence
    | Bullets
    | Table
    | Checks
    | Diagnosis
    | Warnings
    | Code
    | Figure
    | Samples
    | Definitions
    | Details
)


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one title. `page_only` sections are left out of text and Markdown."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    page_only: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """Everything that any renderer needs.

    `verdict` is None where nothing could be judged. `record` is what report.json holds beside the
    head: a tree of dataclasses, lists, dicts and scalars.
    """

    head: Head
    title: str
    """What was compared, e.g. `vllm 0.18.1 against vllm 0.8.5`."""
    verdict: Verdict | None
    exit_code: ExitCode
    outcome: str
    """How many checks passed, e.g. `all 12 gates inside their limits`."""
    lead: str
    """The one sentence under a verdict: the likeliest cause, or the number that decided it."""
    facts: Mapping[str, str]
    """Properties for a CI system, e.g. each engine's label."""
    sections: tuple[Section, ...]
    record: object
    artifacts: tuple[str, ...] = field(default=())
