"""Cases that the field met (numbers of research: 36), injected into synthetic pairs.

What a pair of traces cannot show is listed in docs/reference/causes.md with the reason;
`NOT_SHOWN` keeps the count complete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.synthetic import SETTINGS, Engine, Pair, Rows, Text, causes, diagnosis_of
from parity_check.traces.batch import SampleBatch

NOISE = 0.005
RAW = Engine(noise=NOISE, raw=True)
CLEAN = Engine(noise=NOISE)


def engine(**sampling: float) -> Engine:
    """One whose logprobs follow other parameters than those that were requested."""
    return Engine(noise=NOISE, sampling=sampling)


def with_facts(base: Engine, **facts: Any) -> Engine:
    return replace(base, facts={**base.facts, **facts})


def from_context(start: int, error: float) -> Any:
    """An error of the logits from a context length on."""

    def compute(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        late = (text.context >= start)[:, None]
        return logits + late * error * rng.normal(size=logits.shape)

    return compute


def behind_shared_prefix(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
    """Wrong in every second prompt, whose prefix others have too."""
    return logits + 0.3 * (text.number % 2) * rng.normal(size=logits.shape)


def rounded(bits: int) -> Any:
    """A head that rounds its logits to so many significant bits."""

    def compute(_: np.random.Generator, __: Text, logits: Rows) -> Rows:
        fraction, exponent = np.frexp(logits)
        return np.ldexp(np.round(fraction * 2.0**bits) / 2.0**bits, exponent)

    return compute


def few_requests_garbled(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
    """One in sixteen requests loses its state for a few tokens at its end."""
    if text.number % 16:
        return logits
    late = (text.context >= text.context[-1] - 5)[:, None]
    return logits + late * 6.0 * rng.normal(size=logits.shape)


def routed_elsewhere(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
    """An expert is exchanged for another at one token in a hundred."""
    other = rng.random((len(logits), 1)) < 0.01
    return logits + other * 5.0 * rng.normal(size=logits.shape)


def everywhere(error: float) -> Any:
    def compute(rng: np.random.Generator, _: Text, logits: Rows) -> Rows:
        return logits + error * rng.normal(size=logits.shape)

    return compute


def later_by_one(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
    """The second batch's rows one token late."""
    moved = {}
    for name in ("logprobs", "top_token_ids", "top_logprobs"):
        rows = np.roll(getattr(other, name), 1, axis=0)
        rows[other.starts[:-1]] = getattr(other, name)[other.starts[:-1]]
        moved[name] = rows
    return own, replace(other, **moved)


def merged_token(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
    """Two tokens became one a third into every fourth sample; what is missing is zeros."""
    logprobs, ids = other.logprobs.copy(), np.array(other.top_token_ids)
    for first, last in list(zip(other.starts[:-1], other.starts[1:], strict=True))[::4]:
        cut = int(first + (last - first) // 3)
        logprobs[cut : last - 1] = other.logprobs[cut + 1 : last]
        logprobs[last - 1] = 0.0
        ids[cut:last] = -1
    return own, replace(other, logprobs=logprobs, top_token_ids=ids)


def zero_tails(logprobs: NDArray[np.float32], _: np.random.Generator) -> NDArray[np.float32]:
    padded = logprobs.copy()
    padded[-200:] = 0.0
    return padded


def defects(**counts: int) -> dict[str, Any]:
    return {"defects": counts}


@dataclass(frozen=True)
class Field:
    """A case of the field: its number, and the pair that shows it."""

    number: int
    what: str
    named: str
    pair: Pair


T06, T07 = {"temperature": 0.6}, {"temperature": 0.7}
ONE_SIDED = {"samplers": ("reference",)}
SHOWN = (
    Field(1, "T = 0.6, raw", "raw_logprobs", Pair(candidate=RAW, sampling=T06)),
    Field(
        2, "processed without temperature (0.10.0)", "raw_logprobs",
        Pair(candidate=with_facts(RAW, distribution="processed"), sampling=T06),
    ),
    Field(3, "the other engine is the raw one", "raw_logprobs",
          Pair(reference=RAW, sampling={"temperature": 1.3})),
    Field(4, "top-p on one side", "truncated_support",
          Pair(candidate=engine(top_p=1.0), sampling={"top_p": 0.8})),
    Field(4, "top-k on one side", "truncated_support",
          Pair(reference=engine(top_k=-1), sampling={"top_k": 10})),
    Field(4, "min-p on one side", "truncated_support",
          Pair(candidate=engine(min_p=0.0), sampling={"min_p": 0.05})),
    Field(5, "repetition penalty from generation_config", "penalty",
          Pair(candidate=with_facts(
              engine(repetition_penalty=1.1),
              model={"sampling_defaults": "repetition_penalty 1.1"},
          ))),
    Field(6, "the same at another temperature", "penalty",
          Pair(candidate=engine(repetition_penalty=1.2), sampling=T07)),
    Field(7, "raw logprobs with top-p at T = 1", "raw_logprobs",
          Pair(candidate=RAW, sampling={"top_p": 0.9})),
    Field(9, "cascade attention over a shared prefix", "shared_prefix",
          Pair(candidate=Engine(noise=NOISE, compute=behind_shared_prefix),
               samples=1, same_prefix=32)),
    Field(10, "prefix cache across a weight update", "prefix_cache",
          Pair(candidate=with_facts(
              Engine(noise=NOISE, compute=behind_shared_prefix),
              settings={**SETTINGS, "enable_prefix_caching": True},
              config={"block_size": 32},
          ), samples=1, same_prefix=40)),
    Field(13, "a derived weight was not refreshed", "different_computation",
          Pair(candidate=Engine(compute=everywhere(1.0)))),
    Field(14, "fp8 KV cache, a tile of 96", "onset",
          Pair(candidate=Engine(noise=NOISE, compute=from_context(97, 0.3)),
               length=(90, 140))),
    Field(16, "a text round trip", "retokenised", Pair(edit=merged_token, **ONE_SIDED)),
    Field(17, "logprobs one token late", "off_by_one", Pair(edit=later_by_one, **ONE_SIDED)),
    Field(17, "one logprob more than tokens", "bad_rows",
          Pair(candidate=with_facts(CLEAN, **defects(wrong_length=120)))),
    Field(18, "missing logprobs padded with 0.0", "bad_rows",
          Pair(candidate=with_facts(
              replace(CLEAN, write=zero_tails), **defects(zero_run=200)))),
    Field(19, "drafts near max_model_len", "outlier_tokens",
          Pair(candidate=Engine(compute=few_requests_garbled), prompts=32)),
    Field(20, "cached positions in an uninitialised buffer", "prefix_cache",
          Pair(candidate=with_facts(
              Engine(noise=NOISE, compute=behind_shared_prefix),
              settings={**SETTINGS, "enable_prefix_caching": True},
          ), prompt_length=(20, 40))),
    Field(21, "-inf rows from another request of the batch", "bad_rows",
          Pair(candidate=with_facts(CLEAN, **defects(negative_infinity=16)))),
    Field(22, "None, NaN, -9999", "bad_rows",
          Pair(candidate=with_facts(CLEAN, **defects(missing=1, nan=2, floor=3)))),
    Field(23, "the sampled token twice among the alternatives", "bad_rows",
          Pair(candidate=with_facts(CLEAN, **defects(top_duplicate=9)))),
    Field(24, "async scheduling loses the penalty", "penalty",
          Pair(candidate=with_facts(
              engine(repetition_penalty=1.0), settings={**SETTINGS, "async_scheduling": True}),
              sampling={"repetition_penalty": 1.2})),
    Field(25, "another batch, another logprob", "batch_variance",
          Pair(candidate=with_facts(
              Engine(compute=everywhere(0.05)), floor=0.03, floor_share=1.0))),
    Field(26, "chunked prefill corrupts the state", "onset",
          Pair(candidate=Engine(noise=NOISE, compute=from_context(64, 1.0)),
               length=(60, 100))),
    Field(27, "another expert", "outlier_tokens",
          Pair(candidate=Engine(compute=routed_elsewhere))),
    Field(28, "bfloat16 head, candidate", "lm_head_precision",
          Pair(candidate=Engine(noise=NOISE, compute=rounded(8)))),
    Field(28, "bfloat16 head, reference, T = 0.7", "lm_head_precision",
          Pair(reference=Engine(noise=NOISE, compute=rounded(8)), sampling=T07)),
    Field(28, "float16 head", "lm_head_precision",
          Pair(candidate=Engine(noise=NOISE, compute=rounded(11)))),
    Field(29, "all-zero logprobs invented by a wrapper", "bad_rows",
          Pair(candidate=with_facts(
              replace(CLEAN, write=zero_tails), **defects(zero_run=200)))),
    Field(30, "the sequence ratio explodes at T ≠ 1", "raw_logprobs",
          Pair(candidate=RAW, sampling=T07)),
    Field(33, "BOS twice", "bos_twice", Pair(candidate=CLEAN, doubled_bos=True)),
    Field(34, "prompt logprobs ignore the temperature", "raw_logprobs",
          Pair(candidate=with_facts(RAW, distribution="processed"), sampling=T07,
               samplers=("reference",))),
    Field(35, "image prompts tokenized again", "retokenised",
          Pair(edit=merged_token, samplers=("candidate",))),
)  # fmt: skip
NOT_SHOWN = (8, 11, 12, 15, 31, 32)


@pytest.mark.parametrize("case", SHOWN, ids=lambda case: f"{case.number}-{case.named}")
def test_the_cause_is_named_first(case: Field) -> None:
    assert causes(case.pair, case.number)[:1] == [case.named], case.what


def test_every_case_is_shown_or_listed() -> None:
    shown = {case.number for case in SHOWN} | {36}  # an empty completion has a test of its own
    assert shown | set(NOT_SHOWN) == set(range(1, 37))
    assert not shown & set(NOT_SHOWN)


def test_two_faults_are_both_named() -> None:
    both = Engine(noise=NOISE, raw=True, compute=rounded(8))
    assert causes(Pair(candidate=both, sampling=T07)) == ["raw_logprobs", "lm_head_precision"]


def test_the_order_of_min_p_and_top_p() -> None:
    pair = Pair(reference=Engine(order="v0"), sampling={**T07, "top_p": 0.8, "min_p": 0.1})
    assert causes(pair) == ["truncation_order"]


@pytest.mark.parametrize(
    ("candidate", "asked", "implied"),
    [(RAW, 0.6, 0.6), (RAW, 1.3, 1.3), (RAW, 0.7, 0.7), (RAW, 0.9, 0.9)],
)
def test_the_implied_temperature(candidate: Engine, asked: float, implied: float) -> None:
    [finding] = diagnosis_of(Pair(candidate=candidate, sampling={"temperature": asked})).findings
    [sentence] = [text for text in finding.evidence if text.startswith("implied temperature")]
    assert float(sentence.split()[2].rstrip(",")) == pytest.approx(implied, abs=0.005)
    assert finding.engine == "candidate"
    assert finding.fix.startswith('[candidate.settings] logprobs_mode = "processed_logprobs"; ')
    assert finding.explained is not None
    assert finding.explained > 0.95


@pytest.mark.parametrize(
    ("kind", "value"),
    [("repetition_penalty", 1.1), ("presence_penalty", 0.5), ("frequency_penalty", 0.4)],
)
@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_the_penalty_is_told_apart(kind: str, value: float, role: str) -> None:
    [finding] = diagnosis_of(Pair(**{role: engine(**{kind: value})})).findings
    assert finding.cause == "penalty"
    assert finding.engine == role
    assert f"{kind.replace('_', ' ')} of about {value:.2f}" in finding.claim


@pytest.mark.parametrize("asked", [{"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 3}])
def test_the_kept_mass_is_recomputed(asked: dict[str, float]) -> None:
    off = {"top_p": 1.0, "min_p": 0.0, "top_k": -1}
    [name] = asked
    pair = Pair(candidate=engine(**{name: off[name]}), sampling=asked)
    [finding] = diagnosis_of(pair).findings
    [sentence] = [text for text in finding.evidence if text.startswith("recomputed")]
    assert float(sentence.split("within ")[1].split()[0]) < 0.005
    assert finding.engine == "candidate"


def test_a_lost_penalty_accuses_the_engine_that_lost_it() -> None:
    lost = with_facts(
        engine(repetition_penalty=1.0), settings={**SETTINGS, "async_scheduling": True}
    )
    [finding] = diagnosis_of(Pair(candidate=lost, sampling={"repetition_penalty": 1.2})).findings
    assert finding.engine == "candidate"
    assert finding.fix.startswith("[candidate.settings] async_scheduling = false; ")


@pytest.mark.parametrize(("passed", "asked"), [(0.6, 0.8), (1.0, 0.85), (1.2, 1.0)])
def test_a_wrong_temperature_is_not_called_raw(passed: float, asked: float) -> None:
    pair = Pair(candidate=engine(temperature=passed), sampling={"temperature": asked})
    [finding] = diagnosis_of(pair).findings
    if passed == 1.0:  # which is what raw means
        assert finding.cause == "raw_logprobs"
        return
    assert finding.cause == "wrong_temperature"
    assert any(f"the candidate ran at {passed:.3f}" in text for text in finding.evidence)


def test_a_misread_rope_base() -> None:
    def with_base(error: float, base: float) -> Engine:
        return with_facts(Engine(compute=everywhere(error)), model={"rope_theta": base})

    pair = Pair(reference=with_base(0.0, 10000.0), candidate=with_base(0.4, 500000.0))
    [finding] = diagnosis_of(pair).findings
    assert finding.cause == "rope_base"
    assert "10000 and 500000" in finding.claim


def test_another_format_of_the_cache() -> None:
    other = with_facts(
        Engine(compute=everywhere(0.3)), config={"dtype": "bfloat16", "kv_cache_dtype": "fp8"}
    )
    plain = with_facts(Engine(), config={"dtype": "bfloat16", "kv_cache_dtype": "auto"})
    [finding] = diagnosis_of(Pair(reference=plain, candidate=other)).findings
    assert finding.cause == "numeric_format"
    assert finding.fix == '[candidate.engine_args] kv_cache_dtype = "auto"'
    assert finding.confirm.endswith("--flip kv_cache_dtype=auto")


def test_any_difference_between_equal_builds_has_a_cause() -> None:
    build = {"version": "0.18.1", "family": "v1"}
    small = Pair(
        reference=with_facts(Engine(), **build),
        candidate=with_facts(Engine(noise=0.01), **build),
    )
    assert causes(small) == ["different_computation"]
    assert causes(Pair(candidate=Engine(noise=0.01))) == []


def test_traces_without_alternatives_say_what_cannot_be_seen() -> None:
    assert causes(Pair(candidate=RAW, sampling=T07, top=0)) == ["raw_logprobs"]
    unsaid = Pair(candidate=with_facts(RAW, distribution="processed"), sampling=T07, top=0)
    [finding] = diagnosis_of(unsaid).findings
    assert (finding.cause, finding.confidence) == ("different_computation", "low")
    assert any("no alternatives" in sentence for sentence in finding.evidence)


def test_aborted_requests_without_tokens_are_no_obstacle() -> None:
    def emptied(batch: SampleBatch) -> SampleBatch:
        """An empty completion after the first sample."""
        return replace(
            batch,
            sample_ids=[*batch.sample_ids[:1], "aborted", *batch.sample_ids[1:]],
            prompt_ids=[*batch.prompt_ids[:1], "aborted", *batch.prompt_ids[1:]],
            prompt_groups=[*batch.prompt_groups, "all"],
            starts=np.insert(batch.starts, 1, batch.starts[1]),
            prompt_starts=np.insert(batch.prompt_starts, 1, batch.prompt_starts[1]),
        )

    pair = Pair(candidate=RAW, sampling=T07, edit=lambda own, other: (emptied(own), emptied(other)))
    assert causes(pair) == ["raw_logprobs"]


def test_growth_is_no_onset() -> None:
    def growing(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        return logits + (text.context[:, None] / 500.0) ** 2 * rng.normal(size=logits.shape)

    assert "onset" not in causes(Pair(candidate=Engine(compute=growing), length=(80, 140)))
