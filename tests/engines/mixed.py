"""Forced and free requests in one batch, under pressure: mixed.py WORKER QUESTION ANSWER.

Samples 16 prompts, then runs them again with every second one forced; the engine has little
KV cache (preemption) and, on V1, small prefill chunks.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from rows import run
from vllm_engine import FORCED, VllmEngine


def count_preemptions(engine):
    """Count the scheduler's own calls; the numbers it reports differ from version to version."""
    calls = []
    if engine.family == "v0":
        scheduler = type(engine.engine.scheduler[0])
        name = "_preempt"
    else:
        scheduler = type(engine.engine.engine_core.engine_core.scheduler)
        name = "_preempt_request" if hasattr(scheduler, "_preempt_request") else None
    if name is None:
        raise SystemExit("this scheduler has no preemption to count")
    original = getattr(scheduler, name)

    def counted(self, *args, **kwargs):
        calls.append(1)
        return original(self, *args, **kwargs)

    setattr(scheduler, name, counted)
    return calls


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    engine = VllmEngine(asked["load"])
    preemptions = count_preemptions(engine)
    requests = [
        {"sample_id": str(number), "prompt_token_ids": ids}
        for number, ids in enumerate(asked["prompts"])
    ]
    common = {"temperature": 0.8, "max_tokens": asked["max_tokens"], "ignore_eos": True}
    free = engine.sampling_params(logprobs=1, **common)
    sampled = run(engine, requests, [free] * len(requests))
    params = [
        free
        if number % 2
        else engine.sampling_params(
            logprobs=1, extra_args={FORCED: sampled[number]["tokens"]}, **common
        )
        for number in range(len(requests))
    ]
    again = run(engine, requests, params)
    everything = [
        engine.sampling_params(logprobs=1, extra_args={FORCED: sample["tokens"]}, **common)
        for sample in sampled
    ]
    replayed = run(engine, requests, everything)
    found = {
        "sampled": sampled,
        "mixed": again,
        "replayed": replayed,
        "preemptions": len(preemptions),
        "config": engine.describe()["config"],
    }
    Path(answer).write_text(json.dumps(found))


main()
