"""A document with every kind of block and of cell, for the tests of the renderers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.errors import ExitCode
from parity_check.report.document import (
    Bullets,
    Cause,
    Causes,
    Check,
    Checks,
    Code,
    Column,
    Coverage,
    Definition,
    Definitions,
    Details,
    Document,
    Figure,
    Head,
    Heading,
    Judged,
    Legend,
    Link,
    PageOnly,
    Panel,
    Row,
    Sample,
    Samples,
    Section,
    Sentence,
    Stage,
    Stages,
    Strip,
    Table,
    Token,
    Warnings,
)
from parity_check.report.record import Record, opening


@dataclass(frozen=True, slots=True, kw_only=True)
class ARecord(Record):
    numbers: tuple[dict[str, Any], ...]


HEAD = Head(
    kind="ablation",
    run_id="20261121-080000-c0de",
    created_utc="2026-11-21T08:00:00+00:00",
    command="parity-check ablate -c parity.toml",
    parity_check="0.1.0",
    config={"gates": {"profile": "standard"}},
    model={"name": "canned-1b"},
    host={"cpus": 2},
)
CHECKS = (
    Check(
        "sampled by the reference", "k3_kl", "k3 KL", "drift", "0.2 is outside", "allow 0.2", "X"
    ),
    Check("sampled by the reference", "ess", "effective sample size", "parity", "1 is inside"),
    Check(
        "sampled by the candidate", "ess", "effective sample size", "inconclusive", "few prompts"
    ),
    Check("sampled by the candidate", "k3_kl", "k3 KL", None, "the engine has no such setting"),
)
STRIP = Strip("drift", (0.0, 0.4), (0.5, 0.9), 0.7, 0.1, False, True)
GATES = Table(
    "Gates",
    (Column("metric"), Column("verdict"), Column("against the limit"), Column("value", "right")),
    (
        Row((Link("k3 KL", "metric-k3_kl"), Judged("drift"), STRIP, "2.0e-01")),
        Row(("effective sample size", Judged("parity", "at the floor"), "–", "100 %"), below=True),
    ),
)
NUMBERS = Table(
    "Numbers",
    (Column(""), Column("value", "right"), Column("", "left")),
    (Row(("first | row", "1.5", "")), Row(("second", "22.25", "← differs"), marked=True)),
)
TOKENS = Table(
    "Worst tokens",
    (Column("token"), Column("Δ", "right")),
    (Row(("<b>`|` a\u202e", "+1.0")),),
    verbatim=True,
)
CAUSE = Cause(
    "raw_logprobs", "The candidate returns raw logprobs.", ("semantic", "confidence high"),
    ("slope 0.8",), 'set logprobs_mode = "processed_logprobs"', "parity-check ablate RUN",
)  # fmt: skip
REMARK = Cause(
    "fp16_head", "The candidate's head ran in float16.", ("inference path", "explains 1 % of E|Δ|"),
    ("slope 0.99",), 'set lm_head_dtype = "float32"', "parity-check ablate OTHER",
)  # fmt: skip
STAGES = (
    Stage("semantic", "fail", "found: raw_logprobs"),
    Stage("inference path", "not reached", "the layer before it has to pass first"),
    Stage("objective", "unknown", "ask the loss"),
)
TOKEN = Token(3, 17, "<b>", -1.0, -1.5, -0.5, 0.6, -3)
BROKEN = Token(4, 18, "\n", float("nan"), -1.5, None, None, 0)
SAMPLES = Samples(
    (Sample("p01/0", "2 tokens", "the end", 90, (TOKEN, BROKEN)),), (0.01, 0.05, 0.2, 1.0)
)
FIGURE = Figure(
    "line", "A line", "It rises.",
    (Panel(lambda axes: axes.plot([0, 1], [0, 1]), "n = 2", "A line from 0 to 1."),),
)  # fmt: skip

DOCUMENT = Document(
    head=HEAD,
    title="vllm 0.18.1 against vllm 0.8.5",
    verdict="drift",
    exit_code=ExitCode.DRIFT,
    outcome="1 of 3 checks outside their limits",
    lead="k3 KL 0.2 is outside the limit",
    facts={"candidate": "vllm 0.18.1, V1"},
    sections=(
        Section(
            "compared",
            "Compared",
            (Sentence("workload: 24 prompts in `a.jsonl`, < 3 of them long"), NUMBERS),
            early=True,
        ),
        Section("pictures", "Pictures", (FIGURE,)),
        Section("samples", "Samples", (PageOnly((SAMPLES,)), Details("Worst tokens", (TOKENS,)))),
        Section(
            "numbers",
            "Numbers",
            (Heading("sampled by the reference"), GATES, Sentence("no sample differs", muted=True)),
        ),
        Section("legend", "Definitions", (
            Legend(("Δ = evaluating − behaviour", "ratio = exp Δ")),
            Definitions((Definition("metric-k3_kl", "k3 KL", "k3_kl", "mean k3", "Schulman"),)),
        )),
        Section("gates", "Gates", (
            PageOnly((GATES,)),
            Checks("sampled by the reference", CHECKS[:2]),
            Checks("sampled by the candidate", CHECKS[2:], every=True),
        ), early=True),
        Section("findings", "Findings", (
            Stages("layers, in this order", STAGES),
            Causes((CAUSE,), "No known cause matched.", (REMARK,)),
        ), early=True),
        Section("warnings", "Warnings", (Warnings((("mixed", "raw and processed"),)),), early=True),
        Section("repeat", "Repeat", (
            Bullets(("first", "second")),
            Code("parity-check ablate -c config.toml", "Command"),
            Details("The configuration", (Code("[gates]\nx = 1", "Configuration"),)),
        )),
    ),
    coverage=Coverage(("rollouts of the reference",), ("rollouts of the reference",)),
    record=ARecord(
        **opening(HEAD, "drift", ExitCode.DRIFT),
        numbers=(
            {"value": 0.5, "deep": {"a": float("nan")}, "list": ()},
            {"value": float("inf"), "evidence": ("a", "b")},
            {},
        ),
    ),
)  # fmt: skip
