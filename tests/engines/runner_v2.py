"""Sample and replay on model runner v2, which needs Triton: runner_v2.py WORKER QUESTION ANSWER.

There is no Triton for CPUs in the wheel, so its kernels run in Triton's own interpreter: slow,
but it is the real runner with the real patches.
"""

import json
import os
import sys
import types
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
sys.path.insert(0, sys.argv[1])

import triton.backends


class Driver:
    @staticmethod
    def is_active():
        return True


triton.backends.backends = {"cpu": types.SimpleNamespace(driver=Driver, compiler=None)}

import vllm.v1.sample.ops.topk_topp_sampler as sampler
from vllm_engine import FORCED, VllmEngine, logprob_columns

sampler.apply_top_k_top_p_triton = lambda logits, k, p: sampler.apply_top_k_top_p_pytorch(
    logits, k, p, allow_cpu_sync=True
)


def run(engine, requests, params):
    found = {}
    for request, result in engine.finished(requests, params):
        completion = result.outputs[0]
        tokens = list(completion.token_ids)
        logprobs = logprob_columns(tokens, completion.logprobs, 1)["logprobs"]
        found[request["sample_id"]] = {"tokens": tokens, "logprobs": logprobs}
    return [found[request["sample_id"]] for request in requests]


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    engine = VllmEngine(asked["load"])
    requests = [
        {"sample_id": str(number), "prompt_token_ids": ids}
        for number, ids in enumerate(asked["prompts"])
    ]
    found = {"runner": engine.model_runner(), "observed": engine.observed()}
    for name, sampling in asked["sampling"].items():
        common = {"max_tokens": asked["max_tokens"], "ignore_eos": True, "logprobs": 1, **sampling}
        sampled = run(engine, requests, [engine.sampling_params(**common)] * len(requests))
        replayed = run(
            engine,
            requests,
            [engine.sampling_params(extra_args={FORCED: s["tokens"]}, **common) for s in sampled],
        )
        found[name] = {"sampled": sampled, "replayed": replayed}
    Path(answer).write_text(json.dumps(found))


main()
