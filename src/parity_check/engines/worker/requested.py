"""What was requested of vLLM and is without effect, read from its live config and the modules."""

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
PLAIN_ROPE = "RotaryEmbedding"


def without_effect(arguments, config, facts):
    """{name: what is in force instead} of engine arguments and hf_overrides."""
    found = {}
    for name, wanted in arguments.items():
        if name == "hf_overrides" and isinstance(wanted, dict):
            found.update(overrides(wanted, config.model_config, facts))
        elif isinstance(wanted, (bool, int, float, str)) and name not in OTHER_UNITS:
            known, value = in_config(config, RENAMED.get(name, name))
            if known and wanted not in CHOSEN_BY_ENGINE and value != wanted:
                found[name] = f"{wanted} was requested, {value} is in force"
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
