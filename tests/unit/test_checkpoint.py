"""The model that is loaded, and whether engines read it as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.described import described
from parity_check.config.models import ModelConfig
from parity_check.errors import ConfigError, InputError
from parity_check.traces.checkpoint import (
    check_files,
    check_reading,
    locate_model,
    read_config,
    rope_theta,
)
from parity_check.traces.engine import EngineDescription


def test_the_bundled_model_is_found_and_read() -> None:
    path = locate_model(ModelConfig())
    config = read_config(path)
    assert config is not None
    assert rope_theta(config) is not None
    assert config["torch_dtype"] == "bfloat16"


def test_a_hub_name_needs_a_revision() -> None:
    assert locate_model(ModelConfig(path="org/name", revision="abc")) == "org/name"
    assert read_config("org/name") is None
    with pytest.raises(ConfigError, match="a hub name needs a revision"):
        locate_model(ModelConfig(path="org/name"))


@pytest.mark.parametrize("path", ["/no/such/dir", "nowhere", "a/b/c"])
def test_a_missing_model_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=f"^model {path}: no such directory$"):
        locate_model(ModelConfig(path=path))


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: not valid JSON"):
        read_config(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_theta": 10000}, 1e4),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, 5e5),
        ({"rope_theta": 1e4, "rope_parameters": None}, 1e4),
        ({"text_config": {"rope_theta": 1e6}}, 1e6),
        ({}, None),
    ],
)
def test_the_rope_base_of_either_form(config: dict[str, Any], expected: float | None) -> None:
    assert rope_theta(json.loads(json.dumps(config))) == expected


def reading(theta: float | None, **config: Any) -> EngineDescription:
    return described(model={"rope_theta": theta}, config=config)


@pytest.mark.parametrize(("written", "read"), [(5e5, 5e5), (500000, 5e5), (None, 1e4), (5e5, None)])
def test_a_faithful_reading_passes(written: float | None, read: float | None) -> None:
    config = {} if written is None else {"rope_theta": written}
    check_reading("candidate", reading(read, dtype="bfloat16"), "bfloat16", config, {})


def test_another_rope_base_is_refused() -> None:
    with pytest.raises(InputError, match=r"reads rope_theta 10000 .* config.json has 500000"):
        check_reading("candidate", reading(1e4), "bfloat16", {"rope_theta": 5e5}, {})


@pytest.mark.parametrize(
    "overrides", [{"rope_theta": 2e4}, {"rope_parameters": {"rope_theta": 2e4}}]
)
def test_a_requested_rope_base_passes(overrides: dict[str, Any]) -> None:
    config = {"rope_theta": 1e4}
    check_reading("candidate", reading(2e4), "bfloat16", config, overrides)
    with pytest.raises(InputError, match=r"has rope_theta 10000, .* hf_overrides request 20000"):
        check_reading("candidate", reading(1e4), "bfloat16", config, overrides)


def test_another_override_asks_for_no_base() -> None:
    with pytest.raises(InputError, match=r"config.json has 500000"):
        check_reading("candidate", reading(1e4), "bfloat16", {"rope_theta": 5e5}, {"eps": 1.0})


def test_another_dtype_is_refused() -> None:
    with pytest.raises(
        InputError, match="candidate engine runs in float16, but float32 was requested"
    ):
        check_reading("candidate", reading(None, dtype="float16"), "float32", {}, {})


def test_an_adapter_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="a LoRA adapter"):
        locate_model(ModelConfig(path=str(tmp_path)))


def test_gguf_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").touch()
    for path in (tmp_path, tmp_path / "model-q4.gguf"):
        with pytest.raises(InputError, match="GGUF is not supported"):
            locate_model(ModelConfig(path=str(path)))
    (tmp_path / "config.json").write_text("{}")
    assert locate_model(ModelConfig(path=str(tmp_path))) == str(tmp_path)


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    """As in a cache of the hub whose blobs were pruned."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(
        InputError, match=r"model.safetensors is a link to a file that is not there"
    ):
        check_files(str(tmp_path), tokenizer=False)
