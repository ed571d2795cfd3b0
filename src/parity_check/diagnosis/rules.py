"""The RULES table: patterns, their causes, and fixes.

Rules run in this order. Each sees what earlier causes left unexplained.
"""

from __future__ import annotations

from parity_check.diagnosis import path, rows, semantic, temperature
from parity_check.diagnosis.case import Rule

RULES = (
    Rule(
        cause="bad_rows",
        layer="semantic",
        look=rows.bad_rows,
        pattern="logprobs that are missing, NaN, infinite, -9999, positive or padded with zeros; "
        "more or fewer logprobs than tokens; an id twice among the alternatives",
        claim="The {engine} returned invalid logprobs: {kinds}.",
        fix="fix the code that writes these rows; until then exclude their samples from training",
        confirm="parity-check record -c {run}/config.toml --engine {role} -o again.parquet",
        cases="vllm#51789, #36660, #36746, SkyRL generate_wire, rllm#816",
    ),
    Rule(
        cause="off_by_one",
        layer="semantic",
        look=rows.off_by_one,
        pattern="the engines' logprob series correlate at lag ±1 to ±3, but not at lag 0",
        claim="The candidate's logprobs are {lag} {late}: each one is stored with the wrong token.",
        fix="look up logprobs by position and token id in the engine's output; the first row of "
        "prompt logprobs is empty, and prompt tokens must not be counted",
        confirm="parity-check record -c {run}/config.toml --engine candidate -o again.parquet",
        cases="eval-protocol/python-sdk#457",
    ),
    Rule(
        cause="retokenised",
        layer="semantic",
        look=rows.retokenised,
        pattern="samples that agree at their start but at their end only if shifted by 1 to 3 "
        "tokens",
        claim="One engine received the completions as text and tokenized them again, so its ids "
        "differ from the sampled ones.",
        fix="pass token ids between engines, never text: encode(decode(ids)) is not always ids",
        confirm="parity-check replay -c {run}/config.toml --engine candidate --trace "
        "{run}/reference.parquet -o again.parquet",
        cases="vllm#43317, #53692, #27433, rllm#272",
    ),
    Rule(
        cause="raw_logprobs",
        layer="semantic",
        look=semantic.raw_logprobs,
        pattern="the slope of candidate top-k gaps over reference top-k gaps is T, or 1/T",
        claim="The {engine} samples at temperature {temperature} but returns raw logprobs (T = "
        "1): {implied}.",
        fix='[{role}.settings] logprobs_mode = "processed_logprobs"',
        confirm="parity-check ablate {run} --only logprobs_mode",
        cases="trl#4159, prime-rl#697, vime#64, NeMo-RL#902, vllm#37082",
    ),
    Rule(
        cause="raw_logprobs_in_dump",
        layer="semantic",
        look=temperature.raw_in_dump,
        pattern="in a dump without alternatives: the slope of candidate over reference log-odds "
        "lies between 1 and T or 1/T, and the tokens are likelier under the other side",
        claim="{whose}.",
        fix="{remedy}",
        confirm="parity-check compare -c parity.toml --workload-trace rollout.parquet",
        cases="trl#4159, vime#64",
    ),
    Rule(
        cause="wrong_temperature",
        layer="semantic",
        look=semantic.wrong_temperature,
        pattern="the slope of the top-k gaps is neither 1, nor T, nor 1/T",
        claim="The reference's temperature is {slope} times the candidate's: one engine did not "
        "apply the requested {temperature}.",
        fix="[workload] temperature = {temperature}, and pass it to both engines explicitly",
        confirm="parity-check compare -c {run}/config.toml --set workload.temperature=1.0",
        cases="trl#4159, NeMo-RL#773",
    ),
    Rule(
        cause="penalty",
        layer="semantic",
        look=semantic.penalty,
        pattern="Δ of ids in the context differs from that of new ids at the same position",
        claim="The {penalised}'s logprobs have a {kind} of about {value}, the other engine's do "
        "not; {requested}.",
        fix="{remedy}",
        confirm="parity-check ablate {run} {flip}",
        cases="NeMo-RL#3497, ART#140, vllm#52461, #27878",
    ),
    Rule(
        cause="truncation_order",
        layer="semantic",
        look=semantic.truncation_order,
        pattern="an offset common to all ids of a position, or tokens outside the other engine's "
        "support, with top_p and min_p both set, on a V0 and a V1 engine",
        claim="V0 applies top_p before min_p, V1 applies min_p before top_p: with both set they "
        "keep different tokens.",
        fix="[workload] min_p = 0.0 (or top_p = 1.0): no setting changes the order",
        confirm="parity-check compare -c {run}/config.toml --set workload.min_p=0.0",
        cases="measured on vLLM 0.8.5, 0.18.1 and 0.32",
    ),
    Rule(
        cause="truncated_support",
        layer="semantic",
        look=semantic.truncated_support,
        pattern="slope 1, and an offset of one sign common to all ids of a position: the log of "
        "the kept mass",
        claim="The {truncated} renormalises over the tokens that truncation keeps ({what}); the "
        "{whole} does not.",
        fix="{remedy}",
        confirm="parity-check ablate {run} --only logprobs_mode",
        cases="trl#6789, trl#7269, NeMo-RL#766",
    ),
    Rule(
        cause="bos_twice",
        layer="semantic",
        look=rows.bos_twice,
        pattern="prompts that begin with the same id twice",
        claim="The prompts begin with id {id} twice: chat template and tokenizer each add a BOS, "
        "and an engine that drops one reads a different prompt.",
        fix="pass prompt_token_ids with one BOS, or tokenize the templated text without special "
        "tokens",
        confirm="parity-check record -c {run}/config.toml --engine candidate -o again.parquet",
        cases="vllm#5334",
    ),
    Rule(
        cause="rope_base",
        layer="inference path",
        look=path.rope_base,
        pattern="the engines read different RoPE bases from the checkpoint",
        claim="The engines read different RoPE bases from the same checkpoint: {bases}.",
        fix="[candidate.engine_args] hf_overrides = {{ rope_theta = … }}, with the base from the "
        "checkpoint's config.json, for the engine that misreads it",
        confirm="parity-check doctor -c {run}/config.toml",
        cases="checkpoints written by transformers 5, read by 0.8.5 and 0.18.1",
    ),
    Rule(
        cause="lm_head_precision",
        layer="inference path",
        look=path.lm_head_precision,
        pattern="top-k gaps × T of one engine are multiples of 2^-k, those of the other are not",
        claim="The {engine}'s lm_head ran in {dtype}, the {other}'s in float32.",
        fix='[{role}.settings] lm_head_dtype = "float32"',
        confirm="parity-check ablate {run} --only lm_head_dtype",
        cases="vllm#19925, #24567, #48390, NeMo-RL#3936, Fast-LLM#525, prime-rl#2438",
    ),
    Rule(
        cause="prefix_cache",
        layer="inference path",
        look=path.prefix_cache,
        pattern="Δ only on prompts that a prefix cache may have served, with caching on",
        claim="The {engine}'s prefix cache changes the logprobs: cached KV does not match the "
        "current weights.",
        fix="[{role}.settings] enable_prefix_caching = false (or reset the cache after every "
        "weight update)",
        confirm="parity-check ablate {run} --only enable_prefix_caching",
        cases="NeMo-RL#4018, trl#3024, vllm#42019, #42245",
    ),
    Rule(
        cause="shared_prefix",
        layer="inference path",
        look=path.shared_prefix,
        pattern="Δ only on prompts that share a prefix with another prompt, with caching off",
        claim="Only prompts with a shared prefix drift: cascade attention computes a shared "
        "prefix once for all requests.",
        fix="[candidate.engine_args] disable_cascade_attn = true",
        confirm="parity-check ablate {run} --flip disable_cascade_attn=true",
        cases="vllm#22103, flash-attention#87",
    ),
    Rule(
        cause="batch_variance",
        layer="inference path",
        look=path.batch_variance,
        pattern="an engine's A/A floor is a fifth of E|Δ| or more",
        claim="{whose} logprobs depend on the other requests in the batch.",
        fix='[{role}.env] VLLM_BATCH_INVARIANT = "1" (GPU); VLLM_CPU_ATTN_SPLIT_KV = "0" (CPU)',
        confirm="parity-check ablate {run} --flip max_num_seqs=1",
        cases="vllm#11778, #25262",
    ),
    Rule(
        cause="onset",
        layer="inference path",
        look=path.onset,
        pattern="|Δ| jumps threefold at one context length, and stays high",
        claim="The drift begins at {position} tokens of context: a tile, chunk or page boundary "
        "in attention, or the KV-cache format.",
        fix='[{role}.engine_args] kv_cache_dtype = "auto", enable_chunked_prefill = false',
        confirm="parity-check ablate {run} --flip enable_chunked_prefill=false",
        cases="vllm#54035, sglang#25790, #38711, NeMo-RL model_diagnostics 2",
    ),
    Rule(
        cause="numeric_format",
        layer="inference path",
        look=path.numeric_format,
        pattern="dtype, quantization or kv_cache_dtype differ between the engines",
        claim="The engines use different numeric formats: {keys}.",
        fix='[{role}.engine_args] {key} = "{value}"',
        confirm="parity-check ablate {run} --flip {key}={value}",
        cases="NeMo-RL fp8 recipes, vllm#48310",
    ),
    Rule(
        cause="outlier_tokens",
        layer="inference path",
        look=path.outlier_tokens,
        pattern="1 % of the tokens account for 90 % of Σ|Δ|, and at least five exceed 1 nat",
        claim="{count} tokens are far off while the others agree: expert routing, stale state of "
        "a few requests, or mixed-up rows.",
        fix="check the requests of the worst tokens: routed experts, length near max_model_len, "
        "draft tokens",
        confirm="parity-check ablate {run}",
        cases="vllm#38711, #53488, R3 paper, Megatron-LM#4256",
        vague=True,
    ),
    Rule(
        cause="other_weights",
        layer="inference path",
        look=path.other_weights,
        pattern="E|Δ| larger than kernels explain, or any E|Δ| between equal builds, without a "
        "pattern",
        claim="The engines have different weights: another checkpoint, a partial update, or an "
        "update that one of them missed.",
        fix="reload the same checkpoint into both engines; after a weight update, check that "
        "every tensor arrived",
        confirm="parity-check compare -c {run}/config.toml",
        cases="Megatron-LM#6723, prime-rl#2438",
        vague=True,
    ),
)
