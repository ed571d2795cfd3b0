"""The pure parts of `train`: prompts, rewards, advantages, the numbers of a step, and verdicts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.canned_training import TABLES, TRAINED, a_report
from parity_check.config.load import parse_config
from parity_check.config.models import Config
from parity_check.measure.objectives import OBJECTIVES
from parity_check.report.renderers import render, render_text
from parity_check.training import arms, band
from parity_check.training.curves import Taken, active_share, measured
from parity_check.training.document import document
from parity_check.training.notices import config_notices
from parity_check.training.record import read
from parity_check.training.task import advantages, exact, problems

TRAINER = {"requirement": "vllm==0.18.1"}


def configured(**training: Any) -> Config:
    return parse_config({**TABLES, "training": {"trainer": TRAINER, **training}}, "test")


# --- the task -------------------------------------------------------------------------------------


def test_the_problems_are_the_same_for_every_arm_and_seed() -> None:
    config = configured()
    one, other = (problems(c, arms.training_of(c)) for c in (config, arms.seeded(config, 7)))
    assert one != other  # a seed of its own would change them
    assert one == problems(config, arms.training_of(config))
    names = [problem.prompt.prompt_id for step in one for problem in step]
    assert len(set(names)) == len(names) == 25 * 6


def test_every_answer_is_right() -> None:
    config = configured(steps=50)
    for step in problems(config, arms.training_of(config)):
        for problem in step:
            question = str(problem.prompt.text).removeprefix("Question: What is ")
            assert str(eval(question.partition("?")[0])) == problem.answer
            assert int(str(problem.answer)) >= 0


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        (" 12 + 3 = 15\n#### 15\n", "15", 1.0),
        ("#### 14 #### 15", "15", 1.0),
        ("15", "15", 1.0),
        ("#### 151", "15", 0.0),
        ("15 #### ", "15", 0.0),
        ("", "15", 0.0),
        ("#### 15\nQuestion: what else?", "15", 1.0),
    ],
)
def test_the_reward_is_the_exact_answer(completion: str, answer: str, reward: float) -> None:
    assert exact(completion, answer) == reward


@given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=5))
def test_advantages_leave_the_sample_out_and_sum_to_nothing(groups: list[list[float]]) -> None:
    flat = [reward for group in groups for reward in group]
    found = np.array(advantages(flat, 3)).reshape(-1, 3)
    assert np.allclose(found.sum(axis=1), 0.0, atol=1e-9)
    for group, own in zip(groups, found, strict=True):
        assert own[0] == pytest.approx(group[0] - (group[1] + group[2]) / 2)


def test_a_file_of_prompts_is_used_again_and_again(tmp_path: Any) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "{n}", "answer": {n}}}\n' for n in range(5)))
    config = configured(prompts=str(path), steps=4, prompts_per_step=3)
    found = [p for step in problems(config, arms.training_of(config)) for p in step]
    counts = Counter(p.prompt.text for p in found)
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]
    assert len({p.prompt.prompt_id for p in found}) == len(found)
    assert all(p.answer == p.prompt.text for p in found)


# --- the numbers of a step ------------------------------------------------------------------------


def taken(delta: list[list[float]], advantage: list[float]) -> Taken:
    flat = np.concatenate([np.asarray(each) for each in delta])
    behaviour = np.full(len(flat), -1.0)
    return Taken(
        behaviour=behaviour,
        trainer=behaviour + flat,
        entropy=np.full(len(flat), 0.5),
        lag=np.zeros(len(flat), np.int64),
        starts=np.concatenate([[0], np.cumsum([len(each) for each in delta])]),
        prompt=np.arange(len(delta)) // 2,
        rewards=np.array(advantage),
        advantages=np.array(advantage),
    )


def test_a_clip_that_removes_a_gradient_needs_the_right_advantage() -> None:
    up, down, inside = [0.05, 0.05], [-0.05, -0.05, -0.05], [0.001]
    row = OBJECTIVES["gspo-pipelinerl"]
    assert active_share(taken([up, up, down, down], [1, -1, 1, -1]), row) == 0.5
    assert active_share(taken([inside, inside], [1, -1]), row) == 0.0
    tokens = OBJECTIVES["ppo-pipelinerl"]
    assert active_share(taken([[0.05, 0.0], [0.05, -0.05]], [1, -1]), tokens) == 0.5


def test_the_numbers_of_a_step() -> None:
    found = measured(
        taken([[0.05, 0.05], [0.0, 0.0], [0.0], [-0.05]], [1.0, 0.0, 1.0, 1.0]),
        OBJECTIVES["gspo-pipelinerl"],
        arm="fixed",
        seed=1,
        step=0,
        optimized={"loss": 0.1, "grad_norm": 0.2},
        seconds={"sample": 1.0, "learn": 2.0, "sync": 3.0},
    )
    assert found.clip_rate == 0.5
    assert found.clip_active == 0.25  # the one above, with A > 0; not the one below
    assert found.reward == 0.75
    assert found.flat_groups == 1
    assert found.tokens == 6
    assert found.k3_kl == pytest.approx(
        np.mean([np.exp(d) - 1 - d for d in (0.05, 0.05, 0, 0, 0, -0.05)]), rel=1e-4
    )


# --- verdicts -------------------------------------------------------------------------------------


def curves(source: np.random.Generator, runs: int, steps: int, rho: float, apart: float) -> Any:
    """Curves whose steps depend on one another, of runs that drift apart."""
    noise = source.normal(size=(runs, steps))
    found = noise.copy()
    for step in range(1, steps):
        found[:, step] = rho * found[:, step - 1] + np.sqrt(1 - rho**2) * noise[:, step]
    return found + apart * source.normal(size=(runs, 1)) * np.linspace(0, 1, steps)


def verdicts(shift: float, rho: float, apart: float, runs: int = 100) -> Counter[str]:
    source = np.random.default_rng(5)
    found: Counter[str] = Counter()
    for _ in range(runs):
        every = curves(source, 4, 25, rho, apart)
        reference, arm = every[:3], every[3:] + shift
        judged = band.distance(
            arm, reference, band.band(reference, 1, 0.95), level=0.95, times=3.0, matters=0.0
        )
        found[judged.verdict] += 1
    return found


@pytest.mark.parametrize(("rho", "apart"), [(0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (0.3, 1.0)])
def test_another_run_of_the_reference_is_inside(
    rho: float, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(band, "REPLICATES", 200)
    found = verdicts(0.0, rho, apart)
    assert found["drift"] == 0
    assert found["parity"] >= 85


@pytest.mark.parametrize(("rho", "apart"), [(0.0, 0.0), (0.5, 0.0), (0.3, 1.0)])
def test_a_shift_of_many_bands_is_outside(
    rho: float, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(band, "REPLICATES", 200)
    assert verdicts(12.0, rho, apart)["drift"] >= 90


def test_the_first_step_outside_is_the_first_of_two() -> None:
    reference = np.random.default_rng(0).normal(scale=0.01, size=(3, 20))
    arm = np.zeros((1, 20))
    arm[0, 4] = 1.0  # alone
    arm[0, 9:] = 1.0
    found = band.band(reference, 1, 0.95)
    judged = band.distance(arm, reference, found, level=0.95, times=3.0, matters=0.0)
    assert judged.first_outside == 9


def test_curves_that_are_equal_to_the_last_bit_are_inside() -> None:
    same = np.tile(np.linspace(0, 1, 10), (3, 1))
    found = band.band(same, 1, 0.95)
    judged = band.distance(same[:1], same, found, level=0.95, times=3.0, matters=0.0)
    assert (judged.value, judged.verdict, judged.first_outside) == (0.0, "parity", None)


def test_a_difference_of_shares_ends_at_one() -> None:
    source = np.random.default_rng(0)
    reference = source.integers(0, 2, size=(3, 4)).astype(float)
    found = band.band(reference, 1, 0.95)
    wide = band.distance(
        np.ones((1, 4)), reference, found, level=0.95, times=0.1, matters=0.0, most=1.0
    )
    assert wide.ci_high == 1.0
    vacuous = band.distance(
        reference[:1], reference, found, level=0.95, times=9.0, matters=0.0, most=1.0
    )
    assert (vacuous.limit > 1.0, vacuous.verdict) == (True, "inconclusive")


def test_reward_is_not_judged_where_the_seeds_differ_too_much() -> None:
    report, strict = TRAINED["parity"], TRAINED["reward-unresolved"]
    assert report.verdict == strict.verdict == "parity"
    assert "not judged" not in document(report).verdict_line
    assert document(strict).outcome == ("1 of 1 arm inside the reference's band; reward not judged")
    for format in ("text", "markdown", "html", "github", "junit"):
        shown = render(document(strict), format)
        assert "reward not judged" in shown or format == "junit"
        assert "not parity" not in shown.lower(), format
    assert "not judged: fixed\n  – reward: not judged: the reference's own seeds" in render_text(
        document(strict), 100
    )
    assert "**Not judged: fixed**" in render(document(strict), "markdown")


def test_the_trainers_versions_are_those_that_its_worker_says() -> None:
    report = TRAINED["parity"]
    said = "trainer: transformers 4.57.3, torch 2.10.0, bfloat16, lm_head float32"
    assert said in render_text(document(report), 200)
    unknown = replace(report.trainer, packages={}, config={}, label="transformers")
    text = render_text(document(replace(report, trainer=unknown)), 200)
    assert "trainer: transformers, lm_head float32" in text
    assert "?" not in text


# --- notices --------------------------------------------------------------------------------------


def noticed(**tables: Any) -> list[str]:
    training = {"trainer": TRAINER, **tables.pop("training", {})}
    return list(config_notices(parse_config({**TABLES, **tables, "training": training}, "test")))


def test_arms_that_do_the_same_are_named() -> None:
    arms = {"twin": {"engine": "reference"}, "fixed": {}, "again": {"lag": 1}, "late": {"lag": 2}}
    assert noticed(training={"arms": arms}) == [
        "twin has the engine and the settings of the reference: what it shows is the noise between "
        "seeds",
        "again has the engine and the settings of fixed: both show the same",
    ]


@pytest.mark.parametrize(
    ("objective", "training", "says"),
    [
        ({}, {}, None),
        ({"kind": "gspo-pipelinerl"}, {}, None),
        ({"kind": "ppo-pipelinerl", "epsilon_low": 0.1, "epsilon_high": 0.2},
         {"loss": "ppo", "epsilon_low": 0.1, "epsilon_high": 0.2}, None),
        ({"kind": "gspo"}, {}, "[objective] (GSPO clip (slime)) is of the one-shot comparison"),
        ({"kind": "ppo"}, {}, "the curves count the clip of training.loss = gspo"),
        ({"kind": "ppo"}, {"compare": False}, "which training.compare = false leaves out"),
    ],
)  # fmt: skip
def test_an_objective_that_is_not_the_loss_is_said_to_be_of_the_comparison(
    objective: dict[str, Any], training: dict[str, Any], says: str | None
) -> None:
    found = noticed(objective=objective, training={"arms": {"fixed": {}}, **training})
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_an_arm_that_stopped_is_drift_whatever_its_curves_say() -> None:
    report = a_report({"fixed": (0.05, 4e-5)}, stopped={"fixed": "the loss is nan"})
    assert report.verdict == "drift"


def test_a_stored_report_must_fit_its_results() -> None:
    with pytest.raises(ValueError, match="not of this kind"):
        read({"kind": "locate"})


def test_seeds_that_differ_widely_make_no_parity() -> None:
    """Clip of the two seeds at 2 % and 15 %: an arm at 45 % would be inside three such bands."""
    steps = np.arange(25)
    reference = np.stack([0.02 + 0.0 * steps, 0.15 + 0.0 * steps])
    found = band.band(reference, 1, 0.95)
    wide = {"level": 0.95, "times": 3.0, "matters": 0.05, "most": 1.0}
    arm = np.full((1, 25), 0.30)
    assert band.distance(arm, reference, found, **wide).verdict == "parity"
    assert band.distance(arm, reference, found, **wide, widest=0.15).verdict == "inconclusive"


def test_steps_outside_at_the_end_are_no_parity() -> None:
    """The mean over 600 steps hides six with everything clipped."""
    draw = np.random.default_rng(0)
    reference = 0.04 + 0.01 * draw.normal(size=(3, 600))
    arm = 0.04 + 0.01 * draw.normal(size=(1, 600))
    found = band.band(reference, 1, 0.95)
    judging = {"level": 0.95, "times": 1.0, "matters": 0.05}
    assert band.distance(arm, reference, found, **judging).verdict == "parity"
    arm[:, -6:] = 1.0
    late = band.distance(arm, reference, found, **judging)
    assert (late.verdict, late.first_outside) == ("inconclusive", 594)


@pytest.mark.parametrize("edit", ["verdict", "arm", "steps"])
def test_an_edited_report_is_not_read_back(edit: str) -> None:
    tree = json.loads(render(document(TRAINED["story"]), "json"))
    assert read(tree)
    if edit == "verdict":
        for result in tree["results"]:
            if result["distance"]:
                result["distance"]["verdict"] = "parity"
        tree |= {"verdict": "parity", "exit_code": 0}
    elif edit == "arm":
        gone = tree["arms"].pop()["name"]
        tree["results"] = [each for each in tree["results"] if each["arm"] != gone]
    else:
        tree["results"][0]["mean"] = 0.0
    with pytest.raises(ValueError, match=r"results|arms|verdict"):
        read(tree)
