"""The RULES table: patterns, their causes, and fixes.

Rules run in this order. Each sees what earlier causes left unexplained.
"""

from __future__ import annotations

from parity_check.config.flags import ON_A_TRACE
from parity_check.diagnosis import (
    bias,
    built,
    certain,
    forms,
    masks,
    parts,
    path,
    rows,
    semantic,
    temperature,
)
from parity_check.diagnosis.case import Rule

AGAIN = "parity-check record -c {run}/config.toml --engine {role} -o again.parquet"
REPLAYED = (
    "parity-check replay -c {run}/config.toml --engine candidate --trace {run}/reference.parquet "
    "-o again.parquet"
)

RULES = (
    Rule(
        cause="negated",
        layer="semantic",
        look=forms.negated,
        pattern="one side's values are the other's with the opposite sign, or exponentiated",
        claim="The {engine}'s values are logprobs {what}.",
        fix="return the logprob: the log-softmax of the sampled token, which is at most 0",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="other_base",
        layer="semantic",
        look=forms.other_base,
        pattern="the ratio of the two sides is log2 or log10 of e at every token",
        claim="The {engine}'s logprobs are logarithms {what}, the {other}'s are natural.",
        fix="convert to nats: multiply logarithms in base 2 by 0.6931, in base 10 by 2.3026",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="summed",
        layer="semantic",
        look=forms.summed,
        pattern="one side's values are sums of the other's over the sample",
        claim="The {engine}'s logprobs are {what}.",
        fix="return one logprob per token; sum over the tokens only in the loss",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="averaged",
        layer="semantic",
        look=forms.averaged,
        pattern="one side's values are the other's divided by the length of the sample, or "
        "their mean",
        claim="The {engine}'s logprobs are {what}.",
        fix="return one logprob per token; divide by the length only in the loss",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="one_token_kept",
        layer="semantic",
        look=certain.one_token_kept,
        pattern="one side has only zeros for the tokens that it sampled, and these can be the "
        "likeliest ones",
        claim="The {engine}'s logprobs are all 0: it kept a single token per position (top_p "
        "near 0, top_k = 1, or a temperature near 0), the {other} did not truncate.",
        fix="sample with top_p = 1.0 and top_k = -1, or compute the other side's logprobs "
        "after the same truncation",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="constant",
        layer="semantic",
        look=certain.constant,
        pattern="one side has the same value at every token",
        claim="All of the {engine}'s logprobs are {value}: {what}.",
        fix="write the logprob of each sampled token, and no value where there is none: a "
        "default passes as a logprob",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="appended_eos",
        layer="semantic",
        look=certain.appended_eos,
        pattern="the last token of samples, always the same id or one of a few, has a logprob of "
        "exactly 0 on one side alone",
        claim="The last token of {count} samples (id {ids}) was not sampled: the {engine} has "
        "a logprob of 0 for it.",
        fix="exclude the token that the framework appends from the loss and from ratios, or "
        "let the engine sample its own end of sequence",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="clamped",
        layer="semantic",
        look=forms.clamped,
        pattern="one side has no logprob below a limit, at which several of its tokens lie",
        claim="The {engine}'s logprobs are clamped at {limit} nats.",
        fix="remove the clamp from the code that writes these logprobs",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="argmax",
        layer="semantic",
        look=forms.argmax,
        pattern="one side has the largest logprob of each position, also where another token "
        "was sampled",
        claim="The {engine}'s logprobs are the {what}, not those of the sampled tokens.",
        fix="look up the logprob of the sampled id, not the first entry of the alternatives",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="swapped_samples",
        layer="semantic",
        look=forms.swapped_samples,
        pattern="samples that are off have the logprobs of one another",
        claim="{count} samples have the logprobs of other samples: the rows were stored in "
        "another order.",
        fix="join results to samples by the request's id, not by the order of completion",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="constrained_decoding",
        layer="semantic",
        look=certain.constrained,
        pattern="exact zeros on one side, at tokens that are improbable on the other, and "
        "other logprobs after them",
        claim="The {engine}'s tokens were {what}: it returns 0 for them, the {other} computes over "
        "the whole vocabulary.",
        fix="apply the same mask to the {other}'s logits, or exclude tokens that the "
        "constraint dictates from the loss",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="tool_output",
        layer="semantic",
        look=certain.tool_output,
        pattern="one or two long runs of exact zeros within samples on one side, never from their "
        "first token, at tokens that are improbable on the other",
        claim="{count} tokens were not sampled but inserted, such as a tool's output: the {engine} "
        "has a logprob of 0 for them.",
        fix="mask inserted tokens: exclude them from the loss and from ratios",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="allowed_ids",
        layer="semantic",
        look=masks.allowed_ids,
        pattern="one side has the ids of a list alone, although others are likelier at many "
        "positions",
        claim="The {engine} computes over a list of allowed ids (it ever returned {allowed} of "
        "them), the {other} over the whole vocabulary.",
        fix="pass the same allowed_token_ids to both engines, or apply the same mask to the "
        "{other}'s logits",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="forbidden_ids",
        layer="semantic",
        look=masks.forbidden_ids,
        pattern="a few ids are never there on one side, at positions where the other has them "
        "among its likeliest",
        claim="The {engine} never allows the ids {ids} (bad words, a logit bias of -100, a mask), "
        "the {other} does.",
        fix="pass the same bad_words and logit_bias to both engines, or apply the same mask to the "
        "{other}'s logits",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="min_tokens",
        layer="semantic",
        look=masks.min_tokens,
        pattern="an id is not there on one side up to some token of the completions, and is "
        "there later",
        claim="The {engine} does not allow the ids {ids} in the first {least} tokens or more of a "
        "completion (min_tokens), the {other} does.",
        fix="pass the same min_tokens to both engines, or mask the end of sequence in the "
        "{other}'s logits for as many tokens",
        confirm=AGAIN,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="bad_rows",
        layer="semantic",
        look=rows.bad_rows,
        pattern="logprobs that are missing, NaN, infinite, -9999, positive or padded with zeros; "
        "more or fewer logprobs than tokens; an id twice among the alternatives",
        claim="The {engine} returned invalid logprobs: {kinds}.",
        fix="fix the code that writes these rows; until then exclude their samples from training",
        confirm=AGAIN,
        cases="vllm#51789, #36660, #36746, SkyRL generate_wire, rllm#816",
    ),
    Rule(
        cause="isolated_zeros",
        layer="semantic",
        look=certain.isolated_zeros,
        pattern="exact zeros here and there on one side, at tokens of any probability on the other",
        claim="{count} of the {engine}'s logprobs are 0 in place of a value: NaN or infinite "
        "ones were probably replaced (nan_to_num).",
        fix="keep invalid logprobs as they are, and exclude their samples from training",
        confirm=AGAIN,
        cases="not reported; injected into traces",
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
        cause="shifted_by_prompt",
        layer="semantic",
        look=rows.shifted_by_prompt,
        pattern="the engines' logprob series agree if one is shifted by the length of each prompt, "
        "but not as they are",
        claim="The {late}'s logprobs are later than the {early}'s by the length of each prompt: "
        "one of the two is read at the wrong place of the whole sequence.",
        fix="take the logprobs of completion token t from entry (prompt length + t) of the whole "
        "sequence, and from entry t of the completion's own list",
        confirm=AGAIN,
        cases="not reported; injected into traces",
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
        claim="The {engine} samples {sampled} but returns raw logprobs (T = 1): {implied}.",
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
        confirm=ON_A_TRACE.format(trace="rollout.parquet"),
        cases="trl#4159, vime#64",
    ),
    Rule(
        cause="temperature_twice",
        layer="semantic",
        look=semantic.temperature_twice,
        pattern="the slope of the top-k gaps is T or 1/T, and both engines are proved to "
        "return processed logprobs",
        claim="The {engine} applies the temperature twice: {temperature} · {temperature} = "
        "{squared} in place of {temperature}.",
        fix="divide the logits by {temperature} once: processed logprobs of the engine "
        "already include it",
        confirm="parity-check compare -c {run}/config.toml --set workload.temperature=1.0",
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="temperature_twice_in_dump",
        layer="semantic",
        look=temperature.twice_in_dump,
        pattern="in a dump without alternatives: the same slope, and the tokens are likelier "
        "under the side nearer to T = 1",
        claim="The {engine} applies the temperature twice: {temperature} · {temperature} = "
        "{squared} in place of {temperature}.",
        fix="divide the logits by {temperature} once: processed logprobs of the engine "
        "already include it",
        confirm="parity-check compare -c {run}/config.toml --set workload.temperature=1.0",
        cases="not reported; injected into traces",
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
        cause="logit_bias",
        layer="semantic",
        look=bias.logit_bias,
        pattern="a few ids are shifted by a constant each, relative to the other ids of the "
        "same position, wherever they occur",
        claim="One engine has a logit bias: candidate minus reference is {shifts} nats.",
        fix="pass the same logit_bias to both engines, or add it to the trainer's logits",
        confirm=REPLAYED,
        cases="not reported; injected into traces",
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
        cause="other_weights",
        layer="inference path",
        look=path.other_weights,
        pattern="checksums of parameters, read from both engines as loaded, differ",
        claim="The engines loaded different weights: {count} parameters differ.",
        fix="load the same checkpoint into both engines, and compare the files",
        confirm="parity-check compare -c {run}/config.toml",
        cases="Megatron-LM#6723",
    ),
    Rule(
        cause="rope_base",
        layer="inference path",
        look=path.rope_base,
        pattern="the engines have different RoPE bases, misread from the checkpoint or requested",
        claim="The engines compute with different RoPE bases: {bases}.",
        fix="[candidate.engine_args] hf_overrides = {{ rope_theta = … }}, with the base from the "
        "checkpoint's config.json, for the engine that has another one",
        confirm="parity-check doctor -c {run}/config.toml",
        cases="checkpoints written by transformers 5, read by 0.8.5 and 0.18.1",
    ),
    *(
        Rule(
            cause=cause,
            layer="inference path",
            look=built.built_with(facts),
            pattern=f"{what} differs, as read from the modules of both engines",
            claim=f"The models differ in {what}: {{values}}.",
            fix="[candidate.engine_args] hf_overrides = {{ … }}, with the value of the "
            "checkpoint's config.json; where an engine cannot apply it, choose another version or "
            "attention backend",
            confirm="parity-check locate -c {run}/config.toml",
            cases="Gemma 2 in V0 on CPU; YaRN in hf_overrides of 0.18.1"
            if cause in ("soft_cap", "rope_scaling")
            else "injected into engines",
        )
        for cause, (what, facts) in built.BUILT.items()
    ),
    Rule(
        cause="rounded",
        layer="semantic",
        look=forms.rounded,
        pattern="the logprobs of one side are exact in a few decimals, bfloat16 or float16",
        claim="The {engine}'s logprobs were rounded to {grid}.",
        fix="return and store logprobs as float32",
        confirm=AGAIN,
        cases="not reported; injected into traces",
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
        cause="first_token",
        layer="semantic",
        look=parts.first_token,
        pattern="the first token of the completions is off, the others agree",
        claim="Only the first token of the completions differs.",
        fix="check what the first token is computed from: the last prompt token, the logits "
        "of the prefill, or a token that one side takes for the prompt",
        confirm=REPLAYED,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="last_token",
        layer="semantic",
        look=parts.last_token,
        pattern="the last token of the completions is off, the others agree",
        claim="Only the last token of the completions differs.",
        fix="check what ends a completion: a stop string that was cut off, or a token that "
        "the framework appended",
        confirm=REPLAYED,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="biased_ids",
        layer="semantic",
        look=parts.biased_ids,
        pattern="a few ids are off in one direction wherever they occur",
        claim="Only tokens with the ids {ids} differ: a logit bias, a list of forbidden "
        "tokens, or a changed row of the embedding or head.",
        fix="pass the same logit_bias and bad_words to both engines, and check that added "
        "tokens have the same weights",
        confirm=REPLAYED,
        cases="not reported; injected into traces",
    ),
    Rule(
        cause="outlier_samples",
        layer="inference path",
        look=parts.outlier_samples,
        pattern="most tokens of a few samples are off, the others agree",
        claim="{count} of {of} samples are off as a whole while the others agree.",
        fix="look at what these samples have in common: their prompt, its template or its "
        "place in a batch, the worker and the policy version that produced them",
        confirm=REPLAYED,
        cases="not reported; injected into traces",
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
        cause="beyond_tokenizer",
        layer="semantic",
        look=rows.beyond_tokenizer,
        pattern="sampled or alternative ids that the tokenizer does not have, in a padded "
        "vocabulary",
        claim="The model gives probability to ids that the tokenizer does not have ({tokenizer} of "
        "{vocabulary} rows of the head have a token): no text leads to them.",
        fix="mask the ids from {tokenizer} on in every engine, and in the trainer's logits",
        confirm=REPLAYED,
        cases="not reported; padded vocabularies",
    ),
    Rule(
        cause="outlier_tokens",
        layer="inference path",
        look=path.outlier_tokens,
        pattern="1 % of the tokens account for 90 % of Σ|Δ|, and at least five exceed 1 nat",
        claim="{count} tokens are far off while the others agree: {causes}.",
        fix="check the requests of the worst tokens: {look}, draft tokens",
        confirm="parity-check ablate {run}",
        cases="vllm#38711, #53488, R3 paper, Megatron-LM#4256",
        vague=True,
    ),
    Rule(
        cause="different_computation",
        layer="inference path",
        look=path.different_computation,
        pattern="E|Δ| larger than kernels explain, or any E|Δ| between equal builds, without "
        "a pattern",
        claim="The models compute different numbers, and {why}.",
        fix="compare what each side loads: the checkpoint and its config.json, the prompt "
        "ids with their template, and the last weight update",
        confirm="parity-check locate -c {run}/config.toml",
        cases="Megatron-LM#6723, prime-rl#2438",
        vague=True,
    ),
)
