"""The plan of a workload: what its gates ask for is what a clean pair is judged by."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity_check.comparison.judgement import judgement
from parity_check.comparison.plan import Plan, plan
from parity_check.config.load import load_config
from parity_check.config.models import Config, Judging
from parity_check.measure import stats
from parity_check.measure.gates import judge_all
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.needs import Need, needs
from parity_check.measure.worth import Worth, worth
from parity_check.traces.prompts import Prompt, read_prompts, read_workload

ROOT = Path(__file__).parents[2]
PROMPTS = read_prompts("bundled:prompts")


def planned(
    workload: dict[str, object] | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    **tables: dict[str, object],
) -> Plan:
    config = Config.model_validate(
        {"reference": {"kind": "fake"}, "candidate": {"kind": "fake"}, **tables}
        | {"workload": {"samples_per_prompt": 2, "max_tokens": 64, **(workload or {})}}
    )
    return plan(prompts, config, judgement(config))


def verdicts(judging: Judging, samples: int, length: int, prompts: int) -> dict[str, str]:
    """Of a pair that differs in the last bits, so that nothing is bit-identical."""
    tokens = samples * length
    behaviour = np.full(tokens, -1.0, np.float32)
    evaluating = behaviour + np.float32(1e-6) * np.random.default_rng(0).normal(size=tokens)
    cluster = np.arange(samples, dtype=np.int32) % prompts
    chunk = PairedChunk(
        behaviour, evaluating.astype(np.float32), np.arange(samples + 1) * length, cluster,
        np.zeros_like(cluster),
    )  # fmt: skip
    how = judgement(judging)
    measured = measure([chunk], sampled_by="reference", objective=how.objective)
    return {gate.metric: gate.verdict for gate in judge_all(measured, how.limits)}


@pytest.mark.parametrize("objective", ["grpo", "gspo"])
@pytest.mark.parametrize("profile", ["standard", "relaxed"])
def test_a_clean_pair_is_decided_with_what_is_needed_and_not_with_less(
    profile: str, objective: str
) -> None:
    judging = Judging.model_validate(
        {"gates": {"profile": profile}, "objective": {"kind": objective}}
    )
    how = judgement(judging)
    asked = [each for each in needs(how.limits, how.objective, how.level) if each.number > 8]
    assert {each.unit for each in asked} == {"tokens", "samples", "clusters"}
    for need in asked:
        for few, verdict in ((False, "parity"), (True, "inconclusive")):
            enough = need.number - few
            size = {
                "tokens": (enough // 16 + (not few), 16, enough),
                "samples": (enough, 4, 64),
                "clusters": (2 * enough, 64, enough),
            }[need.unit]
            assert verdicts(judging, *size)[need.metric] == verdict, need


def test_the_quickstart_decides_its_profile_and_says_what_the_standard_one_needs() -> None:
    one, family = {"samples_per_prompt": 1}, {"stats": {"cluster_by": "family"}}
    relaxed = planned(one, gates={"profile": "relaxed"}, **family)
    assert (relaxed.prompts, relaxed.clusters, relaxed.samples) == (560, 532, 560)
    assert relaxed.worth.clusters == pytest.approx(560**2 / (528 + 4 * 8**2))
    assert relaxed.sentence() == (
        "if nothing drifts and samples are about equally long, with 46 tokens or more on average, "
        "every gate can be decided (560 samples, at most 35,840 tokens a direction)"
    )
    standard = planned(one, **family)
    assert Need("burst_fraction", "samples", 2458) in standard.unmet()
    assert Need("burst_cluster_fraction", "clusters", 2458) in standard.unmet()
    advised = math.ceil(560 * 2458 / relaxed.worth.clusters)
    assert standard.sentence().endswith(
        f"for all of them: {advised:,} prompts and workload.samples_per_prompt = 1 (--samples 1)"
    )
    more = read_prompts("bundled:more-prompts")[:advised]
    assert planned(one, more, **family).unmet() == []


@pytest.mark.parametrize("name", ["quickstart", "ci", "v0-to-v1", "trainer", "endpoint"])
def test_the_example_configurations_can_decide_every_gate(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.toml")
    assert plan(read_workload(config.workload), config, judgement(config)).unmet() == []


def test_too_few_clusters_ask_for_prompts() -> None:
    few = planned({"samples_per_prompt": 5000}, stats={"cluster_by": "group"})
    assert few.clusters == 6
    assert {need.unit for need in few.unmet()} == {"clusters"}
    assert few.sentence().endswith(
        "255,817 prompts and workload.samples_per_prompt = 1 (--samples 1)"
    )


def test_greedy_copies_of_a_sample_decide_nothing() -> None:
    greedy = planned({"temperature": 0.0})
    assert greedy.sentence().endswith("for all of them: 2,458 prompts")


def test_what_was_sampled_has_its_own_plan() -> None:
    """A sample may end early: what the plan promised for the most tokens need not hold."""
    one = {"samples_per_prompt": 1}
    before = planned(one, gates={"profile": "relaxed"}, stats={"cluster_by": "family"})
    assert before.open() == set()
    short = replace(before, tokens=560 * 45, source="sampled")
    assert short.open() == {"ess"}
    assert "at most" not in short.sentence()
    assert short.sentence().endswith(
        ": workload.samples_per_prompt = 2 (--samples 2), or 568 prompts"
    )
    long = replace(before, tokens=560 * 46, source="sampled")
    assert long.sentence() == (
        "if nothing drifts, every gate can be decided (560 samples, 25,760 tokens a direction)"
    )


def test_copies_of_a_prompt_count_as_one() -> None:
    copies = [replace(PROMPTS[0], prompt_id=f"copy-{number}") for number in range(300)]
    size = planned({}, copies, gates={"profile": "relaxed"})
    assert (size.prompts, size.clusters, size.copies) == (300, 1, 299)
    assert "burst_cluster_fraction" in size.open()
    assert size.sentence().endswith(
        "for all of them: 245 distinct prompts and workload.samples_per_prompt = 2 (--samples 2)"
    )


def test_clustered_by_sample_more_samples_are_enough() -> None:
    size = planned({"samples_per_prompt": 8}, PROMPTS[:100], stats={"cluster_by": "sample"})
    assert {need.unit for need in size.unmet()} <= {"samples", "tokens"}
    assert "or " in size.advice()


def test_samples_of_unequal_length_are_worth_fewer() -> None:
    before = planned(gates={"profile": "relaxed"}, stats={"cluster_by": "family"})
    uneven = replace(
        before,
        tokens=1120 * 60,
        source="sampled",
        worth=Worth(130.0, 100.0, 120.0, 90.0),
    )
    assert uneven.open() == {
        "burst_fraction", "burst_cluster_fraction", "k3_kl", "mean_importance_ratio",
    }  # fmt: skip
    assert "(1,120 samples of unequal length, worth 130, 67,200 tokens a direction)" in (
        uneven.sentence()
    )
    times = 245 / 90  # more of the same lengths add fewer than the first were worth
    assert uneven.advice().startswith(f"{math.ceil(560 * times):,} prompts and ")


def of_lengths(lengths: stats.Floats) -> Plan:
    """A run that has sampled a prompt each of these lengths, at the standard profile."""
    size, ones = len(lengths), np.ones(len(lengths))
    each = {"samples_per_prompt": 1, "max_tokens": 4000}
    return replace(
        planned(each, PROMPTS[:1]),
        prompts=size, clusters=size, samples=size, tokens=int(lengths.sum()), source="sampled",
        worth=worth(lengths, lengths, ones, ones, 0.95),
    )  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, size: np.exp(rng.uniform(0, math.log(4000), size)),
        lambda rng, size: rng.uniform(1, 4000, size),
        lambda rng, size: np.minimum(600, np.exp(rng.normal(5, 0.8, size))),
    ],
    ids=["evenly in the logarithm", "evenly", "cut at 600 tokens"],
)
def test_as_many_unequal_samples_as_advised_are_enough(
    draw: Callable[[np.random.Generator, int], stats.Floats],
) -> None:
    """What 800 are worth, taken as many times, would ask for up to a quarter less."""
    rng = np.random.default_rng(11)
    first = of_lengths(draw(rng, 800))
    advised = int(re.match(r"([\d,]+) prompts", first.advice())[1].replace(",", ""))
    assert of_lengths(draw(rng, math.ceil(1.05 * advised))).open() == set()
    assert of_lengths(draw(rng, math.ceil(0.8 * advised))).open() != set()


def test_at_temperature_0_more_prompts_are_the_advice() -> None:
    copies = [replace(each, prompt_id=f"{each.prompt_id}-2") for each in PROMPTS[:40]]
    greedy = planned({"temperature": 0.0}, [*PROMPTS[:40], *copies], gates={"profile": "relaxed"})
    assert (greedy.prompts, greedy.copies, greedy.samples) == (80, 40, 40)
    assert greedy.advice() == "399 distinct prompts"
    enough = read_prompts("bundled:more-prompts")[:399]
    assert planned({"temperature": 0.0}, enough, gates={"profile": "relaxed"}).open() == set()


def test_one_family_that_outweighs_all_others_is_said_so() -> None:
    """More prompts of the same kind would be millions."""
    family = [
        replace(each, prompt_id=f"f-{n}", text=f"{n} {each.text}", labels={"family": "one"})
        for n, each in enumerate(PROMPTS * 4)
    ]
    size = planned({}, [*PROMPTS[:500], *family], stats={"cluster_by": "family"})
    assert re.search(
        r"for all of them: 2,458 clusters of about equal size \(now 4\d\d, worth 1\.\d\)$",
        size.sentence(),
    )


def test_one_exact_value_asks_for_nothing() -> None:
    assert planned(gates={"profile": "exact"}).unmet() == []
