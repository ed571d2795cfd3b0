"""The named checks: each passes, fails or does not know, with its evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helpers.described import described
from helpers.support import chunk_of
from parity_check.comparison.practices import Practice, practices
from parity_check.measure.measure import measure
from parity_check.measure.results import Measurement

PAIRS = [[(-1.0 - 0.01 * place, -1.01) for place in range(4)] for _ in range(10)]


def measured(pairs: list[list[tuple[float, float]]] = PAIRS) -> Measurement:
    return measure([chunk_of(pairs)], sampled_by="candidate")


def checks(found: Measurement | None = None, **changed: Any) -> dict[str, Practice]:
    mode = changed.pop("mode", "processed_logprobs")
    facts: dict[str, Any] = {
        "rollout": described({"logprobs_mode": mode}),
        "sampling": {"temperature": 0.8},
        "logprobs": None,
        "floor": None,
        "gated": frozenset({"ess"}),
    }
    checked = practices(found or measured(), **{**facts, **changed})
    return {practice.name: practice for practice in checked}


def test_every_practice_is_there_once() -> None:
    assert list(checks()) == [
        "behaviour-logprobs-kept",
        "old-logprobs-recomputed",
        "mismatch-apart-from-ratio",
        "ess-tracked",
    ]


@pytest.mark.parametrize(
    ("logprobs", "status"), [(None, "unknown"), ("recompute", "pass"), ("bypass", "fail")]
)
def test_what_only_the_loss_knows(logprobs: str | None, status: str) -> None:
    found = checks(logprobs=logprobs)
    assert found["old-logprobs-recomputed"].status == status
    assert found["mismatch-apart-from-ratio"].status == status


def test_the_trainers_own_noise_is_evidence() -> None:
    found = checks(logprobs="recompute", floor=measured())
    assert "mean |Δ| of 0.01 nats to itself" in found["old-logprobs-recomputed"].evidence
    assert "the trainer's own k3 is" in found["mismatch-apart-from-ratio"].evidence
    assert "not rerun" in checks(logprobs="recompute")["old-logprobs-recomputed"].evidence


def test_kept_logprobs() -> None:
    kept = checks()["behaviour-logprobs-kept"]
    assert (kept.status, "all 40 sampled tokens" in kept.evidence) == ("pass", True)


def test_a_lost_logprob_fails() -> None:
    chunk = replace(chunk_of([*PAIRS, [(float("nan"), -1.0)]]), behaviour_nulls=1)
    lost = checks(measure([chunk], sampled_by="candidate"))["behaviour-logprobs-kept"]
    assert (lost.status, lost.evidence) == ("fail", "1 missing among 41 sampled tokens")


def test_a_defect_of_the_trainer_is_not_the_rollouts() -> None:
    pairs = [*PAIRS, [(-1.0, float("-inf"))]]
    assert checks(measured(pairs))["behaviour-logprobs-kept"].status == "pass"


@pytest.mark.parametrize(("temperature", "status"), [(0.8, "fail"), (1.0, "pass"), (0.0, "pass")])
def test_raw_logprobs_at_a_temperature_fail(temperature: float, status: str) -> None:
    found = checks(mode="raw_logprobs", sampling={"temperature": temperature})
    assert found["behaviour-logprobs-kept"].status == status


def test_an_ess_without_a_limit_fails() -> None:
    assert checks()["ess-tracked"].status == "pass"
    found = checks(gated=frozenset({"k3_kl"}))["ess-tracked"]
    assert (found.status, "set gates.ess" in found.evidence) == ("fail", True)
