"""Fingerprints and their differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.described import described
from parity_check.traces.provenance import (
    Difference,
    differences,
    host_fingerprint,
    model_fingerprint,
)

MIB = 1 << 20


def model(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "a.safetensors").write_bytes(bytes(3 * MIB))
    return directory


@pytest.mark.parametrize(
    ("name", "place", "key"),
    [
        ("config.json", 0, "config_sha256"),
        ("tokenizer.json", 0, "tokenizer_sha256"),
        ("a.safetensors", 0, "weights_fingerprint"),
        ("a.safetensors", 2 * MIB + 12345, "weights_fingerprint"),
        ("a.safetensors", 3 * MIB - 1, "weights_fingerprint"),
    ],
)
def test_one_changed_byte_changes_one_digest(
    tmp_path: Path, name: str, place: int, key: str
) -> None:
    directory = model(tmp_path / "m")
    before = model_fingerprint(str(directory), None)
    content = bytearray((directory / name).read_bytes())
    content[place] ^= 1
    (directory / name).write_bytes(content)
    after = model_fingerprint(str(directory), None)
    assert {each for each in before if before[each] != after[each]} == {key}


def test_a_shorter_file_is_another_model(tmp_path: Path) -> None:
    directory = model(tmp_path / "m")
    before = model_fingerprint(str(directory), None)
    (directory / "a.safetensors").write_bytes(bytes(3 * MIB - 1))
    assert model_fingerprint(str(directory), None) != before


def test_the_place_of_a_model_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    there, here = model(tmp_path / "elsewhere" / "m"), model(tmp_path / "m")
    assert model_fingerprint(str(there), None) == model_fingerprint(str(here), None)


def test_a_hub_model_is_its_name_and_revision() -> None:
    assert model_fingerprint("org/name", "abc") == {"name": "org/name", "revision": "abc"}


def test_the_host_is_json_and_does_not_tell_its_name() -> None:
    import platform

    text = json.dumps(host_fingerprint())
    assert platform.node() not in json.loads(text).values()


def test_equal_engines_do_not_differ() -> None:
    one = described({"async_scheduling": False}, config={"dtype": "bfloat16"})
    assert differences(one, one, {}) == ()


def test_unrequested_differences_come_first() -> None:
    left = described(
        {"caching": False, "mode": "raw"}, config={"dtype": "bfloat16", "only_left": 1}
    )
    right = described(
        {"caching": True, "mode": "processed"}, config={"dtype": "float16", "only_right": 2}
    )
    requested = {"caching": (False, True), "mode": ("default", "default"), "dtype": ("a", "b")}
    assert differences(left, right, requested) == (
        Difference("mode", "raw", "processed", False),
        Difference("only_left", 1, None, False),
        Difference("only_right", None, 2, False),
        Difference("caching", False, True, True),
        Difference("dtype", "bfloat16", "float16", True),
    )


def test_what_a_server_does_not_tell_is_unknown_and_not_different() -> None:
    left = described(
        {"caching": False, "mode": "raw"}, config={"dtype": "bfloat16", "max_model_len": 4096}
    )
    right = described(
        {"caching": "unknown", "mode": "processed"},
        config={"max_model_len": 1024},
        backend="endpoint",
    )
    assert differences(left, right, {}) == (
        Difference("mode", "raw", "processed", False),
        Difference("max_model_len", 4096, 1024, False),
    )
