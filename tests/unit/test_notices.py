"""Warnings about two engines: which differences deserve one, and when a meaning matters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.described import described
from parity_check.comparison.warnings import warnings_of
from parity_check.config.models import Workload
from parity_check.traces.provenance import Difference


def ids(
    differences: list[Difference] | None = None,
    families: tuple[str, str] = ("v0", "v1"),
    distributions: tuple[str, str] = ("processed", "processed"),
    defaults: str = "",
    replayed_from: tuple[str | None, str | None] = (None, "digest"),
    version: str = "0.18.1",
    without_effect: dict[str, str] | None = None,
    warnings: dict[str, str] | None = None,
    **sampling: float,
) -> list[str]:
    headers: Any = {
        role: SimpleNamespace(
            engine=described(
                version=version,
                family=family,
                model={
                    "sampling_defaults": defaults,
                    "without_effect": without_effect or {},
                    "warnings": warnings or {},
                },
            ),
            sampled_by="prime-rl rollout",
            replayed_from=digest,
            logprob_distribution=distribution,
            sampling=Workload.model_validate(sampling).sampling(),
        )
        for role, family, distribution, digest in zip(
            ("reference", "candidate"), families, distributions, replayed_from, strict=True
        )
    }
    found = warnings_of(headers, {("reference", "candidate"): differences or []})
    return [warning.id for warning in found]


def test_nothing_to_say() -> None:
    assert ids() == []


def test_the_engines_own_warnings() -> None:
    expected = ["engine-warns.reference.soft-cap", "engine-warns.candidate.soft-cap"]
    assert ids(warnings={"soft-cap": "no soft cap"}) == expected


@pytest.mark.parametrize(
    ("key", "requested", "expected"),
    [
        ("kv_cache_dtype", False, ["unrequested-difference.kv_cache_dtype"]),
        ("enable_prefix_caching", False, ["unrequested-difference.enable_prefix_caching"]),
        ("kv_cache_dtype", True, []),
        ("block_size", False, []),  # a matter of the version
    ],
)
def test_unrequested_differences(key: str, requested: bool, expected: list[str]) -> None:
    assert ids([Difference(key, "auto", "fp8", requested)]) == expected


def test_what_was_requested_and_has_no_effect() -> None:
    ignored = {"hf_overrides.rope_scaling": "the model was built without scaling"}
    assert ids(without_effect=ignored) == [
        "without-effect.reference.hf_overrides.rope_scaling",
        "without-effect.candidate.hf_overrides.rope_scaling",
    ]


def test_raw_against_processed() -> None:
    assert ids(distributions=("processed", "raw")) == ["mixed-distributions"]


@pytest.mark.parametrize("distribution", ["raw", "processed"])
def test_an_unknown_distribution_is_not_another_one(distribution: str) -> None:
    assert ids(distributions=("unknown", distribution)) == []


def test_a_dump_leaves_its_engines_unknown() -> None:
    assert ids(version="unknown") == ["imported"]


def test_tokens_that_neither_engine_sampled() -> None:
    assert ids(replayed_from=("digest", "digest")) == ["foreign-tokens"]


def test_what_the_checkpoint_would_have_sampled_with() -> None:
    assert ids(defaults="repetition_penalty 1.1") == ["checkpoint-sampling-defaults"]


@pytest.mark.parametrize(
    ("families", "sampling", "expected"),
    [
        (("v0", "v1"), {"top_p": 0.8, "min_p": 0.1}, ["semantics.top-p-and-min-p"]),
        (("v1", "v1"), {"top_p": 0.8, "min_p": 0.1}, []),
        (("v0", "v1"), {"top_p": 0.8}, []),
        (("v0", "v1"), {"top_p": 0.8, "min_p": 0.1, "temperature": 0}, ["semantics.greedy"]),
        (("v1", "v1"), {"temperature": 0}, ["semantics.greedy"]),
        (("v1", "v1"), {"temperature": 0.005}, ["semantics.clamped-temperature"]),
        (("v1", "v1"), {"temperature": 0.01}, []),
    ],
)
def test_meanings_that_no_setting_shows(
    families: tuple[str, str], sampling: dict[str, float], expected: list[str]
) -> None:
    assert ids(families=families, **sampling) == expected


@pytest.mark.parametrize(
    ("truncation", "sampling", "left_out"),
    [
        (False, {}, None),
        (False, {"top_p": 0.9, "min_p": 0.1}, "top_p, min_p"),
        (True, {"top_p": 0.9}, None),
        (True, {"presence_penalty": 0.5}, "presence_penalty"),
        (False, {"top_p": 0.9, "temperature": 0}, None),
    ],
)
def test_what_a_trainer_does_otherwise(
    truncation: bool, sampling: dict[str, float], left_out: str | None
) -> None:
    header: Any = SimpleNamespace(
        engine=described(family="trainer", config={"truncation": truncation}),
        replayed_from=None,
        logprob_distribution="processed",
        sampling=Workload.model_validate(sampling).sampling(),
    )
    found = list(warnings_of({"t": header}, {}))
    path, *others = [each for each in found if each.id.startswith("trainer")]
    assert path.id == "trainer-path.t"
    assert [each.id for each in others] == ["trainer-distribution.t"] * (left_out is not None)
    assert all(f"t does not apply {left_out}, so" in each.message for each in others)
