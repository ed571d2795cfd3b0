"""A LoRA adapter on a transformers model, unmerged, as peft computes it by default.

A layer returns W x + scale · B (A x). A and B are float32, as is their product; the sum is rounded
to the dtype of the layer.
"""

from pathlib import Path

from failures import WorkerFailure

PREFIX = "base_model.model."
FILE = "adapter_model.safetensors"


def attach(model, adapter):
    """Add the adapter at `adapter["path"]` to the layers of a model. Raises WorkerFailure."""
    from safetensors.torch import load_file

    try:
        matrices = load_file(str(Path(adapter["path"]) / FILE))
    except Exception as error:  # safetensors has an exception of its own
        raise WorkerFailure(
            "adapter_not_applied", f"{FILE} of the LoRA adapter cannot be read: {error}"
        ) from error
    names = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in matrices})
    modules = dict(model.named_modules())
    for name in names:
        layer = modules.get(name)
        a, b = (matrices.get(f"{PREFIX}{name}.lora_{part}.weight") for part in "AB")
        if layer is None or a is None or b is None:
            what = "the model has no such layer" if layer is None else "its A or its B is missing"
            raise WorkerFailure("adapter_not_applied", f"the LoRA adapter adapts {name}: {what}")
        shape = tuple(getattr(layer, "weight", a).shape)
        if shape != (b.shape[0], a.shape[1]):
            raise WorkerFailure(
                "adapter_not_applied",
                f"the LoRA adapter is of another model: {name} is {shape}, B A "
                f"{(b.shape[0], a.shape[1])}",
            )
        device = layer.weight.device
        layer.register_forward_hook(
            _added(a.to(device).float(), b.to(device).float(), adapter["scale"])
        )


def _added(a, b, scale):
    from torch.nn.functional import linear

    def hook(_, inputs, output):
        added = linear(linear(inputs[0].to(a.dtype), a), b) * scale
        return (output + added).to(output.dtype)

    return hook
