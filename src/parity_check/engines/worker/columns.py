"""Convert vLLM's logprobs to the columns of a result."""


def logprob_columns(tokens, logprobs, top):
    """The given tokens' logprobs (None if missing), and the top-k by rank."""
    chosen, top_ids, top_logprobs = [], [], []
    for token, entries in zip(tokens, logprobs):
        entry = entries.get(token)
        chosen.append(None if entry is None else entry.logprob)
        ranked = sorted((e.rank, i, e.logprob) for i, e in entries.items() if e.rank is not None)
        top_ids.append([token_id for _, token_id, _ in ranked[:top]])
        top_logprobs.append([value for _, _, value in ranked[:top]])
    return {"logprobs": chosen, "top_token_ids": top_ids, "top_logprobs": top_logprobs}
