"""verl's batches: `DataProto.save_to_disk`, as in the rollout cache's `<step>/gen_batch.dp`.

Written by verl/utils/skip/rollout_skip.py (`skip.rollout.enable=true`) through verl/protocol.py
(verl-project/verl): a pickle of the batch with a TensorDict in the torch.save format. Tensors, with
left-padded prompts and right-padded responses:

    prompts [B, P]   responses [B, R]   attention_mask [B, P + R]   response_mask [B, R]
    rollout_log_probs [B, R] (actor_rollout_ref.rollout.calculate_log_probs=true)
    old_log_probs [B, R] (the trainer's, once they are computed)

The cache has only the rollout side. `batch.save_to_disk("batch.dp")` in ray_trainer.py, after
old_log_probs are computed, writes both sides. `trainer.rollout_data_dir` has only text
(`_dump_generations`) and is rejected, because text does not determine the sampled tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, token_list
from parity_check.importers.torch_file import DTYPES, Opaque, decoded, guarded_archive, read_pickle

Arrays = dict[str, NDArray[Any]]

TEXT_DUMP = (
    "save the batch itself: skip.rollout.enable=true, or batch.save_to_disk(…) after old_log_probs"
)
NO_LOGPROBS = "set actor_rollout_ref.rollout.calculate_log_probs=true"


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        if path.suffix in (".jsonl", ".json"):
            raise InputError(
                f"{path}: verl's rollout_data_dir has only text, no token ids or logprobs",
                hint=TEXT_DUMP,
            )
        tensors, names = _batch(path)
        yield from _sequences(path, tensors, names)


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
    tensors = _tensors(guarded_archive(state[0], path))
    if not tensors:
        raise InputError(f"{path}: the DataProto has no tensors")
    return tensors, state[1] if isinstance(state[1], dict) else {}


def _tensors(batch: Any) -> Arrays:
    """The tensors of a TensorDict, consolidated in one storage or separate."""
    if not isinstance(batch, Opaque):
        return {}
    if batch.named.endswith("_rebuild_tensordict_files_consolidated"):
        described, storage = batch.arguments
        leaves = described["leaves"].items()
        return {name: _leaf(storage, *leaf[:4]) for name, leaf in leaves}
    state = batch.state if isinstance(batch.state, dict) else {}
    found = state.get("_tensordict", {})
    return {name: each for name, each in found.items() if isinstance(each, np.ndarray)}


def _leaf(storage: NDArray[Any], dtype: str, shape: list[int], first: int, last: int) -> Any:
    values = storage[first:last].view(DTYPES[dtype])
    return decoded(values, dtype).reshape(shape)


def _sequences(path: Path, tensors: Arrays, names: Mapping[str, Any]) -> Iterator[Dumped]:
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
    expected = {
        "responses": (rows, response),
        "response_mask": (rows, response),
        "rollout_log_probs": (rows, response),
        "old_log_probs": (rows, response),
        "attention_mask": (rows, prompt + response),
    }
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            found = "×".join(map(str, tensors[name].shape))
            raise InputError(
                f"{path}: `{name}` has shape {found}, but expected {'×'.join(map(str, shape))}"
            )


def _strings(column: Any) -> list[str]:
    """The entries of a pickled object array, as strings."""
    state = column.state if isinstance(column, Opaque) else None
    values = state[-1] if isinstance(state, tuple) and state else None
    return [str(each) for each in values] if isinstance(values, list) else []
