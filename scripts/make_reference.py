"""Write docs/reference/metrics.md from the tables that the program itself works by.

    python scripts/make_reference.py [--check]

With `--check` nothing is written; the exit code is 1 when the page is not what the tables say.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parity_check.accumulator import POSITION_EDGES, SURPRISAL_EDGES
from parity_check.estimates import LENGTH_EDGES, QUANTILES, TAIL_THRESHOLDS
from parity_check.gates import PROFILES
from parity_check.hygiene import KINDS
from parity_check.metrics import METRICS, RATIO_CAP, Metric
from parity_check.objectives import OBJECTIVES, Objective
from parity_check.report.numbers import number
from parity_check.stats import FEWEST_CLUSTERS, FOLDS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "metrics.md"
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
prompt (`stats.cluster_by`):

- means: the ratio of sums M = Σsᵢ / Σnᵢ over clusters, SE² = G/(G−1) · Σ(sᵢ − M nᵢ)² / (Σnᵢ)², M ±
  t(G−1) · SE (Miller, arXiv 2411.00640), never narrower than with Hall's correction for skewness
  (JRSS B 1992), which widens the end towards the long tail;
- shares: never narrower than the exact binomial interval of n over its design effect (Korn and
  Graubard 1998). Nothing seen has an upper end all the same, 3.7 / effective n at 95 %;
- quantiles: Woodruff's interval (JASA 1952) from a histogram whose bins are 0.8 % wide;
- effective sample size: BCa bootstrap over at most {folds} groups of clusters, 1,999 resamples, a
  fixed seed;
- fewer than {fewest} clusters: no interval, and no verdict.

How often the printed 95 % interval covers the truth, and how often a drift that sits exactly on its
limit is called parity (nominal: at most 2.5 %), in 2,000 simulated runs each. Tokens are 90 %
normal and 10 % Student's t with 6 or 4 degrees of freedom, each sample and each prompt has an
offset of its own, lengths differ, two samples a prompt:

| tails | clusters | mean Δ | share of \\|Δ\\| > 0.03 | mean Δ² | false parity at the limit |
|---|---:|---:|---:|---:|---:|
| t6 | 16 | 96.2 % | 96.7 % | 94.2 % | 0.0 % |
| t6 | 64 | 94.8 % | 95.7 % | 95.5 % | 1.7 % |
| t6 | 256 | 95.9 % | 96.2 % | 95.7 % | 2.3 % |
| t4 | 16 | 95.3 % | 96.8 % | 93.1 % | 0.0 % |
| t4 | 64 | 95.9 % | 96.6 % | 92.8 % | 0.4 % |
| t4 | 256 | 94.6 % | 96.5 % | 94.2 % | 2.5 % |

Again: `pytest tests/unit/test_coverage.py -s`. Under t4 tails Δ² has no variance, so an interval of
its mean, and with it for k2, k3 and RMS Δ, cannot keep its word for every such noise: over 6,000
runs it covered 91.8, 92.9 and 93.7 % (without the correction for skewness 85 to 91 %). A few tokens
that a sample happens to miss carry the value. That is why a tail fraction is gated beside k3: its
interval is honest at any tail.

## Verdicts

A limit is judged by the printed interval: inside it is **parity**, wholly outside **drift**,
anything else **inconclusive**. Parity of a run needs every gate, so no correction for their number
is due; each gate calls drift falsely in 2.5 % of runs that sit on its limit. Where an engine
against itself is outside the limit, the gate is inconclusive: no verdict on the other engine is
possible. When every token compared is bit-identical, the bound that a small sample puts on rare
events does not stand in the way of parity. `required_limit` is the limit that would just have
passed. `prompts_needed` is (3.6 s / d)², with s the spread of a cluster's mean and d the distance
from the estimate to its limit: a 90 % chance of parity if nothing drifts; for a share of which
nothing was seen it follows the rule of three.
"""


def page() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION.format(cap=RATIO_CAP),
        *_metrics(),
        *_shown(),
        INTERVALS.format(folds=FOLDS, fewest=FEWEST_CLUSTERS),
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
or mask would change. A report about a bypass loss prints the share of TIS beside its clip rate.

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
    if options.check:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE} is out of date: run python scripts/make_reference.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
