"""The effective configuration of a started engine, from public names of vLLM."""

import os
import platform
import traceback

import ranks

ENVIRONMENT_PREFIXES = ("VLLM_", "NCCL_", "CUDA_", "TORCH", "OMP_", "LD_PRELOAD", "PARITY_CHECK_")
SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
# As given: vllm sets more variables when it is imported, some of them random.
ENVIRONMENT = {
    name: value
    for name, value in sorted(os.environ.items())
    if name.startswith(ENVIRONMENT_PREFIXES) and not name.endswith(SECRET_SUFFIXES)
}

# What vLLM applies from a generation_config.json by default.
INJECTED = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")


def plain(value):
    """A config value as JSON data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "value") and type(value).__module__ != "builtins":  # an enum
        return plain(value.value) if isinstance(value.value, (int, str)) else str(value)
    return str(value).replace("torch.", "")


def describe(engine):
    """The engine's fingerprint for the parent."""
    import torch
    import transformers
    from vllm.platforms import current_platform

    observed, built = engine.observed(), modules(engine)
    rope_bases = observed["rope_bases"]
    return {
        "backend": "vllm",
        "version": engine.version,
        "family": engine.family,
        "packages": {
            "vllm": engine.version,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "platform": engine.device,
        "device": current_platform.get_device_name(),
        "settings": {
            name: {"in_force": value, "proof": proof}
            for name, (value, proof) in engine.settings.items()
        },
        "self_check_s": engine.self_check_s,
        "config": effective_config(engine, observed),
        "environment": ENVIRONMENT,
        "model": {
            "rope_theta": rope_bases[0] if len(rope_bases) == 1 else None,
            "vocab_size": engine.vocabulary_size(),
            "tokenizer_size": len(engine.tokenizer),
            "max_model_len": engine.model_config.max_model_len,
            "architectures": list(
                getattr(engine.model_config.hf_config, "architectures", None) or []
            ),
            "weights": weights(engine),
            "modules": built,
            "experts": experts(engine.model_config),
            "sampling_defaults": listed(checkpoint_defaults(engine.model_config)),
        },
    }


def effective_config(engine, observed):
    config, model = engine.config, engine.model_config
    cache, scheduler = config.cache_config, config.scheduler_config
    compilation, parallel = config.compilation_config, config.parallel_config
    level = getattr(compilation, "mode", getattr(compilation, "level", None))
    graphs = getattr(compilation, "cudagraph_mode", None)
    chunked = getattr(scheduler, "chunked_prefill_enabled", False)
    return {
        "dtype": engine.dtype(),
        "quantization": plain(model.quantization),
        "max_model_len": model.max_model_len,
        "seed": model.seed,
        "enforce_eager": bool(model.enforce_eager),
        # Until 0.11 a level, 0 for none; since then a named mode.
        "compilation": "NONE" if level in (0, None) else plain(getattr(level, "name", level)),
        "custom_ops": ",".join(getattr(compilation, "custom_ops", None) or []),
        "cudagraph_mode": "NONE" if graphs is None else plain(getattr(graphs, "name", graphs)),
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_chunked_prefill": bool(getattr(scheduler, "enable_chunked_prefill", chunked)),
        "block_size": cache.block_size,
        "kv_cache_dtype": plain(cache.cache_dtype),
        "attention_backend": ", ".join(observed["attention_backends"]),
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
        "model_runner": engine.model_runner(observed),
        "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1",
        "sampling_defaults": listed(model.get_diff_sampling_param()),
        "tied_embeddings": tied_embeddings(model),
        "adds_bos": adds_bos(engine.tokenizer),
        "adapter": None if engine.loaded_adapter is None else engine.loaded_adapter["label"],
    }


def checkpoint_defaults(model_config):
    """The sampling parameters that the checkpoint's generation_config.json sets."""
    from transformers import GenerationConfig

    try:
        loaded = GenerationConfig.from_pretrained(
            model_config.model, revision=model_config.revision
        )
    except OSError:  # there is no such file
        return {}
    written = loaded.to_diff_dict()
    return {name: written[name] for name in INJECTED if written.get(name) is not None}


def listed(parameters):
    """{"top_p": 0.8, "top_k": 20} as one string, to compare and to show."""
    return ", ".join(f"{name} {value}" for name, value in sorted(parameters.items()))


def tied_embeddings(model_config):
    text = getattr(model_config, "hf_text_config", model_config.hf_config)
    return bool(getattr(text, "tie_word_embeddings", False))


def weights(engine):
    """{parameter: checksum} as loaded; nothing where this version's weights cannot be read."""
    try:
        found = engine.llm.collective_rpc("parity_check_checksums")
    except Exception:
        traceback.print_exc()
        return {}
    ranks.check_names(found)
    return ranks.by_rank(found)


def modules(engine):
    """{fact: text} of what the modules of the first worker compute with; {} if they cannot say."""
    try:
        return dict(engine.llm.collective_rpc("parity_check_modules")[0])
    except Exception:
        traceback.print_exc()
        return {}


def experts(model_config):
    """Experts of a layer; 0 for a model without."""
    text = getattr(model_config, "hf_text_config", model_config.hf_config)
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return max(int(getattr(text, name, 0) or 0) for name in names)


def adds_bos(tokenizer):
    """Whether the tokenizer adds a BOS to plain text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a")[:1] == [bos]
