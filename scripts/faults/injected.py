"""A worker extension with faults that a CPU engine does not have; vLLM V1 only.

The fault is in the JSON file in FAULT_MATRIX_ORDER, read at every step:

    {}                                nothing
    {"noise": 0.3, "onset": 97}       an error in the logits, nats, from this position (1-based) on
    {"noise": 0.3, "by_batch": true}  an error that depends on how many requests run together
    {"reload": "/checkpoint"}         once, before the next step: other weights, the cache stays

The engine samples from the modified logits, like an engine with that fault.
"""

import json
import os
from pathlib import Path

import torch
from parity_check_extension import ParityExtension
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

ORDER = Path(os.environ["FAULT_MATRIX_ORDER"])


class FaultyExtension(ParityExtension):
    """The same endpoints; importing this module injects the fault."""


def read_order():
    return json.loads(ORDER.read_text(encoding="utf-8"))


def error(position, seed, template):
    generator = torch.Generator().manual_seed(position * 1_000_003 + seed)
    return torch.randn(template.shape, generator=generator)


execute, sample = GPUModelRunner.execute_model, GPUModelRunner._sample


def execute_model(self, scheduler_output, *args, **kwargs):
    order = read_order()
    if "reload" in order:
        ORDER.write_text("{}", encoding="utf-8")
        self.reload_weights(weights_path=order["reload"])
    self._faulty_scheduled = scheduler_output.num_scheduled_tokens
    return execute(self, scheduler_output, *args, **kwargs)


def faulty_sample(self, logits, *args, **kwargs):
    order, batch = read_order(), self.input_batch
    if "noise" in order and logits is not None:
        logits = logits.float()
        for row, request in enumerate(batch.req_ids):
            position = int(batch.num_computed_tokens_cpu[row]) + self._faulty_scheduled[request]
            token = int(batch.token_ids_cpu[row, position - 1])
            if order.get("by_batch"):
                logits[row] += order["noise"] * error(position, len(batch.req_ids), logits[row])
            elif position >= order["onset"]:
                logits[row] += order["noise"] * error(position, token, logits[row])
    return sample(self, logits, *args, **kwargs)


GPUModelRunner.execute_model, GPUModelRunner._sample = execute_model, faulty_sample
