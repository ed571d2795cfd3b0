"""How each vLLM version spells a request for the four parity settings."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from helpers.described import described
from parity_check.config.engines import Settings
from parity_check.engines.settings import (
    Family,
    engine_arguments,
    environment_variables,
    needed_family,
    usual_family,
    way,
)

EXPLICIT = Settings()
LEFT_ALONE = Settings(
    logprobs_mode="default",
    enable_prefix_caching="default",
    async_scheduling="default",
    lm_head_dtype="default",
)
NATIVE_HEAD = {"hf_overrides": {"head_dtype": "float32"}}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.8.5", {"enable_prefix_caching": False}),
        (
            "0.18.1",
            {
                "logprobs_mode": "processed_logprobs",
                "enable_prefix_caching": False,
                "async_scheduling": False,
            },
        ),
        (
            "0.32.0",
            {
                "logprobs_mode": "processed_logprobs",
                "enable_prefix_caching": False,
                "async_scheduling": False,
                **NATIVE_HEAD,
            },
        ),
    ],
)
def test_every_setting_that_the_version_knows_is_passed(
    version: str, expected: dict[str, Any]
) -> None:
    assert engine_arguments(EXPLICIT, Version(version)) == expected


@pytest.mark.parametrize("version", ["0.8.5", "0.18.1", "0.32.0"])
def test_a_default_is_left_to_the_engine(version: str) -> None:
    assert engine_arguments(LEFT_ALONE, Version(version)) == {}
    assert environment_variables(LEFT_ALONE, Version(version), None) == {}


@pytest.mark.parametrize("version", ["0.8.5", "0.8.5.post2", "0.10.2", "0.18.1", "0.25.9"])
def test_a_float32_head_is_asked_of_the_extension_or_of_the_engine(version: str) -> None:
    """Exactly one of the two: before 0.26 the override is accepted and ignored."""
    assert environment_variables(EXPLICIT, Version(version), None) == {
        "PARITY_CHECK_LM_HEAD": "float32"
    }
    assert "hf_overrides" not in engine_arguments(EXPLICIT, Version(version))
    assert environment_variables(EXPLICIT, Version("0.26.0"), None) == {}
    assert engine_arguments(EXPLICIT, Version("0.26.0"))["hf_overrides"] == {
        "head_dtype": "float32"
    }


def test_the_head_of_the_model_needs_no_request() -> None:
    model_head = Settings(lm_head_dtype="model")
    for version in ("0.8.5", "0.32.0"):
        assert environment_variables(model_head, Version(version), None) == {}
        assert "hf_overrides" not in engine_arguments(model_head, Version(version))


@pytest.mark.parametrize(
    ("version", "family", "expected"),
    [("0.8.5", "v0", "0"), ("0.8.5", "v1", "1"), ("0.8.5", None, None), ("0.18.1", "v1", None)],
)
def test_the_family_is_chosen_where_there_is_a_choice(
    version: str, family: str | None, expected: str | None
) -> None:
    variables = environment_variables(LEFT_ALONE, Version(version), family)
    assert variables.get("VLLM_USE_V1") == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("processed_logprobs", "processed"),
        ("raw_logprobs", "raw"),
        ("raw_logits", "raw"),
    ],
)
def test_the_distribution_is_what_is_in_force(mode: str, expected: str) -> None:
    assert described({"logprobs_mode": mode}).distribution == expected


@pytest.mark.parametrize(
    ("version", "platform", "expected"),
    [
        ("0.8.5.post2", "cpu", "v0"),
        ("0.9.2", "cpu", "v0"),
        ("0.10.2", "cpu", "v1"),
        ("0.8.5", "cuda", "v1"),
        ("0.18.1", "cuda", "v1"),
    ],
)
def test_the_family_that_a_version_starts_unasked(
    version: str, platform: str, expected: str
) -> None:
    assert usual_family(Version(version), platform) == expected


@pytest.mark.parametrize(
    ("mode", "version", "platform", "expected"),
    [
        ("processed_logprobs", "0.8.5", "cuda", "v0"),
        ("processed_logprobs", "0.9.2", "cuda", "v0"),
        ("raw_logprobs", "0.8.5", "cuda", None),
        ("default", "0.8.5", "cuda", None),
        ("processed_logprobs", "0.8.5.post2", "cpu", None),
        ("processed_logprobs", "0.10.2", "cuda", None),
        ("processed_logprobs", "0.18.1", "cuda", None),
    ],
)
def test_v0_is_started_where_v1_has_no_processed_logprobs(
    mode: str, version: str, platform: str, expected: str | None
) -> None:
    asked = Settings.model_validate({"logprobs_mode": mode})
    assert needed_family(asked, Version(version), platform) == expected


@pytest.mark.parametrize(
    ("setting", "value", "family", "version", "platform", "honoured"),
    [
        ("logprobs_mode", "processed_logprobs", "v0", "0.8.5", "cpu", True),
        ("logprobs_mode", "raw_logprobs", "v0", "0.8.5", "cuda", False),
        ("logprobs_mode", "raw_logprobs", "v1", "0.9.2", "cuda", True),
        ("logprobs_mode", "processed_logprobs", "v1", "0.10.0", "cuda", False),
        ("logprobs_mode", "processed_logprobs", "v1", "0.10.2.post2", "cpu", True),
        ("async_scheduling", True, "v0", "0.8.5", "cuda", False),
        ("async_scheduling", True, "v1", "0.18.1", "cpu", False),
        ("async_scheduling", True, "v1", "0.18.1", "cuda", True),
        ("async_scheduling", "default", "v1", "0.18.1", "cpu", True),
        ("lm_head_dtype", "float32", "v1", "0.34.0rc1", "cuda", True),
    ],
)
def test_what_a_version_can_honour(
    setting: str, value: str | bool, family: Family, version: str, platform: str, honoured: bool
) -> None:
    assert way(setting, family, Version(version), platform).supports(value) is honoured


def test_the_head_is_native_since_0_26() -> None:
    assert "extension" in way("lm_head_dtype", "v1", Version("0.25.9"), "cuda").how
    assert "native" in way("lm_head_dtype", "v1", Version("0.26.0"), "cuda").how


def test_a_head_that_is_not_asked_for_is_no_extension() -> None:
    head = way("lm_head_dtype", "v0", Version("0.8.5"), "cpu")
    applied = {value: head.applied(value) for value in ("float32", "model", "default")}
    assert applied == {
        "float32": "float32 by extension",
        "model": "the model's own",
        "default": "left to the engine",
    }
