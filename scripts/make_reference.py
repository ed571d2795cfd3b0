"""Write docs/reference/{metrics,causes,frameworks}.md from the program's own tables.

    python scripts/make_reference.py [--check]

With `--check` nothing is written; the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from parity_check.measure.objectives import NOT_ESTIMATED, OBJECTIVES, VERSIONS, Objective
from parity_check.measure.stats import FEWEST_CLUSTERS, FOLDS
from parity_check.report.numbers import number

PAGES = Path(__file__).parents[1] / "docs" / "reference"
BETTER = {"lower": "lower is better", "higher": "higher is better"}
VALUES = Path(__file__).parents[1] / "tests" / "data" / "framework-values.json"

INTRODUCTION = """\
# Metrics, objectives and limits

Generated from the program's tables by `python scripts/make_reference.py`; do not edit.

**Δ** of a token is the logprob of the evaluating engine minus the logprob of the behaviour engine
(the one that sampled the token), for the same token id in the same context, in nats. Its
**importance ratio** is r = exp Δ, with the behaviour engine always in the denominator. Each
sampling direction is measured and printed separately. Divergences are estimates of
KL(behaviour ‖ evaluating). Means are over tokens unless a row says sequences. Exponentials clamp Δ
to ±{cap:g}.

Two identities hold in every report: k3 = mean ratio − 1 − mean Δ (except for tokens beyond
±{cap:g}), and the mean ratio is 1 for any normalised evaluating engine, provided that the behaviour
engine recorded the logprobs of the distribution it sampled from and truncated nothing. So a mean
ratio off 1 means that the behaviour engine recorded the wrong logprobs.
"""

INTERVALS = """\
## Intervals

Tokens of one prompt share a context, and samples share a prompt, so every interval is clustered by
prompt (`stats.cluster_by`):

- means: the ratio of sums M = Σsᵢ / Σnᵢ over clusters, SE² = G/(G−1) · Σ(sᵢ − M nᵢ)² / (Σnᵢ)², M ±
  t(G−1) · SE (Miller, arXiv 2411.00640), never narrower than with Hall's correction for skewness
  (JRSS B 1992), which widens the interval towards the long tail;
- shares: never narrower than the exact binomial interval of n over its design effect (Korn and
  Graubard 1998). Zero events also have an upper bound, 3.7 / effective n at 95 %;
- quantiles: Woodruff's interval (JASA 1952) from a histogram whose bins are 0.8 % wide;
- effective sample size: BCa bootstrap over at most {folds} groups of clusters, 1,999 resamples, a
  fixed seed;
- fewer than {fewest} clusters: no interval, and no verdict.

Coverage of the printed 95 % interval, and how often a drift that is exactly at its limit is called
parity (nominal: at most 2.5 %), in 2,000 simulated runs each. Tokens are 90 % normal and 10 %
Student's t with 6 or 4 degrees of freedom, each sample and each prompt has its own offset, lengths
vary, two samples per prompt:

| tails | clusters | mean Δ | share of \\|Δ\\| > 0.03 | mean Δ² | false parity at the limit |
|---|---:|---:|---:|---:|---:|
| t6 | 16 | 96.2 % | 96.7 % | 94.2 % | 0.0 % |
| t6 | 64 | 94.8 % | 95.7 % | 95.5 % | 1.7 % |
| t6 | 256 | 95.9 % | 96.2 % | 95.7 % | 2.3 % |
| t4 | 16 | 95.3 % | 96.8 % | 93.1 % | 0.0 % |
| t4 | 64 | 95.9 % | 96.6 % | 92.8 % | 0.4 % |
| t4 | 256 | 94.6 % | 96.5 % | 94.2 % | 2.5 % |

To reproduce: `pytest tests/unit/test_coverage.py -s`. With t4 tails, Δ² has no finite variance, so
intervals of its mean, and of k2, k3 and RMS Δ, cannot reach their nominal coverage for every such
noise: over 6,000 runs they covered 91.8, 92.9 and 93.7 % (without the correction for skewness 85 to
91 %). A few tokens that a sample happens to miss dominate the value. That is why a tail fraction is
gated together with k3: its interval is valid for any tail.

## Verdicts

A limit is judged by the printed interval: inside is **parity**, wholly outside is **drift**,
anything else is **inconclusive**. A run is in parity only if every gate is, so no multiple-testing
correction is needed. Each gate reports a false drift in 2.5 % of runs whose true value is at its
limit. If an engine against itself is outside the limit, the gate is inconclusive, because no
verdict on the other engine is possible. If all compared tokens are bit-identical, parity does not
require the upper bound of rare events to be inside the limit. `required_limit` is the tightest
limit that would have passed. `prompts_needed` is (3.6 s / d)², with s the standard deviation of a
cluster's mean and d the distance from the estimate to its limit: a 90 % chance of parity if there
is no drift. For a share with zero events it follows the rule of three.
"""


CAUSES = """\
# Causes

Generated from the program's tables by `python scripts/make_reference.py`; do not edit.

The rules of the [diagnosis](../diagnosis.md) in every report. They run in the order of the table.
The effect of a cause is subtracted token by token, and the next rule checks the rest, so two faults
in one run get two findings. A cause that cannot be subtracted (a head, a batch) gets the share that
its size explains. If a share makes no sense (invalid rows), there is none.

The rules use one run: both engines' logprobs of the same tokens, their top-k alternatives matched
by id (`workload.top_logprobs`, default 5), the settings in force, and the A/A runs. Without
alternatives, `raw_logprobs` is found from the trace metadata, and `wrong_temperature`, `penalty`,
`truncated_support` and `lm_head_precision` cannot be found; the report says so. A diagnosis reads
at most {budget:,} tokens per direction: whole samples from evenly spaced parts of the trace, the
same in every analysis.

A clean pair has no finding. In 1,000 simulated clean pairs (noise from 1e-5 to 0.02 nats, five
temperatures, truncation, penalties, equal and different builds, with and without prefix caching and
alternatives) no rule gave a false alarm. To reproduce: `pytest tests/unit/test_false_alarms.py -s`.
The thresholds are in `rows.py`, `semantic.py` and `path.py` of `src/parity_check/diagnosis/`.

Three limitations: a temperature that is off by less than 1 % is not detected; `lm_head_precision`
counts gaps within {tolerance:g} of a step of a grid point, which {chance:g} % of the gaps of a
float32 head are by chance; and `other_weights` is the finding when nothing else fits, for any
difference between equal builds, and between different builds from RMS Δ {rms:g} nats on.
"""
REMEDY = """\
‹remedy› is `logprobs_mode = "processed_logprobs"` for the engine whose logprobs lack a requested
parameter, `async_scheduling = false` if that dropped a penalty, and otherwise `generation_config =
"vllm"` in its `engine_args`, with every sampling parameter in the request.
"""
UNSEEN = """\
## What a trace cannot show

These known issues need more than two traces of the same tokens:
"""
NOT_SHOWN = (
    ("OpenRLHF#1108, AReaL#1290 (training unstable after an upgrade)",
     "no cause was found: parity-check shows whether the engines differ, not why a training run "
     "is unstable"),
    ("NeMo-RL#3839 (recomputing the KV cache after an update had no effect)",
     "needs a weight update between tokens: `parity-check weight-sync`"),
    ("vllm#57970, #42695, #32103 (what a pause keeps in the cache)",
     "needs a weight update between tokens: `parity-check weight-sync`"),
    ("vllm#48310, #45617, #44972, #45619 (sleep and wake)",
     "happens between two states of one engine, and a run only sees one; after a failed wake it "
     "appears as `other_weights` or `bad_rows`, without the reason"),
    ("vllm#14722 (eager against CUDA graphs and inductor)",
     "symmetric noise looks the same from any kernel: "
     "`parity-check ablate RUN --flip enforce_eager=true,false`"),
    ("vllm#15381, #18352 (0.8.1 returns other logprobs than 0.8.0)",
     "the report was never narrowed down; a scale or an offset would be found"),
)  # fmt: skip


def metrics_page() -> str:
    """The text of metrics.md."""
    parts = [
        INTRODUCTION.format(cap=RATIO_CAP),
        *_metrics(),
        *_shown(),
        INTERVALS.format(folds=FOLDS, fewest=FEWEST_CLUSTERS),
        *_profiles(),
        *_objectives(),
        *_invalid(),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _metrics() -> Iterator[str]:
    yield (
        "## Metrics\n\nAny metric can have a limit in `[gates]`; those marked *gated* have one in "
        "the profiles."
    )
    heads = ("metric", "definition", "unit", "good is", "affected by", "source")
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
Also shown, but never gated: quantiles of |Δ| ({quantiles}) and the maximum; the tail fraction at
{tails} and at `stats.tail_threshold`; where samples first stop being bit-identical. The JSON report
also has every objective below, the clip rates of a sequence objective by length (bins from
{lengths} tokens), and mean Δ, mean |Δ| and k3 by position (bins from {positions}), by the behaviour
engine's probability (edges {surprise}) and by prompt group.
"""


def _profiles() -> Iterator[str]:
    yield (
        "## Profiles\n\n`gates.profile` selects a set of limits; a key of `[gates]` overrides one. "
        "`sequence_clip_fraction` is the limit of `clip_fraction` for objectives that compare "
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
their sum (a sequence beyond both counts once); `active`, p · high + (1 − p) · low for a share p of
positive advantages (`objective.positive_share`, unknown to an engine comparison); and `counted`,
what the framework's own counter would show. All comparisons are strict: a ratio on the edge is not
clipped. Numbers of sequences are of whole rollouts: all turns, without the tokens that the policy
did not sample. [Frameworks](frameworks.md) says which function of which file each row was held
against.

**Bypass** losses take the ratio of trainer over rollout engine, so mismatch enters the ratio: the
number is the objective's own clip rate at its first step. PipelineRL, prime-rl, torchtitan, verl
with `bypass_mode`, OpenRLHF's GSPO with IS correction, SkyRL's `rollout_is` and slime with
`--use-rollout-logprobs` do so. **Recompute** losses start at a ratio of 1 and see the mismatch in
an importance weight only: the number is the share of weights that the cap or mask would change. A
clip of theirs counts nothing at the first step. TRL has no bypass: its rows of clips say what its
edges would clip if Δ were in the ratio, and its own number is 0. A report about a bypass loss
prints the share of TIS beside its clip rate; with `objective.logprobs = "recompute"` it prints that
share alone.

`epsilon_low` and `epsilon_high` override the edges: a distance from 1 for clips (from 0 where the
edges lie around 0), the edge itself for caps, masks, `dual-clip`, `delta-trl` and `cispo-trl`.
"""
    heads = (
        "kind",
        "what",
        "loss",
        "counts what has",
        "at",
        "average over",
        "as counted by",
        "source",
    )
    yield _table(heads, [_objective(row) for row in OBJECTIVES.values()])


def _objective(row: Objective) -> Sequence[str]:
    return (
        f"`{row.name}`", f"{row.label}. {row.sentence}", row.wiring, row.edges_in_words(),
        _counts(row), f"{row.averaging}s", str(row.counter), row.source,
    )  # fmt: skip


def _counts(row: Objective) -> str:
    if row.low_counts == row.high_counts == "any":
        return "every crossing"
    sides = [] if row.low is None else [f"below at {row.low_counts} A"]
    return ", ".join([*sides, *([] if row.high is None else [f"above at {row.high_counts} A"])])


FRAMEWORKS = """\
# Frameworks

Generated from the program's own rows by `python scripts/make_reference.py`; do not edit.

What each framework counts, and which row of the [objectives](metrics.md#objectives) or
[metrics](metrics.md#metrics) is that number. *equal* means that the framework's own function, run
on the same arrays (64 sequences, 10,393 tokens, heavy tails), gave the same number within 2e-5,
with all advantages positive and with all negative: `tests/unit/test_framework_values.py`. *read*
means that the code was read and the row is tested against a slow count of the same rule, because
the framework logs no number or its function does not run by itself. What follows is the difference.

Versions: {versions}.
"""
METRIC_SOURCES = (
    ("PipelineRL", "clamped_importance_ratio", "rl/ratio_new_old (policy_loss reinforce)",
     "rl_step", "pipelinerl/finetune/rl/__init__.py"),
    ("PipelineRL", "sequence_importance_ratio", "rl/ratio_new_old (policy_loss ppo)",
     "rl_step", "pipelinerl/finetune/rl/__init__.py"),
    ("ROLL", "sequence_importance_ratio", "actor/train_infer_ratio_token_mean",
     "compute_train_infer_correction", "roll/utils/train_infer_corrections.py"),
    ("NeMo-RL", "truncated_importance_ratio", "sampling_importance_ratio (tis)",
     "ClippedPGLossFn.__call__", "nemo_rl/algorithms/loss/loss_functions.py"),
    ("verl", "truncated_importance_ratio", "rollout_corr/rollout_is_mean",
     "compute_is_metrics", "verl/trainer/ppo/rollout_corr_helper.py"),
    ("verl", "ess_truncated", "rollout_corr/rollout_is_eff_sample_size",
     "compute_is_metrics", "verl/trainer/ppo/rollout_corr_helper.py"),
)  # fmt: skip
"""Metrics that were held against a framework's own."""


def frameworks_page() -> str:
    """frameworks.md, whole."""
    held = json.loads(VALUES.read_text(encoding="utf-8"))
    versions = "; ".join(f"{name} {version}" for name, version in VERSIONS.items())
    heads = ("framework", "its number", "function", "file", "our row", "equal?")
    rows = [
        (
            each.framework, f"`{each.metric}`", f"`{each.function}`", f"`{each.file}`",
            f"`{row.name}`", _equal(held.get(each.framework, {}), row.name, each.difference),
        )
        for row in OBJECTIVES.values()
        for each in row.counters
    ]  # fmt: skip
    rows += [
        (name, f"`{metric}`", f"`{function}`", f"`{file}`", f"`{ours}`",
         _equal(held[name], ours, ""))
        for name, ours, metric, function, file in METRIC_SOURCES
    ]  # fmt: skip
    rows += [
        (each.framework, f"`{each.metric}`", f"`{each.function}`", f"`{each.file}`", "–", why)
        for each, why in NOT_ESTIMATED
    ]
    order = list(VERSIONS)
    parts = [
        FRAMEWORKS.format(versions=versions),
        _table(heads, sorted(rows, key=lambda row: order.index(row[0]))),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _equal(held: Mapping[str, object], name: str, difference: str) -> str:
    run = any(key.split()[0] == name for key in held)
    state = "equal" if run else "read"
    return f"{state}; {difference}" if difference else state


def _invalid() -> Iterator[str]:
    yield (
        "## Invalid logprobs\n\nInvalid logprobs are counted by kind, excluded from every mean, "
        "and gated at 0 (`invalid.*`). The usual causes:"
    )
    yield _table(("kind", "usual cause"), [(f"`{kind}`", words) for kind, words in KINDS.items()])


def causes_page() -> str:
    """The text of causes.md."""
    heads = ("cause", "layer", "pattern", "finding", "known cases")
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
        "## Fixes",
        _table(("cause", "fix", "confirm"), remedies),
        REMEDY,
        UNSEEN,
        _table(("case", "why two traces do not show it"), NOT_SHOWN),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _placeholders(template: str) -> str:
    """Template fields in angle quotes."""
    shown = re.sub(r"(?<!\{)\{(\w+)\}(?!\})", r"‹\1›", template)
    return shown.replace("{{", "{").replace("}}", "}")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only; write nothing")
    options = parser.parse_args()
    pages = {
        PAGES / "metrics.md": metrics_page(),
        PAGES / "causes.md": causes_page(),
        PAGES / "frameworks.md": frameworks_page(),
    }
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
