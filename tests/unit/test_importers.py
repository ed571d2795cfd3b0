"""Each importer on dumps as its framework writes them, and what it does with what they hold."""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import dumps
from parity_check.errors import ConfigError, InputError
from parity_check.importers.dump import Dumped
from parity_check.importers.formats import IMPORTERS, importer
from parity_check.importers.torch_file import Opaque, read_pickle, read_torch
from parity_check.importers.turns import Imported, collect

SAMPLES = Path(__file__).parents[2] / "docs" / "guides" / "dumps"
FILES = {
    "prime-rl": "prime-rl.jsonl",
    "slime": "slime.pt",
    "verl": "verl.dp",
    "trl": "trl.jsonl",
    "openai": "openai.jsonl",
}


def imported(name: str, *paths: Path) -> Imported:
    return collect(importer(name).read(paths))


def values(logprobs: Sequence[float | None]) -> list[float]:
    """As the Parquet file keeps them."""
    return [float(np.float32(np.nan if each is None else each)) for each in logprobs]


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
    if name == "openai":
        assert found.evaluating is None
    else:
        assert found.evaluating is not None
        assert expected.evaluating is not None
        for one, other in zip(found.evaluating, expected.evaluating, strict=True):
            assert values(one.logprobs) == values(other.logprobs)


def test_an_unknown_format_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="unknown format slim") as caught:
        importer("slim")
    assert caught.value.hint == "did you mean slime?"


# --- turns ----------------------------------------------------------------------------------------


def dumped(sampled: list[bool], **fields: Any) -> Dumped:
    size = len(sampled)
    logprobs = [-float(each) for each in range(size)]
    return Dumped(
        **{
            "place": "here", "sample_id": "s", "token_ids": list(range(100, 100 + size)),
            "sampled": sampled, "behaviour": logprobs, "evaluating": logprobs, **fields,
        }
    )  # fmt: skip


def test_masked_tokens_are_context_and_never_measured() -> None:
    found = collect([dumped([False, False, True, True, False, False, True])])
    first, second = found.behaviour
    assert (first.prompt_token_ids, first.completion_token_ids) == ([100, 101], [102, 103])
    assert second.prompt_token_ids == [100, 101, 102, 103, 104, 105]
    assert (second.completion_token_ids, second.logprobs) == ([106], [-6.0])
    assert (first.sample_id, second.sample_id) == ("s/turn-0", "s/turn-1")
    assert first.prompt_id == second.prompt_id, "turns of a sequence are of one cluster"
    assert (found.masked, found.sequences) == (2, 1)


def test_samples_of_a_prompt_are_found_by_their_ids() -> None:
    same = [dumped([False, True], sample_id=name) for name in "ab"]
    other = dumped([False, True], sample_id="c", token_ids=[7, 101])
    found = collect([*same, other]).behaviour
    assert [each.sample_index for each in found] == [0, 1, 0]
    assert found[0].prompt_id == found[1].prompt_id != found[2].prompt_id


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_turns_hold_every_sampled_token_once(sampled: list[bool]) -> None:
    if not any(sampled):
        with pytest.raises(InputError, match="all tokens are masked"):
            collect([dumped(sampled)])
        return
    found = collect([dumped(sampled)])
    tokens = [token for each in found.behaviour for token in each.completion_token_ids]
    assert tokens == [100 + place for place, own in enumerate(sampled) if own]
    for each in found.behaviour:
        start = each.completion_token_ids[0] - 100
        assert list(each.prompt_token_ids) == list(range(100, 100 + start))


def test_a_sequence_without_sampled_tokens_is_counted() -> None:
    found = collect([dumped([True], sample_id="a"), dumped([False], sample_id="b")])
    assert (len(found.behaviour), found.unsampled, found.sequences) == (1, 1, 2)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([], "the dump is empty"),
        ([dumped([True]), dumped([True])], "sample s already occurred at here"),
        ([dumped([True]), dumped([True], sample_id="t", evaluating=None)], "no trainer logprobs"),
    ],
)
def test_what_makes_no_trace(sequences: list[Dumped], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        collect(sequences)


# --- prime-rl -------------------------------------------------------------------------------------


def test_prime_rl_keeps_what_is_wrong_for_the_counts(tmp_path: Path) -> None:
    line = dumps.prime_rl([1], [2, 3, 4], [None, -9999.0, -0.5], [-0.1, -0.2, None])
    found = imported("prime-rl", dumps.write_lines(tmp_path / "rank_0.jsonl", [line]))
    [sample] = found.behaviour
    assert sample.logprobs == [None, -9999.0, -0.5]
    assert sample.sample_id == "step-12/rank-0/0"
    assert sample.prompt_group == "math"


def test_prime_rl_leaves_out_tokens_of_other_components(tmp_path: Path) -> None:
    """As its own mismatch KL does: a token counts where rl or ref_kl weigh it."""
    streams = {"rl_weights": [1, 1, 0, 0], "ref_kl_weights": [0, 0, 0, 1]}
    line = dumps.prime_rl([1], [2, 3, 4], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], **streams)
    found = imported("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", [line]))
    assert [each.completion_token_ids for each in found.behaviour] == [[2], [4]]
    line["rl_weights"] = [None] * 4
    found = imported("prime-rl", dumps.write_lines(tmp_path / "b.jsonl", [line]))
    assert [each.completion_token_ids for each in found.behaviour] == [[2, 3, 4]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_ids": None}, "line 1: `token_ids` is missing"),
        ({"trainer_logprobs": None}, "line 1: `trainer_logprobs` is missing"),
        ({"trainer_logprobs": [0.0]}, "`trainer_logprobs` has 1 entries, but `token_ids` has 3"),
        ({"inference_logprobs": "low"}, "`inference_logprobs` is not a list of logprobs"),
        ({"inference_logprobs": [0, 0, "x"]}, "contains 'x', which is not a logprob"),
        ({"token_ids": [1, 2, -1]}, "contains -1, which is not a token id"),
        ({"token_ids": [1, 2, 2**31]}, "which is not a token id"),
        ({"token_ids": [1, 2, 2.5]}, "which is not a token id"),
        ({"loss_mask": [0, 1, 2]}, "`loss_mask` is not a list of 0 and 1"),
        ({"schema_version": 2}, "token export schema 2, but this version of parity-check reads 1"),
    ],
)
def test_prime_rl_refuses(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    line = dumps.prime_rl([1], [2, 3], [-1.0, -2.0], [-1.0, -2.0]) | change
    with pytest.raises(InputError) as caught:
        imported("prime-rl", dumps.write_lines(tmp_path / "rank_0.jsonl", [line]))
    assert expected in caught.value.message


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


# --- slime ----------------------------------------------------------------------------------------


def test_slime_train_data_has_both_sides(tmp_path: Path) -> None:
    sample = dumps.slime_train(
        [1, 2], [3, 4, 5], loss_masks=np.array([1, 0, 1], np.int32), truncated=1
    )
    found = imported("slime", dumps.slime_dump(tmp_path / "3.pt", [sample]))
    assert [each.completion_token_ids for each in found.behaviour] == [[3], [5]]
    assert found.evaluating is not None
    assert [each.logprobs for each in found.evaluating] == [[-0.25], [-0.25]]
    assert [each.finish_reason for each in found.behaviour] == [None, "length"]


def test_slime_rollout_data_has_one(tmp_path: Path) -> None:
    dump = dumps.slime_dump(tmp_path / "3.pt", [dumps.slime_rollout([1], [2, 3])], trained=False)
    [sample] = (found := imported("slime", dump)).behaviour
    assert found.evaluating is None
    assert (sample.prompt_id, sample.policy_version) == ("rollout-3/group-4", 7)
    assert (sample.finish_reason, sample.text) == ("length", " 4")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rollout_log_probs": None}, "sample 0: `rollout_log_probs` is missing"),
        ({"log_probs": np.zeros(1, np.float32)}, "`log_probs` has 1 entries"),
        ({"response_lengths": 9}, "a response of 9 tokens in a sequence of 4"),
        ({"tokens": np.zeros((2, 2), np.int64)}, "which is not a token id"),
    ],
)
def test_slime_refuses(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    sample = dumps.slime_train([1, 2], [3, 4], **change)
    with pytest.raises(InputError) as caught:
        imported("slime", dumps.slime_dump(tmp_path / "3.pt", [sample]))
    assert expected in caught.value.message


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


# --- verl, trl, openai ----------------------------------------------------------------------------


def test_verl_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    row = {"input": "2 + 2 =", "output": " 4", "gts": "4", "score": 1.0, "step": 3}
    with pytest.raises(InputError, match="has only text, no token ids") as caught:
        imported("verl", dumps.write_lines(tmp_path / "3.jsonl", [row]))
    assert "save_to_disk" in (caught.value.hint or "")


def test_verl_refuses_another_pickle(tmp_path: Path) -> None:
    (tmp_path / "x.dp").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="not a verl DataProto"):
        imported("verl", tmp_path / "x.dp")


def batch(**changed: Any) -> dict[str, Any]:
    """Two samples: a short prompt padded on the left; a response of two turns, and a padded one."""
    tensors = {
        "prompts": np.array([[1, 2], [0, 3]]),
        "responses": np.array([[10, 11, 12], [13, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]),
        "response_mask": np.array([[1, 0, 1], [1, 0, 0]]),
        "rollout_log_probs": np.array([[-1, -9, -2], [-3, 0, 0]], np.float32),
        **changed,
    }
    return {name: each for name, each in tensors.items() if each is not None}


def test_verl_padding_and_masks(tmp_path: Path) -> None:
    columns = {"uid": np.array(["u", "v"], object), "data_source": np.array(["math"] * 2, object)}
    path = dumps.verl_dump(tmp_path / "gen_batch.dp", batch(), columns)
    found = imported("verl", path)
    assert found.evaluating is None
    first, second, third = found.behaviour
    assert (first.prompt_token_ids, first.completion_token_ids) == ([1, 2], [10])
    assert (second.prompt_token_ids, second.completion_token_ids) == ([1, 2, 10, 11], [12])
    assert (third.prompt_token_ids, third.completion_token_ids) == ([3], [13])
    assert [each.prompt_id for each in found.behaviour] == ["u", "u", "v"]
    assert third.prompt_group == "math"
    assert [each.logprobs for each in found.behaviour] == [[-1.0], [-2.0], [-3.0]]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rollout_log_probs": None}, "`rollout_log_probs` is missing"),
        ({"attention_mask": None}, "`attention_mask` is missing"),
        ({"old_log_probs": np.zeros((2, 2), np.float32)}, "`old_log_probs` has shape 2×2"),
        ({"prompts": np.array([[1, 2], [0, -3]])}, "contains -3, which is not a token id"),
    ],
)
def test_verl_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    path = dumps.verl_dump(tmp_path / "batch.dp", batch(**changed), {})
    with pytest.raises(InputError) as caught:
        imported("verl", path)
    assert expected in caught.value.message


def test_trl_takes_a_batch_of_the_server(tmp_path: Path) -> None:
    """Two prompts, two completions each, and the sampled token is not the likeliest."""
    batch = {
        "prompt_ids": [[1, 2], [3]],
        "completion_ids": [[10, 11], [12], [13], [14]],
        "logprobs": [[[-0.1, -3.0], [-0.2, -0.9]], [[-0.3, -1.0]], [[None, -1.0]], [[-0.5, -0.7]]],
        "logprob_token_ids": [[[10, 99], [98, 11]], [[12, 97]], [[13, 96]], [[95, 14]]],
    }
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [batch]))
    assert [each.prompt_token_ids for each in found.behaviour] == [[1, 2], [1, 2], [3], [3]]
    assert [each.logprobs for each in found.behaviour] == [[-0.1, -0.9], [-0.3], [None], [-0.7]]
    assert found.behaviour[0].top_token_ids == [[10, 99], [98, 11]]
    assert found.behaviour[2].top_token_ids == [[96]], "an entry that vLLM lost is left out"


def test_trl_masks(tmp_path: Path) -> None:
    row = {
        "prompt_ids": [1], "completion_ids": [2, 3, 4, 0], "completion_mask": [1, 1, 1, 0],
        "sampling_per_token_logps": [-1.0, -2.0, -3.0, 0.0],
        "old_per_token_logps": [-1.0, -2.0, -3.5, 0.0],
    }  # fmt: skip
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    [sample] = found.behaviour
    assert sample.completion_token_ids == [2, 3, 4], "padding is gone"
    found = imported(
        "trl", dumps.write_lines(tmp_path / "b.jsonl", [{**row, "env_mask": [1, 0, 1, 0]}])
    )
    assert [each.completion_token_ids for each in found.behaviour] == [[2], [4]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt_ids": [1], "logprobs": [-1.0]}, "`completion_ids` is missing"),
        ({"completion_ids": [1], "logprobs": [-1.0]}, "`prompt_ids` is missing"),
        ({"prompt_ids": [1], "completion_ids": [1]}, "`logprobs` is missing"),
        (
            {"prompt_ids": [1], "completion_ids": [1, 2], "logprobs": [-1.0]},
            "`logprobs` has 1 entries, but `completion` has 2",
        ),
        (
            {"prompt_ids": [1], "completion_ids": [1], "logprobs": [[-1.0, -2.0]]},
            "several `logprobs` per token, but no `logprob_token_ids`",
        ),
    ],
)
def test_trl_refuses(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    assert expected in caught.value.message


def chat(**fields: Any) -> dict[str, Any]:
    content = [
        {"token": "4", "logprob": -0.25, "bytes": [52], "top_logprobs": []},
        {"token": ".", "logprob": -9999.0, "bytes": [46], "top_logprobs": []},
    ]
    choice = {
        "index": 0, "message": {"role": "assistant", "content": "4."}, "finish_reason": "stop",
        "logprobs": {"content": content}, "token_ids": [52, 46],
    }  # fmt: skip
    return {
        "object": "chat.completion", "model": "tiny", "choices": [choice | fields],
        "prompt_token_ids": [1, 2],
    }  # fmt: skip


def test_a_chat_response(tmp_path: Path) -> None:
    found = imported("openai", dumps.write_lines(tmp_path / "a.jsonl", [chat()]))
    [sample] = found.behaviour
    assert (sample.prompt_token_ids, sample.completion_token_ids) == ([1, 2], [52, 46])
    assert sample.logprobs == [-0.25, -9999.0]
    assert (sample.text, sample.finish_reason) == ("4.", "stop")
    assert found.texts == {52: "4", 46: "."}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([chat(token_ids=None)], "`token_ids` is missing"),
        ([chat(token_ids=[52])], "`token_logprobs` has 2 entries, but `token_ids` has 1"),
        ([chat(logprobs=None)], "`logprobs` is missing"),
        ([{**chat(), "prompt_token_ids": None}], "`prompt_token_ids` is missing"),
        (
            [chat(), {**chat(), "model": "other"}],
            "line 2: a response of model other, but earlier ones are of",
        ),
        ([{"error": {"message": "no"}}], "`choices` is missing"),
    ],
)
def test_openai_refuses(tmp_path: Path, rows: list[Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        imported("openai", dumps.write_lines(tmp_path / "a.jsonl", rows))
    assert expected in caught.value.message


def test_logprobs_survive_exactly(tmp_path: Path) -> None:
    """A float32 that was written as JSON comes back as the same float32."""
    exact = [float(np.float32(-math.pi)), float(np.float32(-1e-7))]
    line = json.loads(json.dumps(dumps.prime_rl([1], [2, 3], exact, exact)))
    found = imported("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", [line]))
    assert values(found.behaviour[0].logprobs) == exact


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
    "openai": chat(),
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
