"""The weights of a running engine: load them in place, and probe what is in force.

`load_in_place` is the trusted update. Two probes show what an engine computes with, independent of
the update:

parameters   A digest of every parameter and buffer. Where a layer keeps only a packed copy of its
             weight, as linear layers of V1 do on CPU, the copy is read back by projecting the
             identity: what is hashed is what the kernel uses, not what the parameter says.
head         Logits of a few fixed hidden states, through the path that sampling takes. It shows
             the copies of lm_head that no parameter shows: a cached fp32 one, a packed one.
"""

import hashlib
import importlib
import inspect
import sys
from pathlib import Path

import torch

IDENTITY_ROWS = 256
HEAD_ROWS = 4
HEAD_SHOWN = 1024
CHECKSUM_PART = 1 << 22
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SUMMABLE = (torch.bfloat16, torch.float16, torch.float32)


def model_of(worker):
    runner = worker.model_runner
    return runner.get_model() if hasattr(runner, "get_model") else runner.model


# --- loading ------------------------------------------------------------------------------------


def read_checkpoint(directory):
    """Yield (name, tensor) of all tensors in a directory's safetensors files."""
    from safetensors import safe_open

    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it cannot be iterated over itself
                yield name, tensors.get_tensor(name)


def load_in_place(worker, checkpoint):
    """Overwrite the model's weights; return the name of the vLLM function used.

    `reload_weights` (since 0.16) unpacks, loads and packs again. Earlier versions only have
    `model.load_weights`, which fails halfway through a packed model.
    """
    weights = read_checkpoint(checkpoint)
    reload = getattr(worker.model_runner, "reload_weights", None)
    if reload is not None and "weights_iterator" in inspect.signature(reload).parameters:
        worker.reload_weights(weights_iterator=weights)
        return "reload_weights"
    model = model_of(worker)
    if any(is_packed(module) for module in model.modules()):
        raise RuntimeError("this version cannot load weights into a running model on CPU")
    model.load_weights(weights)
    return "model.load_weights"


def named_function(name, directory):
    """The callable behind `module:function`; `directory` is searched last."""
    if directory not in sys.path:
        sys.path.append(directory)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# --- what is in force ---------------------------------------------------------------------------


def digest(tensor):
    """Digest of a tensor's bytes; "no memory" for a meta tensor."""
    if tensor.is_meta:
        return "no memory"
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()[:16]


def is_packed(module):
    """Whether a layer keeps only a packed copy of its weight."""
    weight = getattr(module, "weight", None)
    return hasattr(module, "cpu_linear") and weight is not None and not weight.numel()


def projected_identity(layer):
    """Yield the columns of a packed layer's weight as rows, a block at a time."""
    width = getattr(layer, "input_size_per_partition", None) or layer.input_size
    for start in range(0, width, IDENTITY_ROWS):
        rows = torch.zeros(min(IDENTITY_ROWS, width - start), width, dtype=layer.params_dtype)
        rows[:, start : start + len(rows)] = torch.eye(len(rows), dtype=layer.params_dtype)
        yield layer.cpu_linear(rows, layer.weight, None)


def packed_digest(layer):
    """Digest of a packed layer's weight, read by projecting the identity."""
    found = hashlib.sha256()
    for columns in projected_identity(layer):
        found.update(digest(columns).encode())
    return found.hexdigest()[:16]


@torch.inference_mode()
def parameter_digests(model):
    """{name in the engine: digest} of all parameters and buffers."""
    found = {}
    for prefix, module in model.named_modules():
        dot = prefix + "." if prefix else ""
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in named:
            if tensor.numel():
                found[dot + name] = digest(tensor)
        if is_packed(module):
            found[dot + "weight"] = packed_digest(module)
    return found


def checksum(tensor):
    """Digest of the dtype, the shape and two sums over the bits of each part of a tensor.

    The sums are exact on every device. One changed element changes the first, two exchanged ones
    the second. Much faster than hashing every byte, so that it can be taken at every start.
    """
    if tensor.is_meta:
        return "no memory"
    flat = tensor.detach().contiguous().reshape(-1)
    places = torch.arange(1, min(CHECKSUM_PART, len(flat)) + 1, device=flat.device)
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for start in range(0, len(flat), CHECKSUM_PART):
        part = flat[start : start + CHECKSUM_PART]
        if part.dtype in SUMMABLE:
            part = part + 0  # -0.0 becomes 0.0, as in a weight that was read by a projection
        bits = part.view(BITS[part.element_size()]).to(torch.int64)
        found.update(f"{int(bits.sum())} {int((bits * places[: len(bits)]).sum())}".encode())
    return found.hexdigest()[:16]


def unpacked(layer):
    """The weight of a packed layer, read by projecting the identity: exact, its products are."""
    return torch.cat(list(projected_identity(layer))).T


@torch.inference_mode()
def parameter_checksums(model):
    """{name: checksum} of all parameters, the same in every version that names them alike.

    A vocabulary is cut to its own size: versions pad it differently. Weights of an engine that
    changes their format while loading (quantised, transposed) do not match.
    """
    found = {}
    for prefix, module in model.named_modules():
        dot = prefix + "." if prefix else ""
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.numel():
                found[dot + name] = checksum(tensor[: getattr(module, "org_vocab_size", None)])
        if is_packed(module):
            found[dot + "weight"] = checksum(unpacked(module))
    return found


@torch.inference_mode()
def head_probe(model):
    """Logits of fixed hidden states; None if this process has no head."""
    lm_head = getattr(model, "lm_head", None)
    processors = [m for m in model.modules() if type(m).__name__ == "LogitsProcessor"]
    if getattr(lm_head, "weight", None) is None or not processors:
        return None
    weight = lm_head.weight
    hidden = torch.randn(
        HEAD_ROWS, weight.shape[-1], generator=torch.Generator().manual_seed(0)
    ).to(weight.device, weight.dtype)
    logits = processors[0]._get_logits(hidden, lm_head, None)
    if logits is None:  # gathered by another process
        return None
    flat = logits.float().cpu().reshape(-1)
    return {
        "dtype": str(logits.dtype).replace("torch.", ""),
        "digest": digest(logits),
        "logits": flat[:: max(1, len(flat) // HEAD_SHOWN)].tolist(),
    }


class WeightEndpoints:
    """RPC endpoints that ParityExtension inherits."""

    def parity_check_find_update(self, function, directory):
        """Why the user's function cannot be called; empty if it can."""
        try:
            found = named_function(function, directory)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if callable(found) else "it is not callable"

    def parity_check_update(self, checkpoint, function=None, directory=None):
        """Load a checkpoint in place, with the user's function if there is one."""
        if function is None:
            return load_in_place(self, checkpoint)
        named_function(function, directory)(self, checkpoint)
        return function

    def parity_check_checksums(self):
        return parameter_checksums(model_of(self))

    def parity_check_weights(self):
        model = model_of(self)
        return {"parameters": parameter_digests(model), "head": head_probe(model)}
