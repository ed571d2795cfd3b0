"""What was requested of vLLM and is without effect, read from its live config and the modules."""

import os
from pathlib import Path

from effective import plain

CONFIGS = (
    "model_config",
    "cache_config",
    "scheduler_config",
    "parallel_config",
    "load_config",
    "compilation_config",
)
RENAMED = {"kv_cache_dtype": "cache_dtype"}
OTHER_UNITS = ("swap_space", "cpu_offload_gb")
"""Arguments whose value the config keeps in another unit."""
CHOSEN_BY_ENGINE = ("auto", -1, None)
SHOWN_BY_MODULES = {
    "rms_norm_eps": "norm_eps",
    "layer_norm_eps": "norm_eps",
    "sliding_window": "sliding_window",
    "attn_logit_softcapping": "attention_soft_cap",
    "final_logit_softcapping": "logits_soft_cap",
}
"""Keys of a model's config.json, and the fact that shows what became of them."""
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
PLAIN_ROPE = "RotaryEmbedding"
BACKEND = "VLLM_ATTENTION_BACKEND"


def without_effect(arguments, config, facts):
    """{name: what is in force instead} of arguments, hf_overrides and the model's soft caps."""
    found = soft_caps(config.model_config, facts)
    for name, wanted in arguments.items():
        if name == "hf_overrides" and isinstance(wanted, dict):
            for key in wanted:
                found.pop(key, None)  # overrides() says what became of it
            found.update(overrides(wanted, config.model_config, facts))
        elif isinstance(wanted, (bool, int, float, str)) and name not in OTHER_UNITS:
            known, value = in_config(config, RENAMED.get(name, name))
            if known and wanted not in CHOSEN_BY_ENGINE and value != wanted:
                found[name] = f"{wanted} was requested, {value} is in force"
    return found


def soft_caps(model_config, facts):
    """The soft caps that the model should have, and that its modules leave out."""
    text = getattr(model_config, "hf_text_config", model_config.hf_config)
    found = {}
    for name in SOFT_CAPS:
        value, built = getattr(text, name, None), facts.get(SHOWN_BY_MODULES[name])
        if value and built is not None and f"{float(value):.6g}" not in built:
            found[name] = f"{float(value):.6g} is the model's, the modules have {built}"
    return found


def in_config(config, name):
    """Whether a config has it, and its value."""
    for each in CONFIGS:
        part = getattr(config, each, None)
        if hasattr(part, name):
            return True, plain(getattr(part, name))
    return False, None


def overrides(wanted, model_config, facts):
    text = getattr(model_config, "hf_text_config", model_config.hf_config)
    found = {}
    for key, value in wanted.items():
        if isinstance(value, dict):
            kind = value.get("rope_type", value.get("type", "default"))
            built = facts.get("rope_type", "")
            if key.startswith("rope_") and kind != "default" and built == PLAIN_ROPE:
                found[f"hf_overrides.{key}"] = (
                    f"the {kind} scaling was requested, the model was built without scaling"
                )
            continue
        fact = SHOWN_BY_MODULES.get(key)
        if fact in facts and isinstance(value, (int, float)):
            shown = f"{float(value):.6g}" if value else "none"
            if shown not in facts[fact]:
                found[f"hf_overrides.{key}"] = (
                    f"{shown} was requested, the modules have {facts[fact]}"
                )
        elif not hasattr(text, key) and not hasattr(model_config.hf_config, key):
            found[f"hf_overrides.{key}"] = f"{value} was requested, the config has no such key"
    return found


def variables(given, known, package, backends):
    """{name: what is in force instead} of vLLM's environment variables.

    `known`: the names that this version declares; others can still occur in the files of `package`.
    `backends`: the attention backends of the modules.
    """
    found = {}
    for name, wanted in given.items():
        if not name.startswith("VLLM_"):
            continue
        now = os.environ.get(name)
        if now != wanted:
            found[name] = f"{wanted} was requested, {now} is in force"
        elif name not in known and not occurs(name, package):
            found[name] = f"{wanted} was requested, this version does not read it"
        elif name == BACKEND and not any(same_backend(wanted, each) for each in backends):
            found[name] = f"{wanted} was requested, {', '.join(backends)} is in force"
    return found


def occurs(text, package):
    """Whether a file of a package reads a variable that the package does not declare."""
    pattern = text.encode()
    files = (path for kind in ("*.py", "*.so") for path in Path(package).rglob(kind))
    return any(pattern in path.read_bytes() for path in files)


def same_backend(name, implementation):
    """`FLASH_ATTN` is `FlashAttentionImpl`; in some versions with the ending `_VLLM_V1`."""
    short = name.upper().replace("_VLLM_V1", "").replace("_", "").lower()
    return implementation.lower().replace("attention", "attn").startswith(short)


def own_head(facts, tensors):
    """{name: what is in force instead} of a head in the checkpoint that the model does not use.

    `tensors`: a function that returns the tensors of these names that the checkpoint has.
    """
    if facts.get("head") != "the embedding":
        return {}
    found = tensors("lm_head.weight", "model.embed_tokens.weight")
    if len(found) < 2 or equal(*found.values()):
        return {}
    return {
        "lm_head.weight": "the checkpoint has a head of its own, the embedding is in force "
        "(tie_word_embeddings)"
    }


def equal(one, other):
    return one.shape == other.shape and bool((one == other).all())


def read_tensors(directory):
    """Read tensors by name from a directory's safetensors files; nothing from a hub name."""

    def read(*names):
        from safetensors import safe_open

        found = {}
        for path in sorted(Path(directory).glob("*.safetensors")):
            with safe_open(str(path), "pt") as file:
                for name in set(names) & set(file.keys()):
                    found[name] = file.get_tensor(name)
        return found

    return read
