"""Write docs/reference/{metrics,causes}.md from the tables that the program itself works by.

    python scripts/make_reference.py [--check]

With `--check` nothing is written; the exit code is 1 when a page is not what the tables say.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parity_check.comparison.diagnose import TOKEN_BUDGET
from parity_check.diagnosis.grid import FALSE_POSITIVES, TOLERANCE
from parity_check.diagnosis.path import KERNEL_RMS
from parity_check.diagnosis.rules import RULES
from parity_check.measure.accumulator import POSITION_EDGES, SURPRISAL_EDGES
from parity_check.measure.gates import PROFILES
from parity_check.measure.invalid import KINDS
from parity_check.measure.measure import LENGTH_EDGES, QUANTILES, TAIL_THRESHOLDS
from parity_check.measure.metrics import METRICS, RATIO_CAP, Metric
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.stats import (
    FEWEST_CLUSTERS,
    FOLDS,
    LONG_TAIL_DEGREES,
    SKEWNESS_BIAS,
    UNSEEN_LOG_RATIO,
)
from parity_check.report.numbers import number

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SIMULATED = Path(__file__).parent / "simulated_intervals.md"
"""What `simulate_intervals.py` printed."""
BETTER = {"lower": "lower is better", "higher": "higher is better"}
LEVELS = {
    "token": "token",
    "sequence-mean": "sequence, geometric mean ratio",
    "sequence-sum": "sequence, product of ratios",
}

INTRODUCTION = """\
# Metrics, objectives and limits

Generated from the program's own tables by `python scripts/make_reference.py`; do not edit.

**Δ** of a token is the logprob of the evaluating engine minus the logprob of the behaviour engine,
the one that sampled the token, for the same token id in the same context, in nats. Its **importance
ratio** is r = exp Δ, with the behaviour engine always in the denominator. Each sampling direction
is measured and printed on its own. Estimates of a divergence are of KL(behaviour ‖ evaluating).
Means are over tokens unless a row says sequences; exponentials take Δ up to ±{cap:g}.

Two identities hold in every report: k3 = mean ratio − 1 − mean Δ (but for tokens beyond ±{cap:g}),
and the mean ratio is 1 for any normalised evaluating engine, provided that the behaviour engine
recorded the logprobs of the distribution it sampled from and truncated nothing. A mean ratio off 1
therefore accuses the behaviour engine's bookkeeping.
"""

INTERVALS = """\
## Intervals

Tokens of one prompt share a context and samples share a prompt, so every interval is clustered by
prompt. `stats.cluster_by` says what is independent: `"prompt"`, `"group"` (all prompts of one
`prompt_group` together), `"sample"`, or a column of the prompts file, where a prompt without a
value is independent of all others. Prompts that begin alike are not independent: families of 8 with
an effect of 0.2, counted as prompts, cover the truth in half of the runs. A run whose prompts share
half of their tokens says so (`shared-prefixes`).

- Means: M = Σsᵢ / Σnᵢ over clusters, SE² = Σ(sᵢ − M nᵢ)² / (1 − hᵢ) / (Σnᵢ)² with hᵢ = nᵢ / Σn, the
  CR2 correction for few and unequal clusters (Bell and McCaffrey 2002); t with Satterthwaite's
  degrees of freedom (Imbens and Kolesár 2016) under variances that grow as nᵢ². Hall's correction
  for skewness (JRSS B 1992) widens the end on the side of the longer tail, with the skewness times
  1 + {bias:g} / √(degrees + 1), because few clusters show too little of it.
- Quantities with one long tail (k3, |Δ|, ESS, shares): the upper end uses the degrees of freedom
  over {degrees:g}, because the error is small in the runs in which the mean is.
- Shares: never narrower than the exact binomial interval. Nothing seen has an upper end all the
  same, 3.7 / n at 95 %. **That takes such tokens to come one by one.** Where whole requests fail,
  the number of samples counts: `burst_fraction` and `burst_prompt_fraction` are bounded and gated
  by samples and by prompts.
- k3, the mean ratio and ESS: no sample bounds a mean by itself, as a tail that was never met may
  carry it. Their far end allows for unseen tokens, of the share that the tail's bound leaves open,
  {unseen:g} nats up: 16, 19 and 364 (of 1 / ESS − 1) over 3.7 / n. Larger ones show in the other
  direction, where they are e^Δ times as many; a run of one direction cannot exclude them.
- ESS: the interval of 1 / ESS − 1, linearised.
- Quantiles: Woodruff's interval (JASA 1952) from a histogram whose bins are 0.8 % wide, over at
  most {folds} groups of clusters.
- Under {fewest} clusters there is no interval and no verdict. What counts is their effective
  number, (Σn)² / Σn² (`effective_clusters`): 50 prompts of 1 to 4,000 tokens are worth 12.

How often the printed 95 % interval covers the truth, in 2,000 simulated runs each
(`python scripts/simulate_intervals.py`; the method was chosen with other seeds). In brackets with
what is allowed for unseen tokens, where that changes it. Tokens of a prompt correlate, or are
Student's t; ESS has no truth under t, whose exponential has no mean.

{coverage}

Rare tokens and bursts are in few samples of this size. Their k3, tail share and ESS are known by
the allowance alone, and where whole samples or prompts fail, by the burst share alone.

How often a value at its limit, or at twice the limit, is called parity, and one at half its limit
drift: the worst of the metrics above, of bursts that of the burst share.

{errors}

## Verdicts

A limit is judged by the printed interval: inside it is **parity**, wholly outside **drift**,
anything else **inconclusive**. Parity of a run needs every gate, so no correction for their number
is due. Drift needs one: each gate calls it falsely in at most 2.5 % of runs that sit exactly on its
limit, which is not corrected, because a verdict would then no longer be that of the printed
interval. Over the gates of a run:

{runs}

Where an engine against itself is outside the limit, the gate is inconclusive: no verdict on the
other engine is possible. When every token compared is bit-identical, the bound that a small sample
puts on rare events does not stand in the way of parity. A side without one usable logprob is drift,
by its counts. `required_limit` is the limit that would just have passed. `prompts_needed` is the
least G with 3.6 s / √G + u / G within the distance from the estimate to its limit, with s the
spread of a cluster's mean and u what a prompt leaves unseen: a 90 % chance of parity if nothing
drifts.

A sampled token below −28 nats cannot have been sampled; `impossible_fraction` counts such tokens
and keeps them out of every mean. vLLM divides the probabilities by exponential variates and takes
the largest quotient. torch 2.6 on CPU (vLLM 0.8.5) returns 1.2e-38 in place of a variate once in
about 33 million, and then any token wins whose probability float32 can hold: one token in 33
million / vocabulary size, 1 in 8,000 with 4,096 entries, 1 in 220 with 151,936. torch 2.10 does
not. """


CAUSES = """\
# Causes

Generated from the program's own tables by `python scripts/make_reference.py`; do not edit.

The rules of the [diagnosis](../diagnosis.md) that every report holds. They are looked at in the
order of the table: what one explains is subtracted token by token, and the next looks at the rest.
That is how two faults in one run get two names. A cause that cannot be subtracted (a head, a batch)
is given the share that its size can account for; one for which a share makes no sense (unusable
rows) has none.

The rules read one run: both engines' logprobs of the same tokens, their top-k alternatives matched
by id (`workload.top_logprobs`, 5 by default), the settings in force, and the A/A repeats. With no
alternatives recorded, `raw_logprobs` is named from what the traces say of themselves, and
`wrong_temperature`, `penalty`, `truncated_support` and `lm_head_precision` cannot be named; the
report says so. A diagnosis looks at {budget:,} tokens of a direction at most: whole samples, from
evenly spaced parts of the trace, the same in every analysis.

A clean pair has no finding. In 1,000 simulated clean pairs (noise from 1e-5 to 0.02 nats, five
temperatures, truncation, penalties, equal and different builds, with and without prefix caching and
alternatives) no rule gave a false alarm; again: `pytest tests/unit/test_false_alarms.py -s`. The
thresholds are in `rows.py`, `semantic.py` and `path.py` of `src/parity_check/diagnosis/`.

Three limits to know: a temperature off by less than 1 % goes unseen; `lm_head_precision` counts
gaps that lie within {tolerance:g} of a step to a grid point, which {chance:g} % of the gaps of a
float32 head do by chance; and `other_weights` is the name for what is left when nothing else fits,
between engines of one build always, between different builds from RMS Δ {rms:g} nats on.
"""
REMEDY = """\
‹remedy› is `logprobs_mode = "processed_logprobs"` for the engine whose logprobs leave out what was
requested, `async_scheduling = false` where that lost a penalty, and otherwise `generation_config =
"vllm"` in its `engine_args`, with every sampling parameter in the request.
"""
UNSEEN = """\
## What a trace cannot show

Of the field's cases, these need more than two traces of the same tokens:
"""
NOT_SHOWN = (
    ("OpenRLHF#1108, AReaL#1290 (training unstable after an upgrade)",
     "no cause was ever found: parity-check tells whether the engines differ, not why a training "
     "run does"),
    ("NeMo-RL#3839 (recomputing the KV cache after an update did nothing)",
     "needs a weight update between tokens: `parity-check weight-sync`"),
    ("vllm#57970, #42695, #32103 (what pausing keeps of the cache)",
     "needs a weight update between tokens: `parity-check weight-sync`"),
    ("vllm#48310, #45617, #44972, #45619 (sleep and wake)",
     "happens between two states of one engine, of which a run sees one; after a bad wake it shows "
     "as `other_weights` or `bad_rows`, without the reason"),
    ("vllm#14722 (eager against CUDA graphs and inductor)",
     "symmetric noise looks the same from any kernel: "
     "`parity-check ablate RUN --flip enforce_eager=true,false`"),
    ("vllm#15381, #18352 (0.8.1 returns other logprobs than 0.8.0)",
     "the report was never narrowed down; a scale or an offset would be named"),
)  # fmt: skip


def metrics_page() -> str:
    """metrics.md, whole."""
    coverage, errors, runs = SIMULATED.read_text(encoding="utf-8").rstrip().split("\n\n")
    parts = [
        INTRODUCTION.format(cap=RATIO_CAP),
        *_metrics(),
        *_shown(),
        INTERVALS.format(
            folds=FOLDS,
            fewest=FEWEST_CLUSTERS,
            bias=SKEWNESS_BIAS,
            degrees=LONG_TAIL_DEGREES,
            unseen=UNSEEN_LOG_RATIO,
            coverage=coverage,
            errors=errors,
            runs=runs,
        ),
        *_profiles(),
        *_objectives(),
        *_hygiene(),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _metrics() -> Iterator[str]:
    yield (
        "## Metrics\n\nAny of these can be given a limit in `[gates]`; those marked *gated* have "
        "one in the profiles."
    )
    heads = ("metric", "definition", "unit", "good is", "moved by", "source")
    yield _table(heads, [_metric(row) for row in METRICS.values()])


def _metric(row: Metric) -> Sequence[str]:
    gated = ", *gated*" if row.gated else ""
    good = BETTER.get(row.better, f"{row.target:g}")
    name = f"`{row.name}`<br>{row.label}{gated}"
    return (name, row.definition, row.unit, good, row.moved_by, row.source)


def _shown() -> Iterator[str]:
    tails = ", ".join(f"{edge:g}" for edge in TAIL_THRESHOLDS)
    quantiles = ", ".join(f"p{100 * share:g}" for share in QUANTILES)
    lengths = ", ".join(f"{edge:,}" for edge in LENGTH_EDGES)
    positions = ", ".join(f"{edge:,}" for edge in POSITION_EDGES)
    surprise = ", ".join(f"{math.exp(-edge):.2g}" for edge in SURPRISAL_EDGES)
    yield f"""\
Beside them, shown and never gated: quantiles of |Δ| ({quantiles}) and the maximum; the tail
fraction at {tails} and at `stats.tail_threshold`; where samples first differ in a bit. In the JSON
report also every objective below, the clip rates of a sequence objective by length (bins from
{lengths} tokens), and mean Δ, mean |Δ| and k3 by position (bins from {positions}), by the behaviour
engine's probability (edges {surprise}) and by prompt group.
"""


def _profiles() -> Iterator[str]:
    yield (
        "## Profiles\n\n`gates.profile` chooses a set of limits; a key of `[gates]` overrides one. "
        "`sequence_clip_fraction` is the limit of `clip_fraction` where the objective compares "
        "whole sequences."
    )
    for name, limits in PROFILES.items():
        yield f"### `{name}`"
        yield _table(
            ("metric", "limit", "why this number"),
            [
                (f"`{metric}`", _limit(metric, value), why)
                for metric, (value, why) in limits.items()
            ],
        )


def _limit(metric: str, value: float) -> str:
    name = "clip_fraction" if metric == "sequence_clip_fraction" else metric
    row = METRICS[name]
    if row.better == "target":
        return f"{row.target:g} ± {value:g}" if row.target else f"± {value:g}"
    if metric == "identical_fraction":
        return f"= {number(name, value)}"
    return f"{'≤' if row.better == 'lower' else '≥'} {value:g}"


def _objectives() -> Iterator[str]:
    yield """\
## Objectives

`[objective] kind` chooses whose clip rate `clip_fraction` is. All are estimated in every run and
stand in the JSON report with four parts: `low` and `high`, the shares beyond each edge; `band`,
their sum; `active`, p · high + (1 − p) · low for a share p of positive advantages
(`objective.positive_share`, unknown to an engine comparison); and `counted`, what the framework's
own counter would show. All comparisons are strict: a ratio on the edge is not clipped.

**Bypass** losses take the ratio of trainer over rollout engine, so mismatch enters the ratio: the
number is the objective's own clip rate at its first step. **Recompute** losses start at a ratio of
1 and see the mismatch in an importance weight only: the number is the share of weights that the cap
or mask would change. A report about a bypass loss prints the share of TIS beside its clip rate, and
`objective.logprobs` (`"bypass"` or `"recompute"`) lets it say which of the two is yours.

`epsilon_low` and `epsilon_high` override the edges: a distance from 1 for clips (from 0 where the
edge is of the log ratio), the edge itself for caps, masks, `dual-clip` and `cispo-trl`.
"""
    heads = (
        "kind",
        "what",
        "loss",
        "compares",
        "edges",
        "counts",
        "average over",
        "as counted by",
        "source",
    )
    yield _table(heads, [_objective(row) for row in OBJECTIVES.values()])


def _objective(row: Objective) -> Sequence[str]:
    edges = " to ".join("–" if edge is None else f"{edge:g}" for edge in (row.low, row.high))
    if row.low is None:
        edges = f"above {row.high:g}"
    edges += " (log ratio)" if row.unit == "log ratio" else ""
    return (
        f"`{row.name}`", f"{row.label}. {row.sentence}", row.wiring, LEVELS[row.level], edges,
        _counts(row), f"{row.averaging}s", row.counter, row.source,
    )  # fmt: skip


def _counts(row: Objective) -> str:
    if row.low_counts == row.high_counts == "any":
        return "every crossing"
    sides = [] if row.low is None else [f"below at {row.low_counts} A"]
    return ", ".join([*sides, f"above at {row.high_counts} A"])


def _hygiene() -> Iterator[str]:
    yield (
        "## Hygiene\n\nLogprobs that cannot be what they claim are counted by kind, kept out of "
        "every mean, and gated at 0. What each usually is:"
    )
    yield _table(("kind", "usually"), [(f"`{kind}`", words) for kind, words in KINDS.items()])


def causes_page() -> str:
    """causes.md, whole."""
    heads = ("cause", "layer", "what the rule looks for", "what it says", "met in")
    rows = [
        (f"`{row.cause}`", row.layer, row.pattern, _placeholders(row.claim), row.cases)
        for row in RULES
    ]
    remedies = [
        (f"`{row.cause}`", _placeholders(row.fix), f"`{_placeholders(row.confirm)}`")
        for row in RULES
    ]
    parts = [
        CAUSES.format(
            budget=TOKEN_BUDGET, tolerance=TOLERANCE, chance=100 * FALSE_POSITIVES, rms=KERNEL_RMS
        ),
        "## Rules",
        _table(heads, rows),
        "## What to do",
        _table(("cause", "fix", "confirm"), remedies),
        REMEDY,
        UNSEEN,
        _table(("case", "why two traces do not show it"), NOT_SHOWN),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _placeholders(template: str) -> str:
    """Words that the data fill in, in angle quotes."""
    told = re.sub(r"(?<!\{)\{(\w+)\}(?!\})", r"‹\1›", template)
    return told.replace("{{", "{").replace("}}", "}")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    pages = {PAGES / "metrics.md": metrics_page(), PAGES / "causes.md": causes_page()}
    if options.check:
        stale = [path for path, text in pages.items() if not _holds(path, text)]
        for path in stale:
            print(f"{path} is out of date: run python scripts/make_reference.py", file=sys.stderr)
        return int(bool(stale))
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
