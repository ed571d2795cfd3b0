"""Write docs/reference/{metrics,causes,frameworks,cli}.md from the program's own tables.

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

from commands_page import commands_page
from parity_check.comparison.diagnose import TOKEN_BUDGET
from parity_check.diagnosis.grid import FALSE_POSITIVES, TOLERANCE
from parity_check.diagnosis.path import KERNEL_RMS
from parity_check.diagnosis.rules import RULES
from parity_check.measure.accumulator import POSITION_EDGES, SURPRISAL_EDGES
from parity_check.measure.gates import MOST_CERTAIN, MOST_REPEATED
from parity_check.measure.invalid import IMPOSSIBLE, KINDS
from parity_check.measure.limits import PROFILES
from parity_check.measure.measure import LENGTH_EDGES, QUANTILES, TAIL_THRESHOLDS
from parity_check.measure.metrics import METRICS, RATIO_CAP, Metric
from parity_check.measure.objectives import NOT_ESTIMATED, OBJECTIVES, VERSIONS, Objective
from parity_check.measure.stats import (
    FEWEST_CLUSTERS,
    FOLDS,
    LONG_TAIL_DEGREES,
    SETTLING_ERRORS,
    SKEWNESS_BIAS,
    UNSEEN_LOG_RATIO,
)
from parity_check.measure.worth import SMALL_PART
from parity_check.report.numbers import number

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SIMULATED = Path(__file__).parent / "simulated_intervals.md"
"""What `simulate_intervals.py` printed."""
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

Tokens of one prompt share a context, and samples share a prompt, so all intervals are clustered by
prompt. `stats.cluster_by` sets the independent unit: `"prompt"`, `"group"` (all prompts of one
`prompt_group`), `"sample"`, or a column of the prompts file, where a prompt without a value is
independent of all others. Prompts with a common beginning are not independent: if families of 8
prompts with a common effect of 0.2 are counted as single prompts, the intervals cover the truth in
only half of the runs. The warning `shared-prefixes` appears if prompts share half of their tokens;
a beginning that more than half of them have, such as a system prompt, does not count.

- Means: M = Σsᵢ / Σnᵢ over clusters, SE² = Σ(sᵢ − M nᵢ)² / (1 − hᵢ) / (Σnᵢ)² with hᵢ = nᵢ / Σn, the
  CR2 correction for few and unequal clusters (Bell and McCaffrey 2002); t with Satterthwaite's
  degrees of freedom (Imbens and Kolesár 2016) for variances that grow as nᵢ². Hall's correction for
  skewness (JRSS B 1992) widens the end on the side of the longer tail. The skewness is multiplied
  by 1 + {bias:g} / √(degrees + 1), because few clusters underestimate it.
- Quantities with one long tail (k3, |Δ|, ESS, shares): the upper end divides the degrees of freedom
  by {degrees:g}, because the error is small in runs with a small mean.
- Shares: never narrower than the exact binomial interval. A share of 0 also has an upper end, 3.7
  / n at 95 %. **This assumes independent tokens.** If whole requests fail, the number of samples
  matters, or of prompts: `burst_fraction` and `burst_cluster_fraction` are bounded and gated by
  samples and by prompts, at limits that follow from that of k3. They are wider than the limit of
  the tail, which is for tokens that fail one by one: at `standard`, whole samples may hold 2e-4 of
  the tokens in the tail and go unseen, as the table on every gate of a run shows below. To exclude
  that, set `gates.burst_fraction`.
- Samples of unequal length: a fault may strike only those above some length. They hold a part a of
  all tokens and are worth m = (Σn)² / Σn² equal ones, so up to a (1 − 0.025^(1 / m)) of all tokens
  are in bursts that the sample does not contain. The length for which this is most decides (of
  clusters the length of their samples, the tokens of each of their prompts, or all their tokens if
  the large ones hold {part:g} % of them), and n is the number of equal samples, or prompts, that
  leave as much unseen (`effective_samples`, `effective_clusters` of a direction). Where lengths
  are spread evenly, 2,500 samples of 32 to 64 tokens are worth 1,900, of 1 to 4,000 tokens half as
  many as there are.
- k3, the mean ratio and ESS: a sample alone cannot bound a mean, because a tail that it does not
  contain may dominate. Their far end includes the larger of two: unseen tokens with Δ = {unseen:g}
  nats, 16, 19 and 364 (of 1 / ESS − 1) times 3.7 / n; and, but for ESS, unseen clusters with
  N(0, 1) noise, 0.65 times 3.7 / that number of clusters, or of samples if it is smaller. A fault
  of one token of every sample of a prompt, such as its first, is neither: many short samples of few
  prompts can miss it. Larger
  errors can carry more and go unseen. Tokens further up are visible in the other sampling
  direction, where they are e^Δ times as frequent; a run with one direction cannot exclude them.
  Bursts further down, such as Δ near -8 from a corrupted cache, have a k3 of 7 a token: twice the
  limit of k3 at `standard` is then one prompt in 3,500, which a run of 2,500 misses in half of the
  cases, and in both directions in a quarter. Mean Δ, RMS Δ and the quantiles have no such
  allowance: where no token varies, their interval has no width (77 % coverage below, with 12
  prompts). The gate on the tail bounds the share of such tokens.
- ESS: the interval of 1 / ESS − 1, linearised.
- Quantiles: Woodruff's interval (JASA 1952) from a histogram whose bins are 0.8 % wide, over at
  most {folds} groups of clusters.
- Below {fewest} clusters there is no interval and no verdict. This refers to the effective number,
  (Σn)² / Σn² (`effective_clusters` of an estimate): 50 prompts of 1 to 4,000 tokens are worth 12.

How often the printed 95 % interval covers the truth, in 2,000 simulated runs each
(`python scripts/simulate_intervals.py`; the method was chosen with other seeds). In brackets: with
the allowance for unseen tokens, if that changes it. Tokens of a prompt are correlated, or follow
Student's t; for t, ESS has no true value, because the exponential has no mean.

{coverage}

Samples of this size contain few rare tokens and bursts. Their k3 and ESS are covered only because
of the allowance. If whole samples or prompts fail, the tail share is not: the burst share is.

How often a value at its limit, or at twice its limit, is judged parity, and a value at half its
limit drift: the worst of the metrics above, and for bursts that of k3, ESS and the burst share.

{errors}

## Verdicts

A limit is judged by the printed interval: inside is **parity**, wholly outside is **drift**,
anything else is **inconclusive**. A run is in parity only if every gate is, so no correction for
multiple gates is needed. A run drifts if any gate drifts: for a run that is exactly at its limit,
each gate is wrong in at most 2.5 % of runs. This is not corrected, so that verdicts match the
printed intervals; the report prints the sum over its gates (`False drift: …`). Over all gates of a
run:

{runs}

ESS keeps its allowance for unseen tokens although it asks for most tokens (133,000 for the standard
profile): without it, a pair at the limit is called parity in 15 % of runs. Samples of 55 tokens or
more do not notice, because the limits on bursts ask for 2,458 samples and prompts.

With `num_prompts = "enough"`, `compare` judges a run at up to four looks whose sizes are fixed
beforehand, each twice the one before, and stops at the first that decides every gate. Every
interval has a confidence of 98.75 % instead of 95 % then (Bonferroni), because each look is a
further chance to be wrong. The same errors, at any of the looks, and what they would be without the
correction:

{looks}

If an engine against itself is outside the limit, the gate is inconclusive: no verdict on the other
engine is possible. Bit-identical tokens need as many as any others: two engines that differ only in
rare events look the same in a small sample. The profile `exact` requires that the compared tokens
are bit-identical, in at least 8 prompts, and says nothing of others. A side without any usable
logprob is drift, because of its invalid logprobs. Logprobs that say nothing are no parity: if over
{certain:g} % of the tokens have a logprob of 0 on both sides, or over {repeated:g} % of the others
repeat those of the token before them on both sides, or over {repeated:g} % of all are in samples
that begin with the logprobs of a sample with other tokens, every gate is inconclusive that is not
drift.
`required_limit` is the limit that would just have passed. `prompts_needed` is the smallest number
of clusters G (as prompts) with {settling:g} s / √G + u / G below the distance from the
estimate to its limit, where s is the spread of cluster means and u what a cluster leaves unseen.
The factor was chosen so that new runs of the largest number that any gate asks for settle all gates
in nine of ten cases. `prompts_if_clean` is the same with the estimate at its target: the number if
nothing drifts. Before a run, `compare` and `doctor -c` print what the bounds on unseen events ask
for: a limit p on a share needs {rule:.1f} / p tokens, samples or clusters, whichever it counts.

A token with a logprob below −28 nats cannot have been sampled; `impossible_fraction` counts such
tokens, and they are excluded from every mean. vLLM divides the probabilities by exponential
variates and takes the largest quotient. torch 2.6 on CPU (vLLM 0.8.5) returns 1.2e-38 for one
variate in about 33 million; then any token with a probability above 0 in float32 can win: one token
in 33 million / vocabulary size, 1 in 8,000 with 4,096 entries, 1 in 220 with 151,936. torch 2.10
does not have this defect.
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
float32 head are by chance; and `different_computation` is the finding when nothing else fits, for
any difference between equal builds, and between different builds from RMS Δ {rms:g} nats on.
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
     "appears as `different_computation` or `bad_rows`, without the reason"),
    ("vllm#14722 (eager against CUDA graphs and inductor)",
     "symmetric noise looks the same from any kernel: "
     "`parity-check ablate RUN --flip enforce_eager=true,false`"),
    ("vllm#15381, #18352 (0.8.1 returns other logprobs than 0.8.0)",
     "the report was never narrowed down; a scale or an offset would be found"),
)  # fmt: skip


def metrics_page() -> str:
    """The text of metrics.md."""
    coverage, errors, looks, runs = SIMULATED.read_text(encoding="utf-8").rstrip().split("\n\n")
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
            impossible=IMPOSSIBLE,
            coverage=coverage,
            settling=SETTLING_ERRORS,
            rule=-math.log(0.025),
            certain=100 * MOST_CERTAIN,
            part=100 * SMALL_PART,
            repeated=100 * MOST_REPEATED,
            errors=errors,
            looks=looks,
            runs=runs,
        ),
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

`[objective] kind` sets the objective of `clip_fraction`. All objectives are estimated in every run
and are in the JSON report, with these parts: `low` and `high`, the shares beyond each edge; `band`,
their sum (a sequence beyond both counts once); `active`, p · high + (1 − p) · low for a share p of
positive advantages (`objective.positive_share`, unknown to an engine comparison); and `counted`,
what the framework's own counter would show. All comparisons are strict: a ratio on the edge is not
clipped. Sequence metrics are computed over whole rollouts: all turns, without the tokens that the
policy did not sample. [Frameworks](frameworks.md) has the function and file that each row was
tested against.

**Bypass** losses take the ratio of trainer over rollout engine, so mismatch enters the ratio: the
number is the objective's own clip rate at its first step. PipelineRL, prime-rl, torchtitan, verl
with `bypass_mode`, OpenRLHF's GSPO with IS correction, SkyRL's `rollout_is` and slime with
`--use-rollout-logprobs` work this way. **Recompute** losses start at a ratio of 1; the mismatch
only enters an importance weight, and the number is the share of weights that the cap or mask would
change. Their clips count nothing at the first step. TRL has no bypass: its clip rows show what its
edges would clip if Δ were in the ratio, and its own number is 0. The report of a bypass loss prints
the TIS share next to the clip rate; with `objective.logprobs = "recompute"` it only prints that
share.

`epsilon_low` and `epsilon_high` override the edges: a distance from 1 for clips (from 0 if the
edges are around 0), the edge itself for caps, masks, `dual-clip`, `delta-trl` and `cispo-trl`.
"""
    heads = (
        "kind",
        "what",
        "loss",
        "counts",
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

Generated from the program's tables by `python scripts/make_reference.py`; do not edit.

The metrics that each framework logs, and the row of the [objectives](metrics.md#objectives) or
[metrics](metrics.md#metrics) with the same number. *equal*: the framework's own function, run on
the same arrays (64 sequences, 10,393 tokens, heavy tails), gave the same number within 2e-5, with
all advantages positive and with all negative (`tests/unit/test_framework_values.py`). *read*: the
row follows the framework's code and is tested against a slow count of the same rule, because the
framework logs no number or its function does not run by itself. A difference is stated after it.

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
"""Metrics that were tested against a framework's own."""


def frameworks_page() -> str:
    """The text of frameworks.md."""
    held = json.loads(VALUES.read_text(encoding="utf-8"))
    versions = "; ".join(f"{name} {version}" for name, version in VERSIONS.items())
    heads = ("framework", "its metric", "function", "file", "row", "equal?")
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
        PAGES / "cli.md": commands_page(),
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
