"""The scenario before any engine: its requests, its checkpoints, the modes that a version has."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from parity_check.config.load import load_config
from parity_check.config.models import WeightSync
from parity_check.engines.pauses import Pauses
from parity_check.errors import ConfigError, InputError
from parity_check.traces.prompts import Prompt
from parity_check.weight_sync.scenario import declared_ways, locate_checkpoint, plan_requests


def prompts(*token_ids: list[int]) -> tuple[list[Prompt], list[list[int]]]:
    named = [Prompt(f"p{n}", "all", None, None, ids) for n, ids in enumerate(token_ids)]
    return named, list(token_ids)


def family(first: int, *lengths: int) -> list[list[int]]:
    """Prompts that share all of the shortest one."""
    return [[first] * length + [first + length] for length in lengths]


def test_the_longest_of_each_family_are_in_flight_and_sent_again() -> None:
    plan = plan_requests(*prompts(*family(100, 50, 60), *family(200, 40, 45), *family(300, 5)), 2)
    chosen = {phase: [r.prompt_id for r in plan if r.phase == phase] for phase in PHASES}
    assert chosen["in_flight"] == chosen["reissued"] == ["p1", "p3"]
    assert chosen["fresh"][0] == "p4"  # shares nothing with what was seen
    assert len({r.sample_id for r in plan}) == len(plan)


PHASES = ("in_flight", "reissued", "fresh")


def test_families_are_shared_where_there_are_too_few() -> None:
    plan = plan_requests(*prompts(*family(100, 50, 60, 70)), 2)
    assert [r.prompt_id for r in plan if r.phase == "in_flight"] == ["p2", "p1"]
    assert [r.prompt_id for r in plan if r.phase == "fresh"] == ["p0"]


def test_a_prompt_must_be_left_that_was_not_seen() -> None:
    with pytest.raises(InputError, match="needs more than 3 prompts, got 3"):
        plan_requests(*prompts(*family(100, 50, 60, 70)), 3)


def pauses(version: str | None, family: str = "v1") -> Pauses:
    return Pauses(f"vllm {version}", family, None if version is None else Version(version))


@pytest.mark.parametrize(
    ("engine", "mode", "clear", "refused"),
    [
        (pauses("0.8.5", "v0"), "keep", False, None),
        (pauses("0.8.5", "v0"), "keep", True, "is a V0 engine"),
        (pauses("0.8.5", "v0"), "wait", False, "is a V0 engine"),
        (pauses("0.10.2", "v0"), "abort", False, "is a V0 engine"),
        (pauses("0.15.1"), "keep", False, "V1 has them since 0.17"),
        (pauses("0.16.0"), "wait", True, "V1 has them since 0.17"),
        (pauses("0.18.1"), "wait", True, None),
        (pauses("0.32.0"), "abort", False, None),
        (pauses(None), "keep", True, None),
    ],
)
def test_modes_that_a_version_lacks(
    engine: Pauses, mode: str, clear: bool, refused: str | None
) -> None:
    reason = engine.refusal(mode, clear)
    assert (reason is None) == (refused is None)
    assert refused is None or refused in str(reason)


def test_v0_keeps_its_boundary_beside_v1_only() -> None:
    settings = WeightSync(mode="wait", clear_cache=True)
    both = {"reference": pauses("0.8.5", "v0"), "candidate": pauses("0.18.1")}
    assert declared_ways(both, settings) == {  # type: ignore[arg-type]
        "reference": ("keep", False),
        "candidate": ("wait", True),
    }
    with pytest.raises(ConfigError, match="only be paused between two steps"):
        declared_ways({"reference": both["reference"]}, settings)


def test_a_checkpoint_is_a_directory_with_safetensors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        locate_checkpoint(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no \*\.safetensors in"):
        locate_checkpoint(str(tmp_path))
    assert locate_checkpoint("bundled:tiny-next").endswith("tiny-next")


def test_paths_are_beside_the_configuration(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "next").mkdir(parents=True)
    file = home / "parity.toml"
    engines = '[reference]\nkind = "fake"\n[candidate]\nkind = "fake"\n'
    file.write_text(engines + '[weight_sync]\nweights = ["next", "bundled:tiny"]\n')
    found = load_config(file).weight_sync
    assert found is not None
    assert found.weights == [str(home / "next"), "bundled:tiny"]
    assert found.python_path == str(home)
    file.write_text(engines)
    assert load_config(file).weight_sync is None
