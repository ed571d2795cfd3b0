"""Load an engine, score tokens, sabotage it, and check again: proved.py WORKER QUESTION ANSWER.

QUESTION: {"load": …, "samples": [{"prompt": ids, "completion": ids}], "claims"?: settings}
ANSWER:   {"settings", "logprobs", "self_check_s", "refused": {setting: message or null}}

With `claims` the engine is made to say that it has these settings, as an engine does that accepts
a flag and ignores it: its config holds them, and its lm_head's bf16 output is cast to float32.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import proofs
from columns import logprob_columns
from failures import WorkerFailure
from vllm_engine import FORCED, SETTINGS, VllmEngine


def score(engine, samples):
    requests = [{"place": n, "prompt_token_ids": s["prompt"]} for n, s in enumerate(samples)]
    params = [
        engine.sampling_params(
            temperature=1.0,
            max_tokens=len(sample["completion"]),
            ignore_eos=True,
            logprobs=1,
            extra_args={FORCED: sample["completion"]},
        )
        for sample in samples
    ]
    found = {}
    for request, result in engine.finished(requests, params):
        completion = result.outputs[0]
        columns = logprob_columns(list(completion.token_ids), completion.logprobs, 1)
        found[request["place"]] = columns["logprobs"]
    return [found[place] for place in range(len(samples))]


def pretend(engine, claims):
    config = engine.config
    config.model_config.logprobs_mode = claims["logprobs_mode"]
    config.cache_config.enable_prefix_caching = claims["enable_prefix_caching"]
    config.scheduler_config.async_scheduling = claims["async_scheduling"]
    if claims["lm_head_dtype"] == "float32":
        pretend_float32_head()
    if engine.family == "v0":  # its logprobs are processed, unless it is tampered with
        return_raw_logprobs()


def pretend_float32_head():
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    project = LogitsProcessor._get_logits
    LogitsProcessor._get_logits = lambda *args, **kwargs: project(*args, **kwargs).float()


def return_raw_logprobs():
    from vllm.model_executor.layers import sampler as module

    forward, get_logprobs = module.Sampler.forward, module.get_logprobs
    raw = []

    def keeping_forward(self, logits, sampling_metadata):
        raw[:] = [logits.float().log_softmax(-1)]
        return forward(self, logits, sampling_metadata)

    module.Sampler.forward = keeping_forward
    module.get_logprobs = lambda processed, *rest: get_logprobs(raw[0], *rest)


def refusals(engine, claims):
    engine.settings = proofs.self_check(engine)
    found = {}
    for name in SETTINGS:
        try:
            engine.check_settings({**dict.fromkeys(SETTINGS, "default"), name: claims[name]})
            found[name] = None
        except WorkerFailure as failure:
            found[name] = f"{failure.kind}: {failure.message}"
    return found


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    engine = VllmEngine(asked["load"])
    described = engine.describe()
    found = {name: described[name] for name in ("settings", "self_check_s")}
    found["logprobs"] = score(engine, asked["samples"])
    if "claims" in asked:
        pretend(engine, asked["claims"])
        found["refused"] = refusals(engine, asked["claims"])
    Path(answer).write_text(json.dumps(found))


main()
