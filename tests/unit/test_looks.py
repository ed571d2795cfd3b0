"""Looks: their sizes, when they end, and the error rates of a run that is judged at each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simulate_intervals as simulated
from parity_check.comparison.judgement import judgement
from parity_check.comparison.looks import Looks, looks, sentences, settled
from parity_check.comparison.plan import plan
from parity_check.config.load import parse_config
from parity_check.config.models import LOOKS, Config
from parity_check.errors import ConfigError
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.limits import Limit
from parity_check.traces.prompts import read_prompts, read_workload

PROMPTS = read_prompts("bundled:more-prompts")
RUNS = 400


def configured(profile: str = "standard", **workload: object) -> Config:
    return parse_config(
        {
            "reference": {"kind": "fake"},
            "candidate": {"kind": "fake"},
            "gates": {"profile": profile},
            "stats": {"cluster_by": "family"},
            "workload": {"num_prompts": "enough", "samples_per_prompt": 2, **workload},
        },
        "test",
    )


def planned(config: Config) -> Looks:
    return looks(PROMPTS, config, plan(PROMPTS, config, judgement(config)))


def test_the_look_before_the_last_has_room_above_what_is_needed() -> None:
    config = configured()
    size = plan(PROMPTS, config, judgement(config))
    ends = planned(config).ends
    assert len(ends) == LOOKS
    assert ends[-2] * 2 == pytest.approx(1.5 * size.samples_needed(), rel=0.01)
    assert all(later == pytest.approx(2 * earlier, abs=1) for earlier, later in pairwise(ends))


def test_of_a_large_file_no_more_prompts_are_used_than_needed() -> None:
    config = configured(samples_per_prompt=1)
    for many in (2, 20):
        prompts = [
            replace(
                prompt,
                prompt_id=f"{prompt.prompt_id}-{copy}",
                text=f"{copy} {prompt.text}",
                labels={"family": None},
            )
            for copy in range(many)
            for prompt in PROMPTS
        ]
        size = plan(prompts, config, judgement(config))
        last = looks(prompts, config, size).ends[-1]
        assert last == pytest.approx(3 * 3381, abs=3), "of each, a sample"
        how = judgement(config)
        assert plan(prompts, config, how, last // 2).unmet() == []
        assert plan(prompts, config, how, 3000).unused == len(prompts) - 3000
        assert {each.unit for each in plan(prompts, config, how, 3300).unmet()} == {
            "samples",
            "clusters",
        }


def test_a_budget_is_the_last_look() -> None:
    assert planned(configured(most_tokens=128 * 8)).ends == (1, 2, 4, 8)
    assert planned(configured(most_tokens=5)).ends == (1,)


def test_at_temperature_zero_every_prompt_has_one_turn() -> None:
    assert planned(configured(temperature=0.0)).ends[-1] == len(PROMPTS)


@given(st.integers(1, 10**5), st.integers(0, 100))
def test_turns_go_round_the_prompts(most_tokens: int, seed: int) -> None:
    found = planned(configured(most_tokens=most_tokens, seed=seed))
    turns = [turn for look in range(len(found.ends)) for turn in found.turns(look)]
    assert len(turns) == found.ends[-1]
    counts = Counter(turns)
    assert max(counts.values()) - min(counts[each] for each in range(len(PROMPTS))) <= 1
    last = len(found.ends) - 1
    assert found.earlier(last) == [found.prompts[t] for t in turns[: len(found.earlier(last))]]
    assert sorted(p.prompt_id for p in found.prompts) == sorted(p.prompt_id for p in PROMPTS)


def test_each_look_is_judged_at_a_corrected_confidence() -> None:
    assert judgement(configured()).level == pytest.approx(0.9875)
    assert judgement(configured(num_prompts=96)).level == 0.95


def test_the_plan_names_the_looks_and_what_the_last_can_decide() -> None:
    config = configured(most_tokens=10_000)
    size = plan(PROMPTS, config, judgement(config))
    first, second = sentences(planned(config), size, config, judgement(config))
    assert first == (
        "up to 4 looks, at 20, 40, 78 and 156 samples a direction (at most 9,984 tokens), each "
        "judged at a confidence of 98.75 %"
    )
    assert "gates cannot be decided" in second
    assert second.endswith("for all of them: workload.most_tokens = 454528")


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("each", [1, 2, 7])
def test_the_advised_budget_is_enough(each: int, temperature: float) -> None:
    """In two tries at most: a small look does not show that families will meet."""
    advised = [10_000]
    for _ in range(3):
        config = configured(
            samples_per_prompt=each, most_tokens=advised[-1], temperature=temperature
        )
        how = judgement(config)
        found = looks(PROMPTS, config, plan(PROMPTS, config, how))
        reached = plan(found.prompts, config, how, found.ends[-1])
        if not reached.open():
            break
        advised.append(int(reached.advice().removeprefix("workload.most_tokens = ")))
        assert advised[-1] > advised[-2]
    assert reached.open() == set()
    assert 64 * each * 3381 <= advised[-1] <= 64 * each * 4187


def test_greedy_copies_are_not_counted_in_looks() -> None:
    config = configured(most_tokens=10_000, temperature=0.0)
    size = plan(PROMPTS, config, judgement(config))
    first, second = sentences(planned(config), size, config, judgement(config))
    assert first.startswith(
        "up to 4 looks, at 10, 20, 39 and 78 samples a direction (at most 9,984"
    )
    assert "(78 samples, at most 4,992 tokens a direction)" in second


@pytest.mark.parametrize(("distinct", "enough"), [(2600, False), (4100, True)])
def test_advice_counts_the_distinct_prompts_of_a_file(distinct: int, enough: bool) -> None:
    """It never repeats itself: more copies make clusters unequal, so it takes some tries."""
    copies = [replace(each, prompt_id=f"{each.prompt_id}-2") for each in PROMPTS[32:distinct]]
    prompts = [*PROMPTS[32 : distinct + 32], *copies]
    budgets = [454_528]
    while len(budgets) < 8:
        config = configured(most_tokens=budgets[-1])
        how = judgement(config)
        found = looks(prompts, config, plan(prompts, config, how))
        reached = plan(found.prompts, config, how, found.ends[-1])
        if not reached.open():
            break
        needed, budget = re.fullmatch(
            r"(?:([\d,]+) distinct prompts and )?workload.most_tokens = (\d+)", reached.advice()
        ).groups()
        assert (needed is None) == enough
        if needed is not None:
            break
        budgets.append(int(budget))
        assert budgets[-1] > budgets[-2]
    assert (reached.open() == set()) == enough


def test_a_file_of_too_few_prompts_is_said_with_the_budget() -> None:
    config = configured(most_tokens=3_000_000)
    advice = plan(PROMPTS[:300], config, judgement(config), 3_000_000 // 128).advice()
    prompts, budget = re.fullmatch(
        r"([\d,]+) prompts and workload.most_tokens = (\d+)", advice
    ).groups()
    assert int(budget) == 128 * int(prompts.replace(",", ""))


def gate(verdict: Verdict, prompts: int | None = None) -> GateResult:
    limit = Limit("k3_kl", 1e-3, "upper", "a test")
    return GateResult("k3_kl", "reference", verdict, "", limit, prompts_needed=prompts)


def test_looks_end_when_every_gate_is_decided_or_cannot_be() -> None:
    assert settled([gate("parity"), gate("drift")])
    assert settled([gate("parity"), gate("inconclusive")])
    assert not settled([gate("drift"), gate("inconclusive", 100)])


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match='most_tokens: only with num_prompts = "enough"'):
        configured(num_prompts=4, most_tokens=100)
    with pytest.raises(ConfigError, match="num_prompts"):
        configured(num_prompts="plenty")
    with pytest.raises(ConfigError, match="the most is 100,000,000"):
        planned(configured(most_tokens=10**9))
    with pytest.raises(ConfigError, match="only for `compare`"):
        read_workload(configured().workload)


@pytest.mark.parametrize("draw", simulated.LOOKED_AT.values(), ids=simulated.LOOKED_AT)
def test_looks_are_wrong_no_more_often_than_one_look(draw: simulated.Draw) -> None:
    """Parity at the limit and at twice it, drift at half of it, at any of four looks."""
    found = simulated.look_rates(draw, 12, RUNS, seed=20261128)
    for metric in simulated.promised(draw):
        assert found[metric].at <= 0.035 + 0.01, (metric, found[metric])
        assert found[metric].twice <= 0.01, (metric, found[metric])
        assert found[metric].half <= 0.01, (metric, found[metric])


def test_without_the_correction_they_would_be() -> None:
    found = simulated.look_rates(simulated.equal, 12, RUNS, seed=20261128, correct=False)
    assert found["tail share"].at > 0.05
