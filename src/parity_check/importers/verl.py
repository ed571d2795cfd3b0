"""verl's batches, from its rollout cache or `save_to_disk`.

The default trainer's cache (V1) is `<step>/<inner>/tq_batch.pt`, written with
`skip.rollout_tq.enable=true` by verl/utils/skip/rollout_skip.py (verl-project/verl): a file of
torch.save, whose TensorDict has jagged tensors, one row per trajectory, without padding:

    {"tensordict": {"prompts": [B, *], "responses": [B, *], "response_mask": [B, *],
                    "loss_mask": [B, *], "rollout_log_probs": [B, *], "uid": […]},
     "keys": ["<uid>_<session>_<index>", …], "tags": […], "global_steps": 3}

The V0 trainer's cache, `<step>/gen_batch.dp` (`skip.rollout.enable=true`, with `steps` named), and
`batch.save_to_disk("batch.dp")` in ray_trainer.py go through verl/protocol.py: a pickle of a
DataProto, with right-padded responses after left-padded prompts:

    prompts [B, P]   responses [B, R]   attention_mask [B, P + R]   response_mask [B, R]
    rollout_log_probs [B, R] (actor_rollout_ref.rollout.calculate_log_probs=true)
    old_log_probs [B, R] (the trainer's, once they are computed)

Both caches have the rollout engine's side; a batch saved once it has old_log_probs has both.
`trainer.rollout_data_dir`, on the other hand, is text without token ids or logprobs
(`_dump_generations`): it is refused, because text does not say which tokens were sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, check_lengths, check_masks, mask_list, token_list
from parity_check.importers.torch_file import (
    DTYPES,
    Opaque,
    decoded,
    guarded_archive,
    is_archive,
    read_pickle,
    read_torch,
)

Arrays = dict[str, NDArray[Any]]

TEXT_DUMP = (
    "save the batch itself: skip.rollout_tq.enable=true, or batch.save_to_disk(…) once it has "
    "old_log_probs"
)
NO_LOGPROBS = "set actor_rollout_ref.rollout.calculate_log_probs=true"
MASKS = ("attention_mask", "response_mask", "loss_mask")


def recognise(tree: Any) -> bool:
    """Whether the object in a file has this format."""
    if isinstance(tree, dict):
        return "tensordict" in tree and "keys" in tree
    return isinstance(tree, Opaque) and tree.named == "verl.protocol.DataProto"


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        if path.suffix in (".jsonl", ".json"):
            raise InputError(
                f"{path}: verl's rollout_data_dir has only text, no token ids or logprobs",
                hint=TEXT_DUMP,
            )
        if is_archive(path):
            yield from _trajectories(path)
        else:
            yield from _sequences(path, *_batch(path))


def _trajectories(path: Path) -> Iterator[Dumped]:
    """The rows of a cache of the V1 trainer."""
    tree = read_torch(path)
    if not recognise(tree):
        raise InputError(f"{path}: no `tensordict` and `keys`: not a verl tq_batch.pt")
    found = _tensordict(tree["tensordict"])
    check_masks(found, MASKS, str(path))
    columns: dict[str, list[Any]] = {"keys": [str(key) for key in tree["keys"]]}
    for name in ("prompts", "responses", "response_mask", "rollout_log_probs"):
        if name not in found:
            hint = NO_LOGPROBS if name == "rollout_log_probs" else None
            raise InputError(f"{path}: `{name}` is missing", hint=hint)
    for name in ("prompts", "responses", *MASKS, "rollout_log_probs", "old_log_probs"):
        if name in found:
            columns[name] = _rows(found[name], name, path)
    check_lengths(columns, str(path))
    uids, sources = (_strings(found.get(name)) for name in ("uid", "data_source"))
    for row, key in enumerate(columns["keys"]):
        place = f"{path}, trajectory {key}"
        prompt = token_list(columns["prompts"][row], "prompts", place)
        response = token_list(columns["responses"][row], "responses", place)
        masks: dict[str, list[bool]] = {
            name: mask_list(columns[name][row], name, place)
            for name in ("response_mask", "loss_mask")
            if name in columns
        }
        if "attention_mask" in columns and not all(columns["attention_mask"][row]):
            raise InputError(f"{place}: padded, but trajectories of the cache are not padded")
        sides: dict[str, list[Any]] = {
            name: columns[name][row]
            for name in ("rollout_log_probs", "old_log_probs")
            if name in columns
        }
        check_lengths({"responses": response, **masks, **sides}, place)
        sampled = [all(each) for each in zip(*masks.values(), strict=True)]
        before: list[Any] = [None] * len(prompt)
        yield Dumped(
            place=place,
            sample_id=f"step-{tree.get('global_steps')}/{key}",
            token_ids=[*prompt, *response],
            sampled=[False] * len(prompt) + sampled,
            behaviour=[*before, *sides["rollout_log_probs"]],
            evaluating=[*before, *sides["old_log_probs"]] if "old_log_probs" in sides else None,
            prompt_id=uids[row] if row < len(uids) else key.split("_")[0],
            group=sources[row] if row < len(sources) else "",
        )


def _rows(column: Any, name: str, path: Path) -> list[list[Any]]:
    """The rows of a jagged tensor."""
    if not isinstance(column, list) or not all(isinstance(each, np.ndarray) for each in column):
        raise InputError(f"{path}: `{name}` is not a jagged tensor")
    return [each.tolist() for each in column]


def _batch(path: Path) -> tuple[Arrays, Mapping[str, Any]]:
    """The tensors of a DataProto, and its other columns."""
    proto = read_pickle(path)
    state = proto.state if isinstance(proto, Opaque) else None
    if not isinstance(state, tuple) or len(state) != 3 or not isinstance(state[0], bytes):
        raise InputError(
            f"{path}: not a verl DataProto",
            hint="write it with DataProto.save_to_disk, without "
            "VERL_DATAPROTO_SERIALIZATION_METHOD",
        )
    found = _tensordict(guarded_archive(state[0], path))
    tensors = {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
    if not tensors:
        raise InputError(f"{path}: the DataProto has no tensors")
    return tensors, state[1] if isinstance(state[1], dict) else {}


def _tensordict(batch: Any) -> dict[str, Any]:
    """The tensors of a TensorDict, in one consolidated storage or separate ones."""
    if not isinstance(batch, Opaque):
        return {}
    if batch.named.endswith("_rebuild_tensordict_files_consolidated"):
        described, storage = batch.arguments
        leaves = described["leaves"].items()
        return {name: _leaf(storage, *leaf[:4]) for name, leaf in leaves}
    made = batch.named.endswith("_make_td") and len(batch.arguments) == 2
    state = batch.arguments[1] if made else batch.state
    found = state.get("_tensordict", {}) if isinstance(state, dict) else {}
    return dict(found) if isinstance(found, dict) else {}


def _leaf(storage: NDArray[Any], dtype: str, shape: list[int], first: int, last: int) -> Any:
    values = storage[first:last].view(DTYPES[dtype])
    return decoded(values, dtype).reshape(shape)


def _sequences(path: Path, tensors: Arrays, names: Mapping[str, Any]) -> Iterator[Dumped]:
    check_masks(tensors, MASKS, str(path))
    for name in ("prompts", "responses", "response_mask", "attention_mask"):
        if name not in tensors:
            raise InputError(f"{path}: `{name}` is missing")
    if "rollout_log_probs" not in tensors:
        raise InputError(f"{path}: `rollout_log_probs` is missing", hint=NO_LOGPROBS)
    _check_shapes(path, tensors)
    width = tensors["prompts"].shape[1]
    uids = _strings(names.get("uid"))
    sources = _strings(names.get("data_source"))
    old = tensors.get("old_log_probs")
    for row in range(len(tensors["prompts"])):
        there = tensors["attention_mask"][row].astype(bool)
        ids = np.concatenate([tensors["prompts"][row], tensors["responses"][row]])[there]
        place = f"{path}, sample {row}"
        mask = np.concatenate([np.zeros(width, bool), tensors["response_mask"][row] != 0])
        if "loss_mask" in tensors:
            mask &= np.pad(tensors["loss_mask"][row] != 0, (len(mask), 0))[-len(mask) :]
        sides = [
            None if each is None else np.concatenate([np.full(width, np.nan), each[row]])[there]
            for each in (tensors["rollout_log_probs"], old)
        ]
        assert sides[0] is not None
        yield Dumped(
            place=place,
            sample_id=f"{path.parent.name}-{path.stem}/{row}",
            token_ids=token_list(ids.tolist(), "prompts and responses", place),
            sampled=mask[there].tolist(),
            behaviour=sides[0].tolist(),
            evaluating=None if sides[1] is None else sides[1].tolist(),
            prompt_id=uids[row] if row < len(uids) else None,
            group=sources[row] if row < len(sources) else "",
        )


def _check_shapes(path: Path, tensors: Arrays) -> None:
    if tensors["prompts"].ndim != 2:
        raise InputError(f"{path}: `prompts` has {tensors['prompts'].ndim} axes, not 2")
    rows, prompt = tensors["prompts"].shape
    response = tensors["responses"].shape[-1] if tensors["responses"].ndim else 0
    behind, whole = (rows, response), (rows, prompt + response)
    expected = {
        "responses": (behind,),
        "response_mask": (behind,),
        "rollout_log_probs": (behind,),
        "old_log_probs": (behind,),
        "attention_mask": (whole,),
        "loss_mask": (behind, whole),
    }
    for name, shapes in expected.items():
        if name in tensors and tensors[name].shape not in shapes:
            found, asked = ("×".join(map(str, shape)) for shape in (tensors[name].shape, shapes[0]))
            raise InputError(f"{path}: `{name}` is {found}, but the responses require {asked}")


def _strings(column: Any) -> list[str]:
    """The entries of a pickled array of objects, or of a NonTensorStack."""
    state = column.state if isinstance(column, Opaque) else None
    if isinstance(state, dict) and isinstance(state.get("tensordicts"), list):
        return [str(_non_tensor(each)) for each in state["tensordicts"]]
    values = state[-1] if isinstance(state, tuple) and state else None
    return [str(each) for each in values] if isinstance(values, list) else []


def _non_tensor(entry: Any) -> Any:
    """The content of a NonTensorData."""
    state = entry.state if isinstance(entry, Opaque) else None
    held = state.get("non_tensordict") if isinstance(state, dict) else None
    return held.get("data") if isinstance(held, dict) else None
