"""The four parity settings in force, measured on the started engine.

A flag can be accepted and ignored, so every setting is proved by its effect on a few fixed token
ids. The requests are forced or greedy, random states are restored and the prefix cache is reset, so
that the engine samples afterwards as if it had not been probed.

    logprobs_mode          The same forced tokens at T = 1 and T = 1/2. The differences between
                           top-k logprobs ("gaps") double when the returned logprobs include the
                           temperature and stay when they do not. What top_k = 1 cuts off has
                           logprob -inf when they include the truncation (ties stay).
    lm_head_dtype          Logits of half precision lie on a coarse grid, and so do the gaps, which
                           the normalisation does not change. Also the dtype of the projection's
                           output, and how many projections the extension took over.
    enable_prefix_caching  Two equal requests, longer than a block: how many tokens of the second
                           the engine took from its cache.
    async_scheduling       The class of the scheduler that was built.
"""

import math
from importlib.util import find_spec

from columns import logprob_columns
from failures import WorkerFailure

FORCED = "parity_check_forced"
STEPS = 8
TOP = 20
COLD = 0.5
GRID_BITS = {"bfloat16": 10, "float16": 13}
"""A logit of at least 1/8 (bfloat16) or 1/4 (float16) is a multiple of 2^-bits."""
GRID_ERROR = 4e-6
"""Error of a difference of two float32 logprobs of size 10, in nats."""
IPEX = "intel_extension_for_pytorch"


def platform_limit(setting, family, device, version):
    """Why this platform forces a setting off, or None. `version` is a tuple of numbers."""
    if setting == "async_scheduling":
        if family == "v0":
            return "V0 has no async scheduling"
        if device == "cpu" and version >= (0, 14):
            return "forced off by this platform: V1 on CPU schedules synchronously"
    on_v0_cpu = (family, device) == ("v0", "cpu")
    if setting == "enable_prefix_caching" and on_v0_cpu and find_spec(IPEX) is None:
        return "forced off by this platform: V0 on CPU has no prefix cache without " + IPEX
    return None


def self_check(engine):
    """{setting: (in force, proof)} of a VllmEngine; restores the engine's state."""
    engine.llm.collective_rpc("parity_check_keep_random_state")
    logprobs = probe_logprobs(engine)
    cached = probe_prefix_cache(engine)
    engine.llm.collective_rpc("parity_check_restore_random_state")
    observed = engine.observed()
    return {
        "logprobs_mode": logprobs_mode(engine, logprobs),
        "enable_prefix_caching": prefix_caching(engine, cached),
        "async_scheduling": async_scheduling(engine, observed["scheduler"]),
        "lm_head_dtype": lm_head_dtype(engine, logprobs["warm"], observed),
    }


def check_adapter(engine):
    """Refuse a LoRA adapter that changes no logprob of the probe.

    vLLM leaves out what it does not know of an adapter, without an error.
    """
    if engine.adapter is None:
        return
    engine.llm.collective_rpc("parity_check_keep_random_state")
    adapter, rows = engine.adapter, []
    for engine.adapter in (None, adapter):
        rows.append(probe_logprobs(engine)["warm"])
    engine.llm.reset_prefix_cache()
    engine.llm.collective_rpc("parity_check_restore_random_state")
    if rows[0] == rows[1]:
        raise WorkerFailure(
            "adapter_not_applied",
            f"the LoRA adapter {engine.loaded_adapter['label']} changes no logprob",
        )


# --- probes -------------------------------------------------------------------------------------


def fixed_ids(engine, length):
    """Plain tokens of any vocabulary: special tokens are at its ends."""
    return [(100 + 37 * place) % engine.vocabulary_size() for place in range(length)]


def probe_logprobs(engine):
    """Top-k logprobs of the same tokens at T = 1 (warm) and T = 1/2 (cold), and at top_k = 1.

    A row is a step: {token id: logprob}.
    """
    limit = engine.model_config.max_logprobs
    top = TOP if limit < 0 else min(TOP, limit, engine.vocabulary_size())
    if top < 2:
        raise WorkerFailure(
            "unsupported", "the self-check of the settings requires max_logprobs >= 2"
        )
    forced = {FORCED: fixed_ids(engine, 2 * STEPS)[STEPS:]}
    probes = {
        "warm": {"temperature": 1.0, "max_tokens": STEPS, "extra_args": forced},
        "cold": {"temperature": COLD, "max_tokens": STEPS, "extra_args": forced},
        "cut": {"temperature": 1.0, "max_tokens": 1, "top_k": 1},
    }
    prompt = fixed_ids(engine, STEPS)
    found = {}
    for request, result in engine.finished(
        [{"name": name, "prompt_token_ids": prompt} for name in probes],
        [
            engine.sampling_params(logprobs=top, ignore_eos=True, **fields)
            for fields in probes.values()
        ],
    ):
        completion = result.outputs[0]
        tokens = list(completion.token_ids)
        if "extra_args" in probes[request["name"]] and tokens != forced[FORCED]:
            raise WorkerFailure("unsupported", "forced decode does not work on this engine")
        columns = logprob_columns(tokens, completion.logprobs, top)
        found[request["name"]] = [
            dict(zip(ids, values))
            for ids, values in zip(columns["top_token_ids"], columns["top_logprobs"])
        ]
    return found


def probe_prefix_cache(engine):
    """Tokens of a request served from the cache of an identical earlier one; None if unknown."""
    block = engine.config.cache_config.block_size
    length = min(2 * block, engine.model_config.max_model_len - 2, engine.kv_capacity() - 2)
    if length < block:
        return None
    prompt = fixed_ids(engine, length + 1)
    params = engine.sampling_params(temperature=0.0, max_tokens=1, ignore_eos=True)
    for _ in range(2):
        for _, result in engine.finished([{"prompt_token_ids": prompt}], [params]):
            cached = result.num_cached_tokens
    engine.llm.reset_prefix_cache()
    return cached


# --- readings -----------------------------------------------------------------------------------


def gaps(row, ids):
    """Largest logprob of these tokens minus each of the others, in nats."""
    values = [row[token] for token in ids if math.isfinite(row[token])]
    return [max(values) - value for value in values if value < max(values)]


def gap_ratio(warm, cold):
    """Sum of the gaps at T = 1/2 over their sum at T = 1, for the tokens in both rows."""
    pairs = [(w, c, sorted(set(w) & set(c))) for w, c in zip(warm, cold)]
    total = sum(sum(gaps(w, ids)) for w, _, ids in pairs if ids)
    return sum(sum(gaps(c, ids)) for _, c, ids in pairs if ids) / total if total else math.nan


def logprobs_mode(engine, logprobs):
    ratio = gap_ratio(logprobs["warm"], logprobs["cold"])
    candidates = logprobs["cut"][0].values()
    left = sum(map(math.isfinite, candidates))
    proof = (
        f"gaps at T = {COLD} are {ratio:.3f} times those at T = 1 (processed: {1 / COLD:g}, raw: "
        f"1); top_k = 1 leaves {left} of {len(candidates)} top logprobs finite (raw: all)"
    )
    configured = engine.configured_logprobs_mode()
    if configured.endswith("_logits"):  # not normalised, and not a valid setting
        return configured, proof
    tempered, truncated = ratio > math.sqrt(1 / COLD), left < len(candidates)
    if tempered and truncated:
        return "processed_logprobs", proof
    if tempered or truncated:
        return "partly_processed_logprobs", proof
    return "raw_logprobs", proof


def on_grid(rows, bits):
    """How many of the gaps are multiples of 2^-bits, and how many there are."""
    found = [gap * 2**bits for row in rows for gap in gaps(row, row)]
    near = [gap for gap in found if abs(gap - round(gap)) <= GRID_ERROR * 2**bits]
    return len(near), len(found)


def lm_head_dtype(engine, rows, observed):
    """`model` or a dtype. float32 output counts as float32 only if it is not on the coarse grid."""
    model, output = engine.dtype(), observed["lm_head_dtype"]
    taken = observed["fp32_heads"]
    proof = f"the projection's output is {output}"
    if observed["ranks"] > 1:
        proof += f" ({observed['ranks']} ranks asked)"
    if observed["fp32_requested"]:
        proof += f", the extension patched {taken} projection{'' if taken == 1 else 's'}"
    found = output
    if model in GRID_BITS:
        bits = GRID_BITS[model]
        near, count = on_grid(rows, bits)
        proof += f"; {near} of {count} top-k gaps are multiples of 2^-{bits} ({model}: all of them)"
        if near > count / 2:
            found = model
    return ("model" if found == model else found), proof


def prefix_caching(engine, cached):
    configured = bool(engine.config.cache_config.enable_prefix_caching)
    if cached is None:
        return configured, "cache_config.enable_prefix_caching; cache hits cannot be observed here"
    proof = f"the second of two identical requests took {cached} tokens from the cache"
    return cached > 0, with_limit(engine, "enable_prefix_caching", proof)


def async_scheduling(engine, scheduler):
    configured = bool(getattr(engine.config.scheduler_config, "async_scheduling", False))
    if engine.family == "v0":
        return False, platform_limit("async_scheduling", "v0", engine.device, engine.release)
    if scheduler is None:
        return configured, "scheduler_config.async_scheduling; the scheduler is in another process"
    proof = with_limit(engine, "async_scheduling", f"the live scheduler is {scheduler}")
    return scheduler == "AsyncScheduler", proof


def with_limit(engine, setting, proof):
    limit = platform_limit(setting, engine.family, engine.device, engine.release)
    return f"{proof}; {limit}" if limit else proof
