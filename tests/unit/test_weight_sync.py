"""The six checks on numbers that are known: what each of them finds, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.canned_updates import (
    AFTER,
    EFFECT,
    LEVEL,
    LIMIT,
    NEW,
    OLD,
    REQUESTS,
    STALE,
    TOKENS,
    UPDATES,
    a_report,
    a_run,
    changed,
    request,
)
from helpers.described import described
from parity_check.engines.replies import Flying, Updated, WeightsInForce
from parity_check.errors import EngineError, ExitCode
from parity_check.report.renderers import RENDERERS, render
from parity_check.weight_sync.checks import Check, reference_analogue
from parity_check.weight_sync.command import engine_run
from parity_check.weight_sync.document import document
from parity_check.weight_sync.observed import (
    EngineRun,
    Floats,
    Handling,
    Request,
    declared,
    lag_shares,
)
from parity_check.weight_sync.record import read
from parity_check.weight_sync.scenario import Cold, Planned, Recording
from parity_check.weight_sync.timeline import EngineResult, judge, overall, timeline


def judged(run: EngineRun) -> EngineResult:
    return judge(run, LIMIT, LEVEL)[0]


def checks_of(run: EngineRun, limit: float = LIMIT) -> dict[str, Check]:
    return {check.name: check for check in judge(run, limit, LEVEL)[1]}


def not_parity(run: EngineRun, limit: float = LIMIT) -> dict[str, str]:
    found = checks_of(run, limit).items()
    return {name: check.verdict for name, check in found if check.verdict != "parity"}


def reason(run: EngineRun, name: str) -> str:
    return checks_of(run)[name].reason


@pytest.mark.parametrize(("handling", "kept"), [("kept", True), ("recomputed", False)])
def test_an_honest_update_passes_every_check(handling: Handling, kept: bool) -> None:
    result, checks = judge(a_run(handling, kept=kept), LIMIT, LEVEL)
    assert overall(checks) == "parity"
    assert result.measured == handling
    assert len(checks) == 5
    assert result.effect.value == pytest.approx(EFFECT)
    assert result.separation is not None
    assert result.separation.value == pytest.approx(STALE)
    assert result.lags == pytest.approx((12 / 20, 8 / 20))


def test_what_was_kept_is_not_what_was_recomputed() -> None:
    assert not_parity(a_run("recomputed", kept=True)) == {"in_flight_as_declared": "drift"}
    assert not_parity(a_run("kept", kept=False)) == {"in_flight_as_declared": "drift"}
    assert judged(a_run("recomputed", kept=True)).measured == "kept"


def test_checkpoints_that_are_too_close_settle_nothing_about_the_cache() -> None:
    assert not_parity(a_run(), limit=2 * STALE) == {"in_flight_as_declared": "inconclusive"}


def drained(run: EngineRun) -> EngineRun:
    return changed(run, "in_flight", switches=(), logprobs=lambda r: r.cold[0])


def test_requests_that_finished_first_were_drained() -> None:
    run = drained(a_run("drained"))
    assert not_parity(run) == {}
    assert judged(run).measured == "drained"
    assert not_parity(replace(run, declared="kept")) == {"in_flight_as_declared": "drift"}


def test_aborted_requests_are_not_lost_only_where_that_was_declared() -> None:
    cut = {
        name: lambda r, name=name: getattr(r, name)[..., :AFTER]
        for name in ("logprobs", "cold", "kept")
    }
    run = changed(a_run("aborted"), "in_flight", switches=(), finish_reason="abort", **cut)
    assert not_parity(run) == {}
    assert judged(run).measured == "aborted"
    assert not_parity(replace(run, declared="kept")) == {
        "in_flight_as_declared": "drift",
        "nothing_lost": "drift",
    }


def test_a_parameter_that_kept_its_value_is_named() -> None:
    after = replace(NEW, parameters={**NEW.parameters, "a": "old"})
    run = a_run(after=after)
    assert not_parity(run) == {"weights_arrived": "drift"}
    assert reason(run, "weights_arrived") == "1 of 3 parameters still have the old weights: a"


def test_a_parameter_that_is_neither_old_nor_new_is_named() -> None:
    run = a_run(after=replace(NEW, parameters={**NEW.parameters, "b": "torn"}))
    assert "1 of 3 parameters have neither the old nor the new weights: b" in reason(
        run, "weights_arrived"
    )


def test_an_update_of_nothing_is_called_that() -> None:
    run = changed(a_run(after=OLD), "fresh", logprobs=lambda r: r.cold[0])
    run = changed(run, "reissued", logprobs=lambda r: r.cold[0])
    run = changed(run, "in_flight", logprobs=lambda r: r.cold[0])
    assert not_parity(run) == {
        "weights_arrived": "drift",
        "lm_head_refreshed": "drift",
        "no_stale_prefix": "inconclusive",
        "in_flight_as_declared": "inconclusive",
    }
    assert "none of the 2 parameters that should change" in reason(run, "weights_arrived")


def test_new_parameters_with_old_logprobs_mean_something_derived() -> None:
    run = changed(a_run(), "fresh", logprobs=lambda r: r.cold[1] + STALE)
    assert not_parity(run) == {"weights_arrived": "drift"}
    advice = checks_of(run)["weights_arrived"].advice
    assert "something derived from the weights was not refreshed" in advice


def test_a_head_that_kept_a_copy_is_found_and_one_that_never_changes_is_not() -> None:
    assert not_parity(a_run(after=replace(NEW, head=OLD.head))) == {"lm_head_refreshed": "drift"}
    frozen = replace(NEW, head=OLD.head)
    assert not_parity(a_run(after=frozen, cold=(OLD, frozen))) == {}


def test_a_model_without_a_head_that_can_be_read_is_no_parity() -> None:
    old, new = replace(OLD, head=None), replace(NEW, head=None)
    run = a_run(before=old, after=new, cold=(old, new))
    assert not_parity(run) == {"lm_head_refreshed": "inconclusive"}


@pytest.mark.parametrize("spoiled", [None, float("nan"), -float("inf")])
@pytest.mark.parametrize("where", ["engine", "replay"])
def test_invalid_logprobs_are_an_error_of_the_engine(spoiled: Any, where: str) -> None:
    good, bad = [-1.0, -2.0], [-1.0, spoiled]
    weights = WeightsInForce(parameters={}, head=None)
    result = Updated(updates=[], preemptions=0, weights_before=weights, weights_after=weights)
    row = Flying(
        sample_id="p/fresh",
        token_ids=[3, 4],
        logprobs=bad if where == "engine" else good,
        switches=[],
        finish_reason="length",
        cached_tokens=0,
    )
    recording = Recording([row], result, described({"enable_prefix_caching": False}))
    cold = Cold([bad if where == "replay" else good], weights, [])
    plan = [Planned("p/fresh", "p", "fresh", [1, 2])]
    with pytest.raises(EngineError, match="the candidate returned invalid logprobs") as error:
        engine_run("candidate", ("keep", False), plan, 2, recording, [cold, cold])
    assert error.value.exit_code is ExitCode.ENGINE


def test_a_stale_prefix_is_found_and_put_down_to_the_cache() -> None:
    stale = changed(
        a_run(prefix_caching=True),
        "reissued",
        logprobs=lambda r: r.cold[1] + STALE,
        cached_tokens=256,
    )
    assert not_parity(stale) == {"no_stale_prefix": "drift"}
    assert "2048 of their prompt tokens came from the prefix cache" in reason(
        stale, "no_stale_prefix"
    )


def test_prompts_within_a_block_cannot_show_a_stale_prefix() -> None:
    run = changed(a_run(prefix_caching=True), "reissued", prompt_tokens=128)
    assert not_parity(run) == {"no_stale_prefix": "inconclusive"}
    assert not_parity(replace(run, prefix_caching=False)) == {}


def test_fresh_requests_with_a_cached_prefix_say_nothing_of_the_weights() -> None:
    run = changed(a_run(prefix_caching=True), "fresh", cached_tokens=128)
    assert not_parity(run) == {"weights_arrived": "inconclusive"}


def test_a_refused_reset_is_drift_whatever_the_tokens_say() -> None:
    update = replace(a_run().updates[0], cache_resets=(True, False))
    run = a_run("recomputed", kept=False, updates=(update,))
    assert not_parity(run) == {"in_flight_as_declared": "drift"}
    assert reason(run, "in_flight_as_declared").startswith("the cache reset was refused")
    assert not_parity(a_run("kept", updates=(update,))) == {}  # it was not requested


def test_a_refused_reset_is_drift_although_the_weights_did_not_arrive() -> None:
    update = replace(a_run().updates[0], cache_resets=(False,))
    run = changed(
        a_run("recomputed", kept=False, updates=(update,), after=OLD),
        "in_flight",
        logprobs=lambda r: r.cold[0],
    )
    check = checks_of(run)["in_flight_as_declared"]
    assert check.verdict == "drift"
    assert check.reason.startswith("the cache reset was refused")
    assert "the new weights did not arrive" in check.reason


def test_a_replay_that_switched_elsewhere_cannot_show_what_was_kept() -> None:
    run = changed(a_run(), "in_flight", kept=None)
    assert not_parity(run) == {"in_flight_as_declared": "inconclusive"}


def test_no_checks_are_not_parity() -> None:
    assert overall([]) == "inconclusive"
    assert replace(a_report(candidate=a_run()), checks=()).exit_code is ExitCode.INCONCLUSIVE


def test_a_long_tail_over_the_prompts_does_not_hide_drift() -> None:
    """One prompt is far off and all are off: no interval of a mean is short, but none is inside."""
    sizes = dict(zip(range(REQUESTS), (0.5, *[4 * LIMIT] * (REQUESTS - 1)), strict=True))

    def off(request: Request) -> Floats:
        return request.cold[1] + sizes[int(request.prompt_id[1:])]

    run = changed(a_run(prefix_caching=True), "reissued", logprobs=off, cached_tokens=256)
    assert not_parity(run) == {"no_stale_prefix": "drift"}
    sizes[1] = sizes[2] = 0.0
    fewer = changed(a_run(prefix_caching=True), "reissued", logprobs=off, cached_tokens=256)
    assert not_parity(fewer) == {"no_stale_prefix": "inconclusive"}


def test_a_noisy_engine_settles_nothing() -> None:
    noisy = changed(
        a_run(), "in_flight", logprobs=lambda r: r.logprobs + np.where(r.versions == 0, 0.02, 0.0)
    )
    assert not_parity(noisy) == dict.fromkeys(
        ("weights_arrived", "no_stale_prefix", "in_flight_as_declared"), "inconclusive"
    )
    assert "differs from itself by 0.02000" in reason(noisy, "weights_arrived")


def test_a_missing_token_is_counted() -> None:
    run = a_run()
    short = replace(run.requests[0], wanted=TOKENS + 3)
    run = replace(run, requests=(short, *run.requests[1:]))
    assert not_parity(run) == {"nothing_lost": "drift"}
    lost = checks_of(run)["nothing_lost"]
    assert (lost.value, lost.unit) == (3.0, "tokens")


KEPT: dict[str, Handling] = {"reference": "kept", "candidate": "kept"}


def test_equal_schedules_are_analogues() -> None:
    reference = a_run(role="reference")
    check = reference_analogue(reference, a_run(), KEPT)
    assert (check.verdict, check.value) == ("parity", 0.0)


def test_other_switch_points_other_handling_and_draining_are_not() -> None:
    reference = a_run(role="reference")
    later = changed(a_run(), "in_flight", switches=(AFTER + 5,))
    moved = reference_analogue(reference, later, KEPT)
    assert (moved.verdict, moved.value) == ("drift", pytest.approx(5 / TOKENS))
    assert "switch points differ in 8 of 8 requests" in moved.reason
    recomputed = reference_analogue(reference, a_run(), {**KEPT, "candidate": "recomputed"})
    assert (recomputed.verdict, recomputed.value) == ("drift", pytest.approx(12 / TOKENS))
    finished = reference_analogue(reference, drained(a_run()), {**KEPT, "candidate": "drained"})
    assert finished.verdict == "drift"


def test_another_number_of_prefill_steps_settles_nothing() -> None:
    """V1 prefills in chunks where V0 does not: some requests are a token ahead."""
    ahead = changed(
        a_run(), "in_flight", switches=lambda r: (AFTER + (r.prompt_id in ("p0", "p1")),)
    )
    check = reference_analogue(a_run(role="reference"), ahead, KEPT)
    assert check.verdict == "inconclusive"
    assert "max_num_batched_tokens" in check.advice


def test_an_unclear_handling_is_not_an_analogue_and_not_a_difference() -> None:
    unclear = reference_analogue(a_run(role="reference"), a_run(), {**KEPT, "candidate": "unclear"})
    assert unclear.verdict == "inconclusive"


def test_modes_declare_what_becomes_of_the_requests() -> None:
    assert [declared("keep", False), declared("keep", True)] == ["kept", "recomputed"]
    assert [declared("wait", True), declared("abort", False)] == ["drained", "aborted"]


@given(
    length=st.integers(1, 40),
    switches=st.lists(st.integers(0, 40), max_size=4).map(sorted),
    started=st.integers(0, 3),
)
def test_versions_and_lags_add_up(length: int, switches: list[int], started: int) -> None:
    zeros = np.zeros(length)
    found = replace(
        request("in_flight", 0, tokens=length),
        switches=tuple(switches),
        started=started,
        logprobs=zeros,
    )
    newest = started + len(switches)
    assert (found.versions + found.lags == newest).all()
    assert (np.diff(found.versions) >= 0).all()
    for place, version in enumerate(found.versions):
        assert version == started + sum(switch <= place for switch in switches)
    shares = lag_shares([found], newest)
    assert len(shares) >= newest + 1
    assert sum(shares) == pytest.approx(1.0)
    assert sum(lag * share for lag, share in enumerate(shares)) == pytest.approx(found.lags.mean())


def test_the_timeline_has_every_place_of_every_phase() -> None:
    steps = timeline(a_run())
    assert [step.step for step in steps if step.phase == "in_flight"] == list(range(TOKENS))
    flight = [step for step in steps if step.phase == "in_flight"]
    assert [step.version for step in flight] == [0.0] * AFTER + [1.0] * (TOKENS - AFTER)
    assert [step.lag for step in flight] == [1.0] * AFTER + [0.0] * (TOKENS - AFTER)
    assert flight[0].to_cold == pytest.approx((0.0, EFFECT))
    assert flight[-1].to_cold == pytest.approx((EFFECT - STALE, STALE))
    assert flight[-1].to_kept == pytest.approx(0.0)
    assert {step.to_kept for step in steps if step.phase != "in_flight"} == {None}
    assert sum(step.tokens for step in steps) == 3 * REQUESTS * TOKENS


@pytest.mark.parametrize("name", UPDATES)
def test_a_stored_report_is_read_back_whole(name: str) -> None:
    shown = document(UPDATES[name])
    again = document(read(json.loads(render(shown, "json"))))
    for format in RENDERERS:
        assert render(again, format) == render(shown, format), format
