"""Each importer on dumps as its framework writes them, and what it does with what they hold."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import dumps
from helpers.imported import SAMPLES, imported, values
from parity_check.errors import ConfigError, InputError
from parity_check.importers.formats import (
    IMPORTERS,
    check_format,
    find_format,
    format_of,
    importer,
)
from parity_check.importers.torch_file import Opaque, read_pickle, read_torch

FILES = {
    "prime-rl": "prime-rl.jsonl",
    "slime": "slime.pt",
    "miles": "miles.pt",
    "verl": "verl.dp",
    "trl": "trl.jsonl",
    "pipelinerl": "pipelinerl.jsonl",
    "nemo-rl": "nemo-rl.jsonl",
    "skyrl": "skyrl.pkl",
    "open-instruct": "open-instruct.jsonl",
    "openai": "openai.jsonl",
}
ONE_SIDED = ("pipelinerl", "open-instruct", "openai")


# --- all formats ----------------------------------------------------------------------------------


def test_every_format_has_a_sample() -> None:
    assert FILES.keys() == IMPORTERS.keys()
    assert all((SAMPLES / name).is_file() for name in FILES.values())


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_samples_are_the_same_rollouts(name: str) -> None:
    expected = imported("prime-rl", SAMPLES / "prime-rl.jsonl")
    found = imported(name, SAMPLES / FILES[name])
    assert len(found.behaviour) == len(expected.behaviour) > 16
    for one, other in zip(found.behaviour, expected.behaviour, strict=True):
        assert list(one.prompt_token_ids) == list(other.prompt_token_ids)
        assert list(one.completion_token_ids) == list(other.completion_token_ids)
        assert values(one.logprobs) == values(other.logprobs)
    assert len({each.prompt_id for each in found.behaviour}) == len(found.behaviour)
    if name in ONE_SIDED:
        assert found.evaluating is None
    else:
        assert found.evaluating is not None
        assert expected.evaluating is not None
        for one, other in zip(found.evaluating, expected.evaluating, strict=True):
            assert values(one.logprobs) == values(other.logprobs)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_format_is_found_by_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / "renamed"
    path.write_bytes((SAMPLES / FILES[name]).read_bytes())
    assert format_of(path) == find_format([path]) == name
    check_format(name, [path])


def test_a_dump_of_another_framework_says_which_it_looks_like() -> None:
    with pytest.raises(InputError, match=r"slime\.pt: looks like a dump of slime, not of trl"):
        check_format("trl", [SAMPLES / "slime.pt"])
    check_format("miles", [SAMPLES / "slime.pt"])  # its rollout_data is slime's


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("slime.pt", "trl.jsonl"), "files of several formats"),
        (("README",), "not a dump of a known format"),
    ],
)
def test_files_of_no_one_format(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    (tmp_path / "README").write_text('{"step": 1, "loss": 0.5}\n')
    paths = [tmp_path / name if name == "README" else SAMPLES / name for name in names]
    with pytest.raises(InputError, match=expected):
        find_format(paths)


@pytest.mark.parametrize("name", ["prime-rl", "trl", "pipelinerl", "nemo-rl", "open-instruct"])
def test_a_mask_that_is_not_known_is_an_error(tmp_path: Path, name: str) -> None:
    """Not applied, it would give wrong numbers without a word."""
    line = json.loads((SAMPLES / FILES[name]).read_text(encoding="utf-8").splitlines()[0])
    row = line[0] if isinstance(line, list) else line
    row["reward_mask"] = [1]
    path = dumps.write_lines(tmp_path / "a.jsonl", [line])
    with pytest.raises(InputError, match="`reward_mask` looks like a mask"):
        imported(name, path)


def test_an_unknown_format_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="unknown format slim") as caught:
        importer("slim")
    assert caught.value.hint == "did you mean slime?"


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prime-rl", "trl", "openai"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b'{"a": 1}\n{"a": [1, 2', "line 2: not valid JSON, or truncated"),
        (b"[1]\n", "line 1: expected an object"),
        (b"\xff\xfe\n", "not UTF-8: invalid start byte"),
        (b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_lines_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    first = content.partition(b"\n")[0]
    lines = (SAMPLES / FILES[name]).read_bytes().splitlines()[0] if first == b'{"a": 1}' else first
    (tmp_path / "dump.jsonl").write_bytes(content.replace(first, lines, 1) if first else content)
    with pytest.raises(InputError, match=expected):
        imported(name, tmp_path / "dump.jsonl")


@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="No such file"):
        imported(name, tmp_path / "missing")


# --- files of torch -------------------------------------------------------------------------------


class Malicious:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "dump.pt"
    tree = {"rollout_id": 1, "samples": [Malicious(witness)]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(tree))
    found = read_torch(path)["samples"][0]
    assert isinstance(found, Opaque)
    assert found.named in ("posix.system", "nt.system")
    (tmp_path / "x.dp").write_bytes(pickle.dumps(tree))
    assert isinstance(read_pickle(tmp_path / "x.dp")["samples"][0], Opaque)
    with pytest.raises(InputError, match="sample 0: expected a dictionary"):
        imported("slime", path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(tree))
    assert witness.exists(), "the test would see it"


@pytest.mark.parametrize("size", [0, 1, 40, 200, 1000, -3000, -30])
@pytest.mark.parametrize("name", ["slime", "verl"])
def test_a_file_cut_short(tmp_path: Path, name: str, size: int) -> None:
    whole = (SAMPLES / FILES[name]).read_bytes()
    path = tmp_path / FILES[name]
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match=FILES[name]):
        imported(name, path)


@pytest.mark.parametrize(
    "call",
    [
        (0, (4,), (2,)),  # reaches beyond the storage
        (5, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**12,), (0,)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(tmp_path: Path, call: Any) -> None:
    with mock_rebuild(call):
        path = dumps.torch_save({"x": np.arange(4, dtype=np.float32)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="damaged or truncated: a tensor"):
        read_torch(path)


def mock_rebuild(call: Any) -> Any:
    from unittest import mock

    def reduced(self: Any, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        return dumps.REBUILD, (dumps.Storage(obj), *call, False, {})

    return mock.patch.object(dumps.Pickler, "reducer_override", reduced)


def test_strides_are_honoured(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    with mock_rebuild((1, (2, 2), (1, 2))):
        path = dumps.torch_save({"x": values}, tmp_path / "x.pt")
    assert read_torch(path)["x"].tolist() == [[1.0, 3.0], [2.0, 4.0]]


# --- anything else --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3)
    ),
    max_leaves=4,
)
LINES = {
    "prime-rl": dumps.prime_rl([1], [2, 3], [-1.0, -2.0], [-1.0, -2.0], rl_weights=[1, 1, 0]),
    "trl": {
        "prompt_ids": [1], "completion_ids": [2], "logprobs": [[-1.0, -2.0]],
        "logprob_token_ids": [[2, 3]], "old_per_token_logps": [-1.0], "env_mask": [1],
    },
    "openai": dumps.chat(),
    "nemo-rl": dumps.nemo_rl([1], [2, 3], width=5),
    "pipelinerl": dumps.pipelinerl([1], [2, 3]),
    "open-instruct": dumps.open_instruct([1], [2, 3]),
}  # fmt: skip
SAMPLE = dumps.slime_rollout([1], [2, 3])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a tree has a value."""
    inner = tree if isinstance(tree, dict | list) else []
    items = inner.items() if isinstance(inner, dict) else enumerate(inner)
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("name", [*LINES, "slime"])
@given(data=st.data())
def test_one_wrong_value_is_read_or_refused(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = LINES.get(name, SAMPLE)
    broken = replaced(line, data.draw(st.sampled_from(places(line))), data.draw(JSON))
    directory = tmp_path_factory.mktemp("dump")
    path = (
        dumps.write_lines(directory / "a.jsonl", [broken])
        if name in LINES
        else dumps.slime_dump(directory / "a.pt", [broken], trained=False)
    )
    try:
        found = imported(name, path)
    except InputError:
        return
    for sample in found.behaviour:
        assert len(sample.logprobs) == len(sample.completion_token_ids)
