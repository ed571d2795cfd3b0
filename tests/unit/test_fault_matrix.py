"""The parts of the fault matrix that need no engine: checkpoints, edits, tables."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from faults import checkpoints, edits, verdicts
from faults.cases import CLEAN, FAULTS, STATIONS, Case
from faults.verdicts import Outcome
from parity_check.diagnosis.findings import Finding
from parity_check.traces.prompts import ASSETS
from parity_check.traces.trace import Sample

TINY = ASSETS / "tiny"


def test_weights_survive_reading_and_writing(tmp_path: Path) -> None:
    tensors = checkpoints.read_weights(TINY / checkpoints.WEIGHTS)
    checkpoints.write_weights(tmp_path / "again", tensors)
    again = checkpoints.read_weights(tmp_path / "again")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    bits = tensors["lm_head.weight"]
    assert np.array_equal(checkpoints.narrow(checkpoints.widen(bits)), bits)


def test_a_perturbed_checkpoint_differs_in_one_layer(tmp_path: Path) -> None:
    made = checkpoints.make("perturbed", TINY, tmp_path / "perturbed", seed=1)
    before, after = (checkpoints.read_weights(path / checkpoints.WEIGHTS) for path in (TINY, made))
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(changed) == 7
    assert all(name.startswith(checkpoints.PERTURBED) for name in changed)


def test_variants_say_in_their_configuration_what_they_are(tmp_path: Path) -> None:
    def read(variant: str, name: str) -> dict[str, object]:
        made = checkpoints.make(variant, TINY, tmp_path / variant, seed=1)
        tree: dict[str, object] = json.loads((made / name).read_text())
        return tree

    assert read("tied", checkpoints.CONFIG)["tie_word_embeddings"] is True
    assert "rope_theta" not in read("rope", checkpoints.CONFIG)
    assert read("penalised", checkpoints.DEFAULTS)["repetition_penalty"] == 1.1


def sample(length: int) -> Sample:
    return Sample(
        sample_id="p/0",
        prompt_id="p",
        sample_index=0,
        prompt_group="all",
        prompt_token_ids=[0, 5],
        completion_token_ids=list(range(10, 10 + length)),
        logprobs=[-0.5 - place for place in range(length)],
        top_token_ids=[[10 + place, 7, 8] for place in range(length)],
        top_logprobs=[[-0.5, -1.5, -2.5] for _ in range(length)],
        finish_reason="length",
        seed=None,
        policy_version=None,
        text=None,
    )


def test_edits() -> None:
    draw, whole = random.Random(0), sample(8)
    assert edits.shift_by_one(whole, draw).logprobs == [-0.5, *whole.logprobs[:-1]]
    assert edits.pad_with_zeros(whole, draw).logprobs == [*whole.logprobs[:6], 0.0, 0.0]
    lost = edits.lose_rows(sample(1000), draw).logprobs
    assert 5 < sum(value in (None, -9999.0) or value != value for value in lost) < 50
    twice = edits.duplicate_sampled(sample(1000), draw).top_token_ids
    assert twice is not None
    assert 200 < sum(len(set(row)) < len(row) for row in twice) < 400


def finding(cause: str) -> Finding:
    return Finding(cause, "semantic", "high", None, "", (), 0.5, 0.5, "", "")


def outcome(case: Case, *findings: Finding) -> Outcome:
    return Outcome(case, findings, tokens=1000, size=0.01)


def test_verdicts() -> None:
    by_name = {case.name: case for case in (*FAULTS, *CLEAN)}
    raw, head = finding("raw_logprobs"), finding("lm_head_precision")
    two, clean = by_name["raw-and-bf16-head"], by_name["clean-t-1"]
    assert outcome(two, raw, head).right
    assert not outcome(two, raw).right
    assert not outcome(two, head, raw).right
    assert not outcome(two).right
    assert outcome(clean).right
    assert not outcome(clean, head).right
    outcomes = [outcome(two, raw, head), outcome(two), outcome(clean, head)]
    assert verdicts.summary(outcomes) == (
        "1 of 2 faults named first; not: raw-and-bf16-head\n"
        "0 of 1 clean pairs without a finding; not: clean-t-1"
    )
    assert "false alarm" in verdicts.text(outcomes)
    assert "| raw_logprobs |  | 1 | 1 |" in verdicts.confusion(outcomes)


def test_the_matrix_is_as_large_as_it_was_to_be_and_names_its_engines() -> None:
    cases = (*FAULTS, *CLEAN)
    assert len({case.name for case in cases}) == len(cases)
    assert len(FAULTS) >= 22
    assert len(CLEAN) >= 10
    stations = {side.station for case in cases for side in (case.reference, case.candidate)}
    assert stations == STATIONS.keys()
