"""Run requests on a worker's engine: shared by the scripts that run in the engine's interpreter."""

from columns import logprob_columns


def run(engine, requests, params):
    """One batch; [{tokens, logprobs}] in the order of the requests."""
    found = {}
    for request, result in engine.finished(requests, params):
        completion = result.outputs[0]
        tokens = list(completion.token_ids)
        logprobs = logprob_columns(tokens, completion.logprobs, 1)["logprobs"]
        found[request["sample_id"]] = {"tokens": tokens, "logprobs": logprobs}
    return [found[request["sample_id"]] for request in requests]
