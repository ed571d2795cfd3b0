"""Updates that fail in ways that were seen in the field; named as `weight_sync.update`."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from parity_check_weights import model_of, read_checkpoint
from vllm.model_executor.layers.logits_processor import LogitsProcessor

SKIPPED = "model.layers.1.mlp.down_proj.weight"


def skips_one_parameter(worker: Any, checkpoint: str) -> None:
    weights = ((name, w) for name, w in read_checkpoint(checkpoint) if name != SKIPPED)
    worker.reload_weights(weights_iterator=weights)


def does_nothing(worker: Any, checkpoint: str) -> None:
    pass


def loads_into_a_copy(worker: Any, checkpoint: str) -> None:
    copies = {name: p.detach().clone() for name, p in model_of(worker).named_parameters()}
    for name, weight in read_checkpoint(checkpoint):
        if name in copies and copies[name].shape == weight.shape:
            copies[name].copy_(weight)


def fails_halfway(worker: Any, checkpoint: str) -> None:
    """What V1 on CPU does to a plain load_weights: the linear layers are packed away."""
    model_of(worker).load_weights(read_checkpoint(checkpoint))


def swallows_its_failure(worker: Any, checkpoint: str) -> None:
    with contextlib.suppress(AssertionError):
        fails_halfway(worker, checkpoint)


def keeps_its_float32_head(worker: Any, checkpoint: str) -> None:
    """A copy of lm_head in float32, made once and served for ever."""
    head = model_of(worker).lm_head.weight.detach().float().clone()

    def stale(self: Any, hidden: Any, lm_head: Any, embedding_bias: Any = None) -> Any:
        logits = torch.nn.functional.linear(hidden.float(), head)
        return logits[..., : self.org_vocab_size]

    LogitsProcessor._get_logits = stale
    worker.reload_weights(weights_iterator=read_checkpoint(checkpoint))


def forgets_rank_1(worker: Any, checkpoint: str) -> None:
    if worker.rank == 0:
        worker.reload_weights(weights_iterator=read_checkpoint(checkpoint))
