"""The RULES table: which pattern names which cause, and what to do about it.

Rules are looked at in this order, and each sees what the causes found before it have left.
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
        "lists of another length than the tokens; an id twice among the alternatives",
        claim="Rows of the {engine} cannot be what they claim: {kinds}.",
        fix="repair what writes these rows; until then drop their samples from training",
        confirm="parity-check record -c {run}/config.toml --engine {role} -o again.parquet",
        cases="vllm#51789, #36660, #36746, SkyRL generate_wire, rllm#816",
    ),
    Rule(
        cause="off_by_one",
        layer="semantic",
        look=rows.off_by_one,
        pattern="the engines' logprob series correlate at lag ±1 to ±3, and not at lag 0",
        claim="The candidate's rows stand {lag} token {late}: each logprob belongs to another "
        "token than the one it stands beside.",
        fix="take logprobs by token id and position from the engine's own output; the first row of "
        "prompt logprobs is empty, and a prompt token must not be counted in",
        confirm="parity-check record -c {run}/config.toml --engine candidate -o again.parquet",
        cases="eval-protocol/python-sdk#457",
    ),
    Rule(
        cause="retokenised",
        layer="semantic",
        look=rows.retokenised,
        pattern="samples that agree at their start and, shifted by 1 to 3 tokens, at their end",
        claim="One engine was given the completions as text and tokenized them again: the ids are "
        "not those that were sampled.",
        fix="pass token ids from engine to engine, never text (encode(decode(ids)) is not ids)",
        confirm="parity-check replay -c {run}/config.toml --engine candidate --trace "
        "{run}/reference.parquet -o again.parquet",
        cases="vllm#43317, #53692, #27433, rllm#272",
    ),
    Rule(
        cause="raw_logprobs",
        layer="semantic",
        look=semantic.raw_logprobs,
        pattern="the slope of candidate top-k gaps over reference top-k gaps is T, or 1/T",
        claim="The {engine} returns raw logprobs (T = 1) while it samples at temperature "
        "{temperature}: {implied}.",
        fix='[{table}.settings] logprobs_mode = "processed_logprobs"',
        confirm="parity-check ablate {run} --only logprobs_mode",
        cases="trl#4159, prime-rl#697, vime#64, NeMo-RL#902, vllm#37082",
    ),
    Rule(
        cause="raw_logprobs_in_dump",
        layer="semantic",
        look=temperature.raw_in_dump,
        pattern="without alternatives, in a dump: the slope of candidate log-odds over reference "
        "log-odds goes from 1 towards T, or 1/T, and the tokens are likelier under the other side",
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
        claim="The reference's temperature is {slope} times the candidate's: one of them did not "
        "get the requested {temperature}.",
        fix="[workload] temperature = {temperature}, and pass it explicitly to both engines",
        confirm="parity-check compare -c {run}/config.toml --set workload.temperature=1.0",
        cases="trl#4159, NeMo-RL#773",
    ),
    Rule(
        cause="penalty",
        layer="semantic",
        look=semantic.penalty,
        pattern="Δ of ids that occur in the context is apart from that of new ids of the same "
        "position",
        claim="The {penalised}'s logprobs follow a {kind} of about {value}, the other engine's do "
        "not; {asked}.",
        fix="{remedy}",
        confirm="parity-check ablate {run} {flip}",
        cases="NeMo-RL#3497, ART#140, vllm#52461, #27878",
    ),
    Rule(
        cause="truncation_order",
        layer="semantic",
        look=semantic.truncation_order,
        pattern="an offset that all ids of a position share, or tokens outside the other engine's "
        "support, with top_p and min_p both requested of a V0 and a V1 engine",
        claim="V0 applies top_p before min_p, V1 min_p before top_p: with both requested they keep "
        "different tokens.",
        fix="[workload] min_p = 0.0 (or top_p = 1.0): no setting changes the order",
        confirm="parity-check compare -c {run}/config.toml --set workload.min_p=0.0",
        cases="measured on vLLM 0.8.5, 0.18.1 and 0.32",
    ),
    Rule(
        cause="truncated_support",
        layer="semantic",
        look=semantic.truncated_support,
        pattern="slope 1, and an offset of one sign that all ids of a position share: the log of "
        "the kept mass",
        claim="The {truncated} renormalises over the tokens that truncation keeps ({what}), the "
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
        claim="The prompts begin with id {id} twice: a chat template and the tokenizer each add a "
        "BOS, and an engine that drops one reads another text.",
        fix="give prompt_token_ids with one BOS, or tokenize the templated text without special "
        "tokens",
        confirm="parity-check record -c {run}/config.toml --engine candidate -o again.parquet",
        cases="vllm#5334",
    ),
    Rule(
        cause="rope_base",
        layer="inference path",
        look=path.rope_base,
        pattern="the RoPE bases that the engines read from the checkpoint differ",
        claim="The engines read different RoPE bases from the same checkpoint: {bases}.",
        fix="[candidate.engine_args] hf_overrides = {{ rope_theta = … }}, with the base of the "
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
        fix='[{table}.settings] lm_head_dtype = "float32"',
        confirm="parity-check ablate {run} --only lm_head_dtype",
        cases="vllm#19925, #24567, #48390, NeMo-RL#3936, Fast-LLM#525, prime-rl#2438",
    ),
    Rule(
        cause="prefix_cache",
        layer="inference path",
        look=path.prefix_cache,
        pattern="Δ only where a prefix cache may have served the prompt, with caching on",
        claim="The {engine}'s prefix cache changes the logprobs: what it holds is not what the "
        "present weights would compute.",
        fix="[{table}.settings] enable_prefix_caching = false (or reset the cache at every weight "
        "update)",
        confirm="parity-check ablate {run} --only enable_prefix_caching",
        cases="NeMo-RL#4018, trl#3024, vllm#42019, #42245",
    ),
    Rule(
        cause="shared_prefix",
        layer="inference path",
        look=path.shared_prefix,
        pattern="Δ only on prompts that share a prefix with another one, with caching off",
        claim="The drift is behind prefixes that prompts share: attention that computes a shared "
        "prefix once for all requests (cascade attention).",
        fix="[candidate.engine_args] disable_cascade_attn = true",
        confirm="parity-check ablate {run} --flip disable_cascade_attn=true",
        cases="vllm#22103, flash-attention#87",
    ),
    Rule(
        cause="batch_variance",
        layer="inference path",
        look=path.batch_variance,
        pattern="an engine's A/A floor is a fifth of E|Δ| or more",
        claim="{whose} logprobs depend on the other requests of the batch.",
        fix='[{table}.env] VLLM_BATCH_INVARIANT = "1" (GPU); VLLM_CPU_ATTN_SPLIT_KV = "0" (CPU)',
        confirm="parity-check ablate {run} --flip max_num_seqs=1",
        cases="vllm#11778, #25262",
    ),
    Rule(
        cause="onset",
        layer="inference path",
        look=path.onset,
        pattern="|Δ| jumps threefold at one position of prompt and completion, and stays",
        claim="The drift begins with {position} tokens of context: a tile, chunk or page "
        "boundary of the attention path, or the format of the KV cache.",
        fix='[{table}.engine_args] kv_cache_dtype = "auto", enable_chunked_prefill = false',
        confirm="parity-check ablate {run} --flip enable_chunked_prefill=false",
        cases="vllm#54035, sglang#25790, #38711, NeMo-RL model_diagnostics 2",
    ),
    Rule(
        cause="numeric_format",
        layer="inference path",
        look=path.numeric_format,
        pattern="dtype, quantization or kv_cache_dtype differ between the engines",
        claim="The engines compute in other formats: {keys}.",
        fix='[{table}.engine_args] {key} = "{value}"',
        confirm="parity-check ablate {run} --flip {key}={value}",
        cases="NeMo-RL fp8 recipes, vllm#48310",
    ),
    Rule(
        cause="outlier_tokens",
        layer="inference path",
        look=path.outlier_tokens,
        pattern="1 % of the tokens hold 90 % of Σ|Δ|, five or more beyond 1 nat",
        claim="{count} tokens are wholly off while the others agree: expert routing, stale state "
        "of a few requests, or rows mixed up.",
        fix="compare the worst tokens' requests: routed experts, length near max_model_len, drafts",
        confirm="parity-check ablate {run}",
        cases="vllm#38711, #53488, R3 paper, Megatron-LM#4256",
        vague=True,
    ),
    Rule(
        cause="other_weights",
        layer="inference path",
        look=path.other_weights,
        pattern="E|Δ| beyond what kernels explain, or any between equal builds, with no pattern",
        claim="The engines do not hold the same weights: another checkpoint, a part that was not "
        "updated, or an update that one of them missed.",
        fix="load the same checkpoint into both engines afresh; after a weight update, check that "
        "every tensor arrived",
        confirm="parity-check compare -c {run}/config.toml",
        cases="Megatron-LM#6723, prime-rl#2438",
        vague=True,
    ),
)
