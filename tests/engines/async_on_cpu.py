"""Forced decode under V1's async scheduling, on a CPU: async_on_cpu.py WORKER QUESTION ANSWER.

The CPU platform turns async scheduling off, because nothing runs beside the CPU. Here it is turned
on again, with placeholders for streams and events: the real AsyncScheduler, batch queue, and model
runner, where sampled ids stay in the device's tensor and the next step takes them from there.
"""

import contextlib
import json
import sys
import types
from pathlib import Path

sys.path.insert(0, sys.argv[1])


def let_the_cpu_be_asynchronous():
    import torch
    from vllm.platforms.cpu import CpuPlatform

    class Placeholder:
        def __init__(self, *args, **kwargs):
            self.record = self.synchronize = self.wait = self.wait_stream = lambda *args: None

    torch.Event = torch.cuda.Event = torch.cuda.Stream = Placeholder
    torch.cuda.current_stream = Placeholder
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    from vllm.v1.worker import cpu_model_runner

    cpu_model_runner._torch_cuda_wrapper = contextlib.nullcontext  # its own, without wait_stream
    usual = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):
        usual(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def reads_of_the_sampled_tensor():
    """Count the steps that take a request's last id from the tensor of the step before."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    counted = types.SimpleNamespace(steps=0)
    prepare = GPUModelRunner._prepare_input_ids

    def prepare_input_ids(self, *args, **kwargs):
        counted.steps += self.input_batch.prev_sampled_token_ids is not None
        return prepare(self, *args, **kwargs)

    GPUModelRunner._prepare_input_ids = prepare_input_ids
    return counted


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    if asked["asynchronous"]:
        let_the_cpu_be_asynchronous()
    from rows import run
    from vllm_engine import FORCED, VllmEngine

    counted = reads_of_the_sampled_tensor()
    engine = VllmEngine(asked["load"])
    requests = [
        {"sample_id": str(number), "prompt_token_ids": ids}
        for number, ids in enumerate(asked["prompts"])
    ]
    found = {"settings": engine.settings, "observed": engine.observed()}
    for name, sampling in asked["sampling"].items():
        common = {"ignore_eos": True, "logprobs": 1, **sampling}
        params = [
            engine.sampling_params(max_tokens=len(ids), extra_args={FORCED: ids}, **common)
            for ids in asked["forced"]
        ]
        found[name] = run(engine, requests, params)
    Path(answer).write_text(json.dumps({**found, "steps": counted.steps}))


main()
