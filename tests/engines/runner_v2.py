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


def let_triton_interpret():
    """Make Triton believe in a CPU backend before vLLM asks it, and sample without its kernels."""
    import triton.backends

    driver = types.SimpleNamespace(is_active=lambda: True)
    triton.backends.backends = {"cpu": types.SimpleNamespace(driver=driver, compiler=None)}

    import vllm.v1.sample.ops.topk_topp_sampler as sampler

    sampler.apply_top_k_top_p_triton = lambda logits, k, p: sampler.apply_top_k_top_p_pytorch(
        logits, k, p, allow_cpu_sync=True
    )


def main():
    let_triton_interpret()
    from rows import run
    from vllm_engine import FORCED, VllmEngine

    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    engine = VllmEngine(asked["load"])
    requests = [
        {"sample_id": str(number), "prompt_token_ids": ids}
        for number, ids in enumerate(asked["prompts"])
    ]
    observed = engine.observed()
    found = {"runner": engine.model_runner(observed), "observed": observed}
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
