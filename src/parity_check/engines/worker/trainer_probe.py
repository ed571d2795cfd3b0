"""What the modules of a trainer's model put out, under the names that vLLM has for them.

Modules are matched by their role: vLLM fuses the projections of queries, keys and values, and those
of an MLP; its attention module puts out what `o_proj` takes, its activation what `down_proj` takes.
Only modules that compute the same in both are recorded. Rotary embeddings, activations and routers
have equal names and other outputs, and are left out, as is a block with parts that are not known.

One forward pass of prompt and completion has the rows of all of vLLM's: the last token of the
prompt, then every token of the completion but the last. Hooks read tensors and change none.
"""

import re

import numpy as np
import torch

LIKE_VLLM = re.compile(
    r"model\.(embed_tokens|norm|"
    r"layers\.\d+(\.(\w*layernorm|self_attn|self_attn\.[qk]_norm|mlp|block_sparse_moe))?)"
)
"""Modules whose own output is that of vLLM's module of this name."""
ATTENTION = {
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm", "rotary_emb",
}  # fmt: skip
MLP = {"gate_proj", "up_proj", "gate_up_proj", "down_proj", "act_fn", "activation_fn"}
INPUT, OUTPUT = "input", "output"


def roles(model):
    """{vLLM's name: the (module, side) whose values, side by side, are its output}."""
    found = {}
    for path, module in model.named_modules():
        if not LIKE_VLLM.fullmatch(path):
            continue
        if path.endswith("embed_tokens") and type(module) is not torch.nn.Embedding:
            continue  # it scales, which vLLM does later
        parts = dict(module.named_children())
        if path.endswith("self_attn") and parts.keys() <= ATTENTION:
            inside = attention(parts)
        elif path.endswith("mlp") and parts.keys() <= MLP:
            inside = mlp(parts)
        else:
            inside = {}
        found.update({f"{path}.{name}": sources for name, sources in inside.items()})
        found[path] = [(module, OUTPUT)]
    return found


def attention(parts):
    found = fused("qkv_proj", ("q_proj", "k_proj", "v_proj"), parts)
    if not found or "o_proj" not in parts:
        return {}
    queries, out = parts.get("q_proj"), parts["o_proj"]
    if queries is None or queries.weight.shape[0] == out.weight.shape[1]:  # without a gate
        found["attn"] = [(out, INPUT)]
    return {**found, "o_proj": [(out, OUTPUT)]}


def mlp(parts):
    found = fused("gate_up_proj", ("gate_proj", "up_proj"), parts)
    if not found or "down_proj" not in parts:
        return {}
    down = parts["down_proj"]
    return {**found, "act_fn": [(down, INPUT)], "down_proj": [(down, OUTPUT)]}


def fused(name, apart, parts):
    """A projection that vLLM fuses, and the model may."""
    if name in parts:
        return {name: [(parts[name], OUTPUT)]}
    if parts.keys() >= set(apart):
        return {name: [(parts[each], OUTPUT) for each in apart]}
    return {}


def first_tensor(values):
    parts = values if isinstance(values, (tuple, list)) else [values]
    return next((part for part in parts if torch.is_tensor(part)), None)


def rows_of(values, tokens, positions):
    """[positions, width] of values [1, tokens, ...] or [tokens, width]; None of any other."""
    if values is None or not values.is_floating_point():
        return None
    if values.dim() > 2 and tuple(values.shape[:2]) == (1, tokens):
        values = values[0]
    elif values.dim() != 2 or len(values) != tokens:
        return None
    return values[positions].detach().flatten(1)


class Recorder:
    """The hooks of one probe, and the rows that they recorded, one request after the other."""

    def __init__(self, model):
        self._roles = roles(model)
        self._rows = []  # (request, position)
        self._values = {}  # name: an array of each request
        self._dtypes = {}
        self._seen = {}  # (module, side): what the last forward pass put there
        sources = {source for sources in self._roles.values() for source in sources}
        self._handles = [self._hooked(module, side) for module, side in sources]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    def _hooked(self, module, side):
        def take(module, inputs, output=None):
            self._seen[module, side] = first_tensor(inputs if side == INPUT else output)

        if side == INPUT:
            return module.register_forward_pre_hook(take)
        return module.register_forward_hook(take)

    def keep(self, request, prompt, completion, logits):
        """Keep the rows of the last forward pass, of one request; logits [completion, width]."""
        tokens = len(prompt) + len(completion)
        positions = range(len(prompt) - 1, tokens - 1)
        self._rows += [(request, position) for position in positions]
        for name, sources in self._roles.items():
            parts = [rows_of(self._seen.get(source), tokens, list(positions)) for source in sources]
            if all(part is not None for part in parts):
                self._add(name, torch.cat(parts, dim=1))
        self._add("logits_processor", logits.detach())
        self._seen.clear()

    def _add(self, name, values):
        self._dtypes[name] = str(values.dtype).replace("torch.", "")
        self._values.setdefault(name, []).append(values.float().cpu().numpy())

    def write(self, path):
        """Write the rows of the modules that every request called; return their dtypes."""
        requests = len({request for request, _ in self._rows})
        whole = {
            name: np.concatenate(arrays)
            for name, arrays in self._values.items()
            if len(arrays) == requests and len({array.shape[1] for array in arrays}) == 1
        }
        with path.open("wb") as file:
            np.savez(file, **{"#rows": np.array(self._rows, dtype=np.int64)}, **whole)
        return {name: self._dtypes[name] for name in whole}
