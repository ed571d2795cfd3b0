"""The diagnosis itself: stages, ranking, what is said where no rule matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.synthetic import SETTINGS, Engine, Pair, Rows, Text, case_of, diagnosis_of
from parity_check.config.models import ROLES
from parity_check.diagnosis.diagnose import diagnose
from parity_check.diagnosis.evidence import Flags
from parity_check.diagnosis.findings import LAYERS, Diagnosis
from parity_check.diagnosis.rules import RULES
from parity_check.measure.gates import Verdict
from unit.test_field_cases import NOISE, RAW, T07, engine, rounded

CLEAN = Pair()
DRIFTING = Pair(candidate=Engine(noise=0.06))
PATH = Pair(candidate=Engine(noise=NOISE, compute=rounded(8)))


def outcomes(diagnosis: Diagnosis) -> list[str]:
    return [stage.outcome for stage in diagnosis.stages]


@pytest.mark.parametrize(
    ("pair", "verdict", "expected"),
    [
        (CLEAN, "parity", ["pass", "pass", "pass"]),
        (CLEAN, "inconclusive", ["pass", "not reached", "not reached"]),
        (DRIFTING, "drift", ["pass", "fail", "not reached"]),
        (PATH, "drift", ["pass", "fail", "not reached"]),
        (PATH, "parity", ["pass", "fail", "not reached"]),
        (Pair(candidate=RAW, sampling=T07), "drift", ["fail", "not reached", "not reached"]),
        (
            Pair(candidate=Engine(noise=NOISE, raw=True, compute=rounded(8)), sampling=T07),
            "drift",
            ["fail", "not reached", "not reached"],
        ),
    ],
)
def test_three_stages(pair: Pair, verdict: Verdict, expected: list[str]) -> None:
    found = diagnosis_of(pair, verdict=verdict)
    assert outcomes(found) == expected
    assert tuple(stage.layer for stage in found.stages) == LAYERS


def test_no_rule_matched_is_said_in_words() -> None:
    found = diagnosis_of(DRIFTING)
    assert found.findings == ()
    assert "mean |Δ|" in found.known[0]
    assert any("same scale" in fact for fact in found.known)
    assert diagnosis_of(DRIFTING, verdict="parity").known == ()


def test_without_alternatives_less_is_known_and_said() -> None:
    found = diagnosis_of(replace(DRIFTING, top=0))
    assert any("no or too few top-k alternatives" in fact for fact in found.known)


def test_unrequested_differences_are_observations_where_no_rule_matched() -> None:
    case = replace(case_of(DRIFTING), unrequested=("attention_backend", "block_size"))
    assert (
        diagnose(case, "drift")
        .known[-1]
        .endswith("without being requested: attention_backend, block_size")
    )


def test_findings_are_ranked_by_what_they_explain() -> None:
    pair = Pair(
        candidate=Engine(noise=NOISE, raw=True, facts={"defects": {"nan": 3}}, compute=rounded(8)),
        sampling=T07,
    )
    found = diagnosis_of(pair).findings
    assert [each.cause for each in found] == ["raw_logprobs", "bad_rows", "lm_head_precision"]
    assert [each.remark for each in found] == [False, False, True]
    assert found[1].explained is None


def test_subtracted_shares_do_not_exceed_the_whole() -> None:
    """What several causes take token by token is at most everything."""
    pair = Pair(candidate=engine(temperature=0.6, repetition_penalty=1.2))
    found = diagnosis_of(pair).findings
    assert {each.cause for each in found} == {"wrong_temperature", "penalty"}
    assert 0.9 < sum(each.explained or 0.0 for each in found) <= 1.0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.cause)
def test_every_rule_says_what_to_do(rule: object) -> None:
    for field in ("pattern", "claim", "fix", "confirm", "cases"):
        assert getattr(rule, field), field


def test_causes_are_unique() -> None:
    assert len({rule.cause for rule in RULES}) == len(RULES)


def test_confirming_commands_name_the_run() -> None:
    [finding] = diagnosis_of(Pair(candidate=RAW, sampling=T07)).findings
    assert finding.confirm == "parity-check ablate runs/synthetic --only logprobs_mode"


@settings(max_examples=10)
@given(
    temperature=st.sampled_from([0.4, 0.6, 0.8, 1.2, 1.5]),
    role=st.sampled_from(["reference", "candidate"]),
    seed=st.integers(0, 10_000),
)
def test_raw_logprobs_are_found_at_any_temperature(
    temperature: float, role: str, seed: int
) -> None:
    pair = Pair(**{role: RAW}, sampling={"temperature": temperature}, prompts=10, length=(20, 30))
    [finding] = diagnosis_of(pair, seed).findings
    assert (finding.cause, finding.engine) == ("raw_logprobs", role)
    implied = float(finding.claim.rpartition("is ")[2].rstrip("."))
    assert implied == pytest.approx(temperature, abs=0.01)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), samplers=st.sampled_from([("reference",), ("candidate",)]))
def test_one_direction_is_enough(seed: int, samplers: tuple[str, ...]) -> None:
    pair = Pair(candidate=engine(presence_penalty=0.8), samplers=samplers, prompts=12)
    [finding] = diagnosis_of(pair, seed).findings
    assert (finding.cause, finding.engine) == ("penalty", "candidate")


def test_an_identical_pair_has_nothing_to_explain() -> None:
    pair = Pair(candidate=Engine())
    found = diagnosis_of(pair, verdict="parity")
    assert found.findings == ()
    assert outcomes(found) == ["pass", "pass", "pass"]


def test_no_usable_token_is_no_obstacle() -> None:
    case = case_of(CLEAN)
    nothing = np.full_like(case.evidence.candidate, np.nan)
    found = diagnose(case.left_with(case.evidence.with_candidate(nothing)), "drift")
    assert found.findings == ()
    assert found.known == ("no token has usable logprobs on both sides",)


def test_healthy_caching_is_no_cause() -> None:
    caching = {"settings": {**SETTINGS, "enable_prefix_caching": True}}
    pair = Pair(candidate=Engine(noise=NOISE, facts=caching), samples=1, same_prefix=40)
    assert diagnosis_of(pair).findings == ()


def test_what_an_engine_does_not_state_is_no_difference() -> None:
    """A served endpoint tells neither its dtype nor its quantization."""
    case = case_of(CLEAN)
    facts = dict(case.engines)
    facts["reference"] = replace(facts["reference"], config={"dtype": "bfloat16"})
    told = replace(facts["candidate"], config={"dtype": "float16"})
    silent = replace(facts["candidate"], config={})
    assert replace(case, engines={**facts, "candidate": told}).differing("dtype") is not None
    assert replace(case, engines={**facts, "candidate": silent}).differing("dtype") is None


def test_a_pair_of_other_engines_is_called_by_their_names() -> None:
    """The candidate and a trainer: tables, commands and sentences name these two."""
    case = case_of(Pair(candidate=RAW, sampling=T07))
    names = {"reference": "candidate", "candidate": "trainer"}
    [first, *_] = diagnose(replace(case, names=names, run="runs/candidate-1"), "drift").findings
    assert first.engine == "trainer"
    assert first.claim.startswith("The trainer samples at temperature 0.7 but returns raw")
    assert first.fix.startswith("[engines.trainer.settings]")
    assert "runs/candidate-1" in first.confirm


@pytest.mark.parametrize(
    ("kinds", "names", "offered"),
    [
        (("vllm", "vllm"), ROLES, True),
        (("vllm", "trainer"), ROLES, True),
        (("trainer", "vllm"), ROLES, False),
        (("vllm", "server"), ROLES, False),
        (("vllm", "trainer"), ("candidate", "trainer"), False),
    ],
)
def test_locate_is_offered_for_what_it_takes(
    kinds: tuple[str, str], names: tuple[str, str], offered: bool
) -> None:
    """It probes the reference and the candidate of the run's configuration, no other pair."""
    case = case_of(Pair(candidate=Engine(noise=0.5)))
    engines = {
        role: replace(case.engines[role], kind=kind)
        for role, kind in zip(ROLES, kinds, strict=True)
    }
    called = dict(zip(ROLES, names, strict=True))
    case = replace(case, engines=engines, names=called, run="runs/1")
    found = diagnose(case, "drift").findings
    [confirm] = [each.confirm for each in found if each.cause == "different_computation"]
    assert confirm == ("parity-check locate -c runs/1/config.toml" if offered else None)


WEIGHTS = {"model.embed_tokens.weight": "a1", "model.layers.0.mlp.down_proj.weight": "b2"}


def loading(weights: dict[str, str], noise: float = 0.5) -> Engine:
    return Engine(noise=noise, facts={"model": {"weights": weights}})


def test_different_weights_are_named_where_they_were_read() -> None:
    other = {**WEIGHTS, "model.layers.0.mlp.down_proj.weight": "c3"}
    pair = Pair(reference=loading(WEIGHTS, 0.0), candidate=loading(other))
    [finding] = diagnosis_of(pair).findings
    assert (finding.cause, finding.confidence) == ("other_weights", "high")
    assert finding.evidence[0].endswith("checksums: model.layers.0.mlp.down_proj.weight")


def test_equal_weights_are_ruled_out() -> None:
    pair = Pair(reference=loading(WEIGHTS, 0.0), candidate=loading(WEIGHTS))
    [finding] = diagnosis_of(pair).findings
    assert (finding.cause, finding.confidence) == ("different_computation", "low")
    assert any("all 2 parameters were loaded with equal checksums" in e for e in finding.evidence)


BUILT = {"norm_eps": "1e-05", "attention_soft_cap": "50", "head": "its own weight"}


def built_with(noise: float = 0.5, **facts: str) -> Engine:
    return Engine(noise=noise, facts={"model": {"modules": {**BUILT, **facts}}})


@pytest.mark.parametrize(
    ("fact", "value", "cause"),
    [
        ("norm_eps", "0.01", "norm_eps"),
        ("attention_soft_cap", "none", "soft_cap"),
        ("head", "the embedding", "tied_head"),
    ],
)
def test_what_the_modules_compute_with_is_a_cause(fact: str, value: str, cause: str) -> None:
    pair = Pair(reference=built_with(0.0), candidate=built_with(**{fact: value}))
    [finding] = diagnosis_of(pair).findings
    assert (finding.cause, finding.confidence) == (cause, "high")
    assert f"{BUILT[fact]} in the reference, {value} in the candidate" in finding.claim


def test_equal_facts_are_no_cause_and_neither_is_one_that_makes_no_difference() -> None:
    [finding] = diagnosis_of(Pair(reference=built_with(0.0), candidate=built_with())).findings
    assert finding.cause == "different_computation"
    small = Pair(reference=built_with(0.0), candidate=built_with(1e-6, norm_eps="1e-06"))
    assert diagnosis_of(small).findings == ()


def test_weights_that_could_not_be_read_are_neither_equal_nor_different() -> None:
    pair = Pair(reference=loading(WEIGHTS, 0.0), candidate=loading({}))
    [finding] = diagnosis_of(pair).findings
    assert finding.cause == "different_computation"
    assert any("could not be compared" in sentence for sentence in finding.evidence)


@pytest.mark.parametrize(("top", "semantic"), [(5, "pass"), (0, "unknown")])
def test_without_alternatives_the_semantic_layer_is_not_cleared(top: int, semantic: str) -> None:
    """By a difference without a pattern, which a temperature could have made."""
    pair = Pair(candidate=Engine(noise=0.3), prompts=60, top=top)
    found = diagnosis_of(pair)
    assert [finding.cause for finding in found.findings] == ["different_computation"]
    assert outcomes(found) == [semantic, "fail", "not reached"]
    path = "fail" if top else "unknown"  # no gate failed
    assert outcomes(diagnosis_of(pair, 0, "inconclusive")) == [semantic, path, "not reached"]


@pytest.mark.parametrize("sure", [0.0, 0.8])
def test_a_prefix_fault_may_strike_a_few_tokens(sure: float) -> None:
    """One token in seven, and the model is sure of most others."""

    def confident(text: Text) -> Flags:
        return np.random.default_rng(text.number).random(len(text.tokens)) < sure

    def healthy(_rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        logits[confident(text), 5] += 12.0
        return logits

    def struck(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        if len(text.prompt) > 60:
            hit = rng.random(len(text.tokens)) < 0.15
            logits[hit] += rng.normal(size=(int(hit.sum()), logits.shape[1]))
        return healthy(rng, text, logits)

    engines = (Engine(compute=healthy, noise=0.003), Engine(compute=struck, noise=0.003))
    pair = Pair(*engines, prompts=60, same_prefix=64, prompt_length=(4, 12))
    assert [finding.cause for finding in diagnosis_of(pair).findings][:1] == ["shared_prefix"]
