"""The cases: engines by name, and pairs of engines with one fault or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from faults import edits
from faults.edits import Edit

V1_VERSIONS = {"0.18.1": "0.18.1", "0.32": "0.32.0"}
PARITY = {
    "logprobs_mode": "processed_logprobs",
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "lm_head_dtype": "float32",
}


@dataclass(frozen=True)
class Station:
    """An engine configuration, started once for all cases that use it.

    `version` None is the selected V1 version. `checkpoint` is a bundled model or one of
    faults.checkpoints. `injects` loads the extension of faults.injected.
    """

    version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = "tiny"
    injects: bool = False


STATIONS = {
    "v0": Station("0.8.5.post2"),
    "v0-bf16-head": Station("0.8.5.post2", {"lm_head_dtype": "model"}),
    "v0-next": Station("0.8.5.post2", checkpoint="tiny-next"),
    "v0-tied": Station("0.8.5.post2", checkpoint="tied"),
    "v1": Station(),
    "v1-raw": Station(settings={"logprobs_mode": "default"}),
    "v1-bf16-head": Station(settings={"lm_head_dtype": "model"}),
    "v1-raw-bf16-head": Station(settings={"logprobs_mode": "default", "lm_head_dtype": "default"}),
    "v1-perturbed": Station(checkpoint="perturbed"),
    "v1-next": Station(checkpoint="tiny-next"),
    "v1-tied": Station(checkpoint="tied"),
    "v1-injecting": Station(engine_args={"generation_config": "auto"}, checkpoint="penalised"),
    "v1-caching": Station(settings={"enable_prefix_caching": True}, injects=True),
    "v1-faulty": Station(injects=True),
    "0.18.1-rope": Station("0.18.1", checkpoint="rope"),
    "0.32-rope": Station("0.32.0", checkpoint="rope"),
    "0.32": Station("0.32.0"),
}


@dataclass(frozen=True)
class Side:
    """One engine of a pair, and its faults.

    `passed` are sampling parameters that replace the workload's, `returned` those that only its
    logprobs follow. `single_bos`: drop one of two leading BOS. `as_text`: pass the completion as
    text, and tokenize it again. `order` is for faults.injected.
    """

    station: str
    passed: Mapping[str, float] = field(default_factory=dict)
    returned: Mapping[str, float] = field(default_factory=dict)
    single_bos: bool = False
    as_text: bool = False
    edit: Edit | None = None
    order: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A pair, and the accepted causes of its first finding; none for a clean pair.

    `also` must be found as well. `doubled` adds a second BOS to every prompt.
    """

    name: str
    what: str
    expected: tuple[str, ...]
    reference: Side
    candidate: Side
    workload: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    doubled: bool = False

    @property
    def edited(self) -> bool:
        """Whether a fault is in the traces."""
        return any(side.edit is not None for side in (self.reference, self.candidate))

    def without_edits(self, clean: Case) -> Case:
        """The case without its edits, called like a clean one to be compared with it."""
        sides = {role: replace(getattr(self, role), edit=None) for role in PAIR}
        named = replace(self, name=clean.name, what=clean.what, expected=(), also=())
        return replace(named, **sides)


def side(station: str, **faults: Any) -> Side:
    return Side(station, **faults)


V0, V1 = side("v0"), side("v1")
LN2, LN10 = math.log(2.0), math.log(10.0)
PAIR = {"reference": V0, "candidate": V1}

FAULTS = (
    # --- from the engine to the trace ---
    Case(
        "off-by-one", "the candidate's logprobs are one token late",
        ("off_by_one",), V0, side("v1", edit=edits.shift_by_one),
    ),
    Case(
        "zero-tails", "the last quarter of the candidate's logprobs padded with zeros",
        ("bad_rows",), V0, side("v1", edit=edits.pad_with_zeros),
    ),
    Case(
        "bad-rows", "2 % of the candidate's logprobs None, NaN or −9999",
        ("bad_rows",), V0, side("v1", edit=edits.lose_rows),
    ),
    Case(
        "duplicated-top", "the sampled token twice among the alternatives, in 30 % of the rows",
        ("bad_rows",), V0, side("v1", edit=edits.duplicate_sampled),
    ),
    Case(
        "two-bos", "prompts with two BOS, of which the candidate sees one",
        ("bos_twice",), V0, side("v1", single_bos=True), doubled=True,
    ),
    Case(
        "re-tokenised", "the candidate gets the completions as text, T = 1.3",
        ("retokenised",), V0, side("v1", as_text=True),
        {"temperature": 1.3, "sampled_by": "reference"},
    ),
    # --- the meaning of the number ---
    Case(
        "temperature", "T = 0.8 requested, 0.6 passed to the candidate",
        ("wrong_temperature",), V0, side("v1", passed={"temperature": 0.6}), {"temperature": 0.8},
    ),
    Case(
        "top-p", "top-p 0.8: the candidate's logprobs not renormalised",
        ("truncated_support",), V0, side("v1", returned={"top_p": 1.0}), {"top_p": 0.8},
    ),
    Case(
        "top-k", "top-k 20: the reference's logprobs not renormalised",
        ("truncated_support",), side("v0", returned={"top_k": -1}), V1, {"top_k": 20},
    ),
    Case(
        "min-p", "min-p 0.05: the candidate's logprobs not renormalised",
        ("truncated_support",), V0, side("v1", returned={"min_p": 0.0}), {"min_p": 0.05},
    ),
    Case(
        "min-p-with-top-p", "min-p 0.1 with top-p 0.8, which V0 and V1 apply in a different order",
        ("truncation_order", "truncated_support"), V0, V1,
        {"temperature": 0.7, "top_p": 0.8, "min_p": 0.1},
    ),
    Case(
        "presence-penalty", "presence penalty 0.5 on the candidate, not requested",
        ("penalty",), V0, side("v1", passed={"presence_penalty": 0.5}),
    ),
    Case(
        "repetition-penalty", "repetition penalty 1.1 from the candidate's generation_config",
        ("penalty",), V0, side("v1-injecting", passed={"repetition_penalty": 1.1}),
    ),
    Case("raw-0.6", "raw logprobs at T = 0.6", ("raw_logprobs",), V0, side("v1-raw"),
         {"temperature": 0.6}),
    Case("raw-1.3", "raw logprobs at T = 1.3", ("raw_logprobs",), V0, side("v1-raw"),
         {"temperature": 1.3}),
    Case(
        "raw-and-bf16-head", "two faults: raw logprobs at T = 0.7, and a bfloat16 head",
        ("raw_logprobs",), V0, side("v1-raw-bf16-head"), {"temperature": 0.7},
        also=("lm_head_precision",),
    ),
    # --- the computation ---
    Case("bf16-head-candidate", "the candidate's head in bfloat16", ("lm_head_precision",),
         V0, side("v1-bf16-head")),
    Case("bf16-head-reference", "the reference's head in bfloat16", ("lm_head_precision",),
         side("v0-bf16-head"), V1),
    Case(
        "onset-97", "an error of 0.3 nats in the logits from position 97 on",
        ("onset",), V0, side("v1-faulty", order={"noise": 0.3, "onset": 97}), {"max_tokens": 96},
    ),
    Case(
        "batch-size", "an error of 0.1 nats in the logits that depends on the batch size",
        ("batch_variance",), V0, side("v1-faulty", order={"noise": 0.1, "by_batch": True}),
    ),
    Case(
        "prefix-cache", "a prefix cache kept across a weight update",
        ("prefix_cache",), side("v0-next"), side("v1-caching", order={"reload": "tiny-next"}),
    ),
    Case("perturbed-layer", "an error of 30 % in the matrices of one layer of the candidate",
         ("other_weights",), V0, side("v1-perturbed")),
    Case("other-checkpoint", "another checkpoint of the same shape on the candidate",
         ("other_weights",), V0, side("v1-next")),
    Case("rope-base", "a RoPE base that the candidate's transformers misreads",
         ("rope_base",), side("0.32-rope"), side("0.18.1-rope")),
    # --- the form of the number, one side each ---
    *(
        Case(f"{name}-{role}", f"{what}, on the {role}", causes, **{**PAIR, role: edited})
        for name, what, causes, edit in (
            ("log2", "logprobs in base 2", ("other_base",), edits.each(lambda v: v / LN2)),
            ("log10", "logprobs in base 10", ("other_base",), edits.each(lambda v: v / LN10)),
            ("negated", "losses in place of logprobs", ("negated",), edits.each(lambda v: -v)),
            ("probabilities", "probabilities", ("negated",), edits.each(math.exp)),
            ("cumulated", "sums from the start of the sample", ("summed",), edits.cumulate),
            ("total", "the sum of the sample at every token", ("summed",), edits.total),
            ("averaged", "divided by the length", ("averaged",), edits.divide_by_length),
            ("argmax", "the largest logprob of each position", ("argmax",), edits.take_likeliest),
            ("clamped", "clamped at -4 nats", ("clamped",),
             edits.each(lambda v: max(v, edits.LIMIT))),
            ("2-decimals", "rounded to 2 decimals", ("rounded",),
             edits.each(lambda v: round(v, 2))),
            ("bfloat16", "stored as bfloat16", ("rounded",), edits.each(edits.to_bfloat16)),
            ("float16", "stored as float16", ("rounded",), edits.each(edits.to_float16)),
            ("eos", "an EOS that was not sampled", ("appended_eos",), edits.zero_last),
            ("first-token", "the first token off", ("first_token",), edits.break_first),
            ("grammar", "six of seven tokens dictated", ("constrained_decoding",), edits.dictate),
            ("lost-to-zero", "2 % of the logprobs 0", ("isolated_zeros",), edits.lose_to_zero),
            ("burst", "17 % of the prompts off", ("outlier_samples",), edits.burst),
            ("bias", "-3 nats on one id", ("biased_ids",), edits.bias_ids),
        )
        for role, edited in (
            ("reference", side("v0", edit=edit)), ("candidate", side("v1", edit=edit)),
        )
    ),
)  # fmt: skip

CLEAN = (
    Case("clean-a-a-v1", "V1 against itself, with a different random state", (), V1, V1),
    Case("clean-a-a-v0", "V0 against itself, with a different random state", (), V0, V0),
    Case("clean-t-1", "V0 against V1, all four settings equal, T = 1", (), V0, V1),
    Case("clean-t-0.6", "the same at T = 0.6", (), V0, V1, {"temperature": 0.6}),
    Case("clean-t-1.3", "the same at T = 1.3", (), V0, V1, {"temperature": 1.3}),
    Case("clean-greedy", "the same, greedy", (), V0, V1, {"temperature": 0.0}),
    Case("clean-short", "the same, 8 tokens per completion", (), V0, V1, {"max_tokens": 8}),
    Case("clean-long", "the same, 160 tokens per completion", (), V0, V1,
         {"max_tokens": 160, "ignore_eos": True}),
    Case("clean-penalty", "the same, a repetition penalty of 1.1 on both sides", (), V0, V1,
         {"repetition_penalty": 1.1}),
    Case("clean-top-k", "V1 against 0.32, top-k 20 on both sides", (), V1, side("0.32"),
         {"top_k": 20}),
    Case("clean-v1-0.32", "V1 against 0.32", (), V1, side("0.32"), {"temperature": 0.8}),
    Case("clean-v0-0.32", "V0 against 0.32", (), V0, side("0.32"), {"temperature": 0.8}),
    Case("clean-swapped", "V1 as the reference, V0 as the candidate", (), V1, V0),
    Case("clean-prefix-cache", "a healthy prefix cache on the candidate", (),
         V1, side("v1-caching")),
    Case("clean-tied", "V0 against V1, tied embeddings", (), side("v0-tied"), side("v1-tied")),
    Case("clean-t-0.4", "the same at T = 0.4", (), V0, V1, {"temperature": 0.4}),
    Case("clean-t-0.8", "the same at T = 0.8", (), V0, V1, {"temperature": 0.8}),
    Case("clean-t-1.6", "the same at T = 1.6", (), V0, V1, {"temperature": 1.6}),
    Case("clean-top-p", "V1 against 0.32, top-p 0.9 on both sides", (), V1, side("0.32"),
         {"top_p": 0.9}),
    Case("clean-top-p-v0", "V0 against V1, top-p 0.95 on both sides", (), V0, V1,
         {"top_p": 0.95}),
    Case("clean-min-p", "min-p 0.05 on both sides", (), V0, V1, {"min_p": 0.05}),
    Case("clean-top-k-v0", "top-k 50 on both sides", (), V0, V1, {"top_k": 50}),
    Case("clean-presence", "a presence penalty of 0.5 on both sides", (), V0, V1,
         {"presence_penalty": 0.5}),
    Case("clean-frequency", "a frequency penalty of 0.4 on both sides", (), V0, V1,
         {"frequency_penalty": 0.4}),
    Case("clean-4-tokens", "4 tokens per completion", (), V0, V1, {"max_tokens": 4}),
    Case("clean-16-tokens", "16 tokens per completion", (), V0, V1, {"max_tokens": 16}),
    Case("clean-ignore-eos", "96 tokens per completion, no EOS", (), V0, V1,
         {"max_tokens": 96, "ignore_eos": True}),
    Case("clean-4-samples", "4 samples per prompt", (), V0, V1, {"samples_per_prompt": 4}),
    Case("clean-no-top", "no alternatives", (), V0, V1, {"top_logprobs": 0}),
    Case("clean-no-top-0.6", "no alternatives, T = 0.6", (), V0, V1,
         {"top_logprobs": 0, "temperature": 0.6}),
    Case("clean-no-top-swapped", "no alternatives, V1 as the reference", (), V1, V0,
         {"top_logprobs": 0}),
    Case("clean-top-1", "one alternative", (), V0, V1, {"top_logprobs": 1}),
    Case("clean-by-reference", "sampled by the reference alone", (), V0, V1,
         {"sampled_by": "reference"}),
    Case("clean-by-candidate", "sampled by the candidate alone", (), V0, V1,
         {"sampled_by": "candidate"}),
    Case("clean-32-swapped", "0.32 as the reference, V0 as the candidate", (), side("0.32"), V0),
    Case("clean-32-long", "V1 against 0.32, 160 tokens per completion", (), V1, side("0.32"),
         {"max_tokens": 160, "ignore_eos": True}),
    Case("clean-next", "another checkpoint on both sides", (), side("v0-next"), side("v1-next")),
    Case("clean-next-0.7", "the same at T = 0.7", (), side("v0-next"), side("v1-next"),
         {"temperature": 0.7}),
    Case("clean-tied-0.7", "tied embeddings at T = 0.7", (), side("v0-tied"), side("v1-tied"),
         {"temperature": 0.7}),
    Case("clean-both-bf16", "bfloat16 heads on both sides", (), side("v0-bf16-head"),
         side("v1-bf16-head")),
)  # fmt: skip

# Cases with the same engines are adjacent, and a healthy cache comes before a stale one.
ORDER = (
    "v1-caching", "0.32", "v1-next", "v1-perturbed", "v1-faulty", "v1", "v0",
    "v1-raw", "v1-raw-bf16-head", "v1-bf16-head", "v0-bf16-head", "v1-injecting", "v1-tied",
    "0.18.1-rope",
)  # fmt: skip


def all_cases() -> tuple[Case, ...]:
    """All cases, in the order with the fewest engine starts."""
    found = [*CLEAN, *FAULTS]
    found.sort(key=lambda case: min(_place(case.reference), _place(case.candidate)))
    return tuple(found)


def _place(side: Side) -> int:
    return ORDER.index(side.station) if side.station in ORDER else len(ORDER)
