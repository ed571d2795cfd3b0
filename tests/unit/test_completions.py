"""Requests and answers of the completions API, as vLLM 0.18.1 and 0.32 write them."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.engines.client import WORKER
from parity_check.engines.endpoint import proofs as proofs
from parity_check.engines.endpoint.answers import Usage
from parity_check.engines.endpoint.completions import (
    generate_body,
    read_generated,
    read_prompt_logprobs,
    read_rescored,
    rescore_body,
)
from parity_check.engines.replies import UnusableError

SAMPLING = {"temperature": 0.7, "top_k": -1}
PARAMETERS = {"sampling": SAMPLING, "max_tokens": 2, "ignore_eos": False, "top_logprobs": 2}
REQUEST = {"sample_id": "a/0", "prompt_token_ids": [5, 6], "completion_token_ids": [7, 8]}

float32s = st.floats(-80.0, 0.0, width=32)


def generated(**changes: Any) -> dict[str, Any]:
    """What the server answers to `generate`: 7 is the second likeliest, 8 is not among them."""
    choice = {
        "index": 0,
        "text": "ab",
        "finish_reason": "length",
        "token_ids": [7, 8],
        "prompt_token_ids": [5, 6],
        "logprobs": {
            "tokens": ["token_id:7", "token_id:8"],
            "token_logprobs": [-1.5, -4.0],
            "top_logprobs": [
                {"token_id:7": -1.5, "token_id:3": -0.5},
                {"token_id:8": -4.0, "token_id:1": -0.25, "token_id:2": -9999.0},
            ],
        },
    }
    return {"model": "m", "choices": [{**choice, **changes}], "usage": {"prompt_tokens": 2}}


def scored(rows: list[Any]) -> dict[str, Any]:
    choice = {"prompt_token_ids": [5, 6, 7, 8], "prompt_logprobs": rows}
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 4}}


def entry(logprob: float, rank: int) -> dict[str, Any]:
    return {"logprob": logprob, "rank": rank, "decoded_token": "x"}


ROWS = [
    None,
    {"6": entry(-2.0, 1)},
    {"7": entry(-1.5, 2), "3": entry(-0.5, 1)},
    {"8": entry(-4.0, 40), "1": entry(-0.25, 1), "2": entry(-9999.0, 2)},
]


def test_a_generated_completion_is_read() -> None:
    assert read_generated(generated(), "m", REQUEST, PARAMETERS).model_dump() == {
        "sample_id": "a/0",
        "token_ids": [7, 8],
        "finish_reason": "length",
        "text": "ab",
        "logprobs": [-1.5, -4.0],
        "top_token_ids": [[3, 7], [1, 2]],
        "top_logprobs": [[-0.5, -1.5], [-0.25, -math.inf]],
        "entropy": None,
    }


def test_a_scored_completion_is_read_the_same() -> None:
    read = read_rescored(scored(ROWS), "m", REQUEST, PARAMETERS).model_dump()
    expected = read_generated(generated(), "m", REQUEST, PARAMETERS).model_dump()
    assert read == {name: expected[name] for name in read}


def test_a_stand_in_for_minus_infinity_stays_with_the_sampled_token() -> None:
    """There it is a defect, which the report counts; among alternatives truncation makes it."""
    answer = generated()
    answer["choices"][0]["logprobs"]["token_logprobs"][1] = -9999.0
    assert read_generated(answer, "m", REQUEST, PARAMETERS).logprobs == [-1.5, -9999.0]


@given(st.lists(float32s, min_size=2, max_size=2))
def test_float32_logprobs_come_through_json_to_the_bit(values: list[float]) -> None:
    answer = generated()
    answer["choices"][0]["logprobs"]["token_logprobs"] = values
    read = read_generated(json.loads(json.dumps(answer)), "m", REQUEST, PARAMETERS)
    packed = [struct.pack("f", value) for value in read.logprobs]
    assert packed == [struct.pack("f", value) for value in values]


def test_no_alternatives_were_asked_for() -> None:
    answer = generated()
    answer["choices"][0]["logprobs"]["top_logprobs"] = [{"token_id:7": -1.5}, {"token_id:8": -4.0}]
    read = read_generated(answer, "m", REQUEST, {**PARAMETERS, "top_logprobs": 0})
    assert read.top_token_ids == [[], []]


def test_a_server_of_before_0_10_2_returns_no_ids() -> None:
    """The ids are in the names of the tokens; of the prompt only the length can be checked."""
    answer = generated()
    del answer["choices"][0]["token_ids"], answer["choices"][0]["prompt_token_ids"]
    assert read_generated(answer, "m", REQUEST, PARAMETERS).token_ids == [7, 8]
    answer["usage"]["prompt_tokens"] = 3
    with pytest.raises(UnusableError, match="read 3 prompt tokens instead of the 2 sent"):
        read_generated(answer, "m", REQUEST, PARAMETERS)


def test_a_completion_may_stop_early() -> None:
    answer = generated(finish_reason="stop")
    longer = {**PARAMETERS, "max_tokens": 9}
    assert read_generated(answer, "m", REQUEST, longer).finish_reason == "stop"
    with pytest.raises(UnusableError, match="2 tokens instead of the requested 9"):
        read_generated(generated(), "m", REQUEST, longer)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "it has no prompt_logprobs"),
        (ROWS[:-1], "3 prompt_logprobs for 4 tokens"),
        ([*ROWS[:-1], None], "4 prompt_logprobs for 4 tokens"),
    ],
)
def test_prompt_logprobs_that_are_not_all_there(rows: list[Any], message: str) -> None:
    with pytest.raises(UnusableError, match=message):
        read_prompt_logprobs(scored(rows), "m", [5, 6, 7, 8])


def test_a_scored_token_without_a_logprob_is_missing() -> None:
    rows = [*ROWS[:-1], {"1": entry(-0.25, 1)}]
    assert read_rescored(scored(rows), "m", REQUEST, PARAMETERS).logprobs == [-1.5, None]


@pytest.mark.parametrize("answer", [None, [], {}, {"choices": []}, {"choices": [{}, {}]}])
def test_what_is_no_completion(answer: Any) -> None:
    with pytest.raises(UnusableError, match="not a completion with one choice"):
        read_generated(answer, "m", REQUEST, PARAMETERS)


def test_requests_hold_ids_and_every_parameter() -> None:
    body = generate_body("m", REQUEST, PARAMETERS)
    assert body["prompt"] == [5, 6]
    assert {name: body[name] for name in SAMPLING} == SAMPLING
    assert (body["logprobs"], body["max_tokens"], body["stop"]) == (2, 2, [])
    body = rescore_body("m", REQUEST, PARAMETERS)
    assert (body["prompt"], body["prompt_logprobs"], body["max_tokens"]) == ([5, 6, 7, 8], 2, 1)


# --- what answers prove -------------------------------------------------------------------------

WARM = [{1: -0.5, 2: -1.5, 3: -2.7}]
CUT = {1: 0.0, 2: -math.inf, 3: -math.inf}
GRID = [{1: -0.123, 2: -0.123 - 37 / 1024, 3: -0.123 - 801 / 1024}]


def colder(rows: list[dict[int, float]]) -> list[dict[int, float]]:
    return [{token: 2 * value for token, value in row.items()} for row in rows]


@pytest.mark.parametrize(
    ("cold", "cut", "found"),
    [
        (colder(WARM), CUT, "processed_logprobs"),
        (WARM, WARM[0], "raw_logprobs"),
        (colder(WARM), WARM[0], "partly_processed_logprobs"),
        (WARM, CUT, "partly_processed_logprobs"),
    ],
)
def test_raw_or_processed(cold: Any, cut: Any, found: str) -> None:
    assert proofs.logprobs_mode(WARM, cold, cut)[0] == found


def test_logits_are_not_taken_for_logprobs() -> None:
    logits = [{1: 7.5, 2: 3.0}]
    assert proofs.logprobs_mode(logits, logits, logits[0])[0] == "raw_logits"
    assert proofs.logprobs_mode(logits, colder(logits), logits[0])[0] == "processed_logits"


def test_equal_logprobs_prove_nothing() -> None:
    flat = [{1: -1.0, 2: -1.0}]
    assert proofs.logprobs_mode(flat, flat, flat[0])[0] == "unknown"
    assert proofs.lm_head_dtype(flat, "bfloat16")[0] == "unknown"


@pytest.mark.parametrize(
    ("rows", "dtype", "found"),
    [
        (GRID, "bfloat16", "model"),
        (GRID, "float32", "bfloat16"),
        (WARM, "bfloat16", "float32"),
        (WARM, "float32", "model"),
    ],
)
def test_the_head_by_its_grid(rows: Any, dtype: str, found: str) -> None:
    assert proofs.lm_head_dtype(rows, dtype)[0] == found


METRICS = (
    'vllm:prefix_cache_hits_total{{engine="0"}} {}\n'
    'vllm:cache_config_info{{cache_dtype="auto",enable_prefix_caching="{}"}} 1.0\n'
)


@pytest.mark.parametrize(
    ("usage", "before", "after", "found"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 256}}, "", "", True),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, "", "", False),
        ({"prompt_tokens_details": None}, "", "", "unknown"),
        ({}, METRICS.format("4.0", "True"), METRICS.format("260.0", "True"), True),
        ({}, METRICS.format("1.5e+06", "True"), METRICS.format("1.500256e+06", "True"), True),
        ({}, METRICS.format("0.0", "False"), METRICS.format("0.0", "False"), False),
        ({}, METRICS.format("4.0", "True"), METRICS.format("4.0", "True"), "unknown"),
    ],
)
def test_the_prefix_cache_by_two_equal_requests(
    usage: Any, before: str, after: str, found: str | bool
) -> None:
    assert proofs.prefix_caching(Usage.model_validate(usage), before, after)[0] == found


def test_an_engine_in_process_does_not_record_a_servers_key() -> None:
    """VLLM_API_KEY begins as the variables do that a trace records."""
    program = "import effective; print(sorted(effective.ENVIRONMENT))"
    variables = {"VLLM_API_KEY": "sk-secret", "VLLM_LOGGING_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=WORKER,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "VLLM_LOGGING_LEVEL" in done.stdout
    assert "VLLM_API_KEY" not in done.stdout
