"""What the modules of a loaded model compute with, read from the modules and not from a config.

An engine can ignore what its configuration says: a version that does not know a RoPE scaling builds
the plain one, an attention kernel without soft-capping leaves it out. Every fact is a text; a fact
that differs between layers names them: "64 (layers 0, 2), none (layers 1, 3)".
"""

import re

import torch
from parity_check_weights import model_of

LAYER = re.compile(r"\b(?:layers|h|blocks)\.(\d+)\.")
NONE = "none"


def facts(model):
    """{name: text} of a model, the same in every version that computes the same."""
    named = list(model.named_modules())
    attention = [
        (name, module.impl)
        for name, module in named
        if "Attention" in type(module).__name__ and hasattr(module, "impl")
    ]
    rotary = [(name, m) for name, m in named if "RotaryEmbedding" in type(m).__name__]
    norms = [
        (name, eps)
        for name, m in named
        if "Norm" in type(m).__name__
        for eps in [getattr(m, "variance_epsilon", getattr(m, "eps", None))]
        if eps is not None
    ]
    logits = [m for _, m in named if type(m).__name__ == "LogitsProcessor"]
    found = {
        "rope_type": listed((name, type(m).__name__) for name, m in rotary),
        "rope_frequencies": listed((name, frequencies(m)) for name, m in rotary),
        "norm_eps": listed((name, number(eps)) for name, eps in norms),
        "sliding_window": listed((name, window(impl)) for name, impl in attention),
        "attention_soft_cap": listed((name, soft_cap(impl)) for name, impl in attention),
        "attention_scale": listed(
            (name, number(impl.scale)) for name, impl in attention if hasattr(impl, "scale")
        ),
        "logits_soft_cap": listed(("", number(m.soft_cap)) for m in logits),
        "logits_scale": listed(("", number(m.scale)) for m in logits),
        "head": head(named),
        "quantised": listed((name, method) for name, method in quantised(named)),
        "vocabulary": vocabulary(named),
    }
    return {name: text for name, text in found.items() if text}


def listed(values):
    """One text for all modules, with their layers where they differ."""
    by_value = {}
    for name, value in values:
        found = LAYER.search(name)
        by_value.setdefault(value, []).append(int(found.group(1)) if found else None)
    if len(by_value) < 2:
        return next(iter(by_value), "")
    return ", ".join(f"{value} ({places(layers)})" for value, layers in by_value.items())


def places(layers):
    """`layers 0 to 3, 5`; `outside the layers`."""
    numbers = sorted({each for each in layers if each is not None})
    if not numbers:
        return "outside the layers"
    ranges, first = [], numbers[0]
    for this, following in zip(numbers, [*numbers[1:], None]):
        if following != this + 1:
            ranges.append(str(first) if first == this else f"{first} to {this}")
            first = following
    return "layers " + ", ".join(ranges)


def number(value):
    """Six digits of a number; `none` for 0 and for nothing."""
    return f"{float(value):.6g}" if value else NONE


def frequencies(rotary):
    """The first, the middle and the last rotation of one position, radians, and their length.

    From the table in float32 as the module computes it, because versions keep it in other dtypes.
    """
    table = getattr(rotary, "cos_sin_cache", None)
    compute = getattr(rotary, "_compute_cos_sin_cache", None)
    if table is None or table.dim() != 2 or len(table) < 2:
        return "unknown"
    row = table[1].float().cpu()
    if table.dtype != torch.float32 and compute is not None:
        try:
            exact = compute()[1].float().cpu()
        except Exception:
            return "unknown"
        # What the kernel reads decides: the module may have been changed since.
        row = exact if torch.allclose(exact, row, atol=1e-2) else row
    cos, sin = row.chunk(2)
    angles, length = torch.atan2(sin, cos), torch.hypot(sin, cos)
    picked = [angles[index] for index in (0, len(angles) // 2, -1)]
    text = " ".join(f"{float(each):.3g}" for each in picked)
    size = float(length.mean())
    return text if abs(size - 1) < 1e-2 else f"{text} × {size:.3g}"


def window(impl):
    """Tokens that attention sees: versions keep the number, or how many lie on each side."""
    found = getattr(impl, "sliding_window", None)
    if isinstance(found, (tuple, list)):
        found = None if found[0] < 0 else found[0] + 1
    return NONE if found is None or found < 0 else str(found)


def soft_cap(impl):
    """The cap of the attention scores; a backend without one keeps none."""
    for name in ("logits_soft_cap", "softcap", "soft_cap"):
        if hasattr(impl, name):
            return number(getattr(impl, name))
    return NONE


def last_named(named, ending):
    """The module whose path ends so; None if there is none."""
    return next((module for name, module in named if name.split(".")[-1] == ending), None)


def head(named):
    """Whether the head is the embedding; some models have no other one."""
    lm_head, embedding = last_named(named, "lm_head"), last_named(named, "embed_tokens")
    if embedding is None:
        return ""
    if lm_head is None or lm_head is embedding:
        return "the embedding"
    weight, own = getattr(lm_head, "weight", None), embedding.weight
    tied = weight is own or (weight is not None and weight.data_ptr() == own.data_ptr())
    return "the embedding" if tied else "its own weight"


def quantised(named):
    for name, module in named:
        method = getattr(module, "quant_method", None)
        if method is not None:
            kind = type(method).__name__
            part = "head " if name.endswith("lm_head") else ""
            yield name, NONE if "Unquantized" in kind else part + kind


def vocabulary(named):
    """Rows of the head that are no padding of the engine's own."""
    module = last_named(named, "lm_head") or last_named(named, "embed_tokens")
    found = getattr(module, "org_vocab_size", None)
    return "" if found is None else str(found)


class ModuleEndpoints:
    """RPC endpoints that ParityExtension inherits."""

    def parity_check_modules(self):
        return facts(model_of(self))
