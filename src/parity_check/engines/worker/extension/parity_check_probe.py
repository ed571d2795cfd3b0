"""What every module of the model puts out, at the last token of each forward pass.

Hooks record while a probe is open, and are removed with it: they read tensors and change none. They
fire in eager mode only, because compiled graphs call no module. Requests run one at a time, so the
last row of a tensor belongs to the last token of the request.

With noise, every module's output is changed by about one rounding error of its dtype, at random:
what a healthy engine with other kernels would compute.

Modules are named by their path in the model. A module that layers share, as rotary embeddings are,
is recorded under the layer that calls it. With tensor parallelism each rank records its own: an
output that differs from rank to rank is a shard, which no other engine can be compared with.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from parity_check_weights import model_of

LAYER = re.compile(r"(.*\b(?:layers|h|blocks)\.)(\d+)(?:\.(.*))?$")


class Recorder:
    """The hooks of one probe, and the rows that they recorded."""

    def __init__(self, model, noise):
        self._noise = None
        if noise:
            device = next(model.parameters()).device
            self._noise = torch.Generator(device).manual_seed(0)
        self.values = {}  # name: one row per forward pass
        self.dtypes = {}
        self.rows = []  # (request, position) of each forward pass
        self.request = None
        self._layer = None
        self._seen = set()
        self._handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        modules = {}
        for path, module in model.named_modules(remove_duplicate=False):
            if path:
                modules.setdefault(module, []).append(path)
        for module, paths in modules.items():
            found = LAYER.match(paths[0])
            if found and not found.group(3):
                enter = self._entering(paths[0])
                self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(self._recording(paths)))

    def close(self):
        for handle in self._handles:
            handle.remove()

    def _begin(self, model, args, kwargs):
        positions = kwargs.get("positions", args[1] if len(args) > 1 else None)
        self.rows.append((self.request, int(positions.reshape(-1)[-1])))
        self._layer, self._seen = None, set()

    def _entering(self, path):
        def enter(module, args):
            self._layer = path

        return enter

    def _recording(self, paths):
        shared = len(paths) > 1
        suffix = LAYER.match(paths[0])
        suffix = suffix.group(3) if suffix else None

        def record(module, args, output):
            name = paths[0]
            if shared and suffix and self._layer is not None:
                name = f"{self._layer}.{suffix}"
            if not self.rows or name in self._seen:  # called again in the same pass
                return None
            if self._noise is not None and not any(module.children()):
                output = self._rounded(output)
            value = last_row(module, name, output)
            if value is not None:
                self._seen.add(name)
                self.dtypes[name] = str(first_tensor(output).dtype).replace("torch.", "")
                row = value.detach().float().cpu().numpy().copy()
                self.values.setdefault(name, {})[len(self.rows) - 1] = row
            return output if self._noise is not None else None

        return record

    def _rounded(self, output):
        """The output with one more rounding error in each of its numbers."""
        if isinstance(output, (tuple, list)):
            return type(output)(self._rounded(part) for part in output)
        if not torch.is_tensor(output) or not output.is_floating_point():
            return output
        draw = torch.rand(
            output.shape, generator=self._noise, device=output.device, dtype=torch.float32
        )
        # Sums of float32 numbers add errors that rounding to a shorter dtype hides.
        size = torch.finfo(output.dtype).eps * (2 if output.dtype == torch.float32 else 1)
        error = (2 * draw - 1) * size
        return (output.float() * (1 + error)).to(output.dtype)


def first_tensor(output):
    parts = output if isinstance(output, (tuple, list)) else [output]
    return next((part for part in parts if torch.is_tensor(part)), None)


def last_row(module, name, output):
    """The last token's part of a module's output; None if it puts out no tensor.

    A decoder layer returns its output and the residual stream apart: their sum is the stream. A
    rotary embedding returns queries and keys. Of anything else, the first tensor is the output.
    """
    parts = output if isinstance(output, (tuple, list)) else [output]
    parts = [part for part in parts if torch.is_tensor(part) and part.dim() > 1]
    if not parts or not parts[0].is_floating_point():
        return None
    rows = [part[-1].reshape(-1) for part in parts]
    found = LAYER.match(name)
    if found and not found.group(3) and len(rows) > 1 and rows[0].shape == rows[1].shape:
        return rows[0].float() + rows[1].float()
    if "Rotary" in type(module).__name__:
        return torch.cat(rows)
    return rows[0]


class ProbeEndpoints:
    """RPC endpoints that ParityExtension inherits."""

    def parity_check_probe_begin(self, noise):
        self._parity_check_probe = Recorder(model_of(self), noise)

    def parity_check_probe_request(self, number):
        self._parity_check_probe.request = number

    def parity_check_probe_end(self):
        """Remove the hooks; {module: digest} of those that every forward pass called."""
        recorder = self._parity_check_probe
        recorder.close()
        passes = len(recorder.rows)
        self._parity_check_rows = {
            name: np.stack([rows[number] for number in range(passes)])
            for name, rows in recorder.values.items()
            if len(rows) == passes and len({row.shape for row in rows.values()}) == 1
        }
        return {
            name: f"{rows.shape[1]} wide, {hashlib.sha256(rows.tobytes()).hexdigest()[:16]}"
            for name, rows in self._parity_check_rows.items()
        }

    def parity_check_probe_write(self, path, names):
        """Write the rows of these modules, as far as this rank has them; return their dtypes."""
        recorder = self._parity_check_probe
        rows = self._parity_check_rows
        found = {name: rows[name] for name in names if name in rows}
        if self.rank == 0:
            with Path(path).open("wb") as file:
                np.savez(file, **{"#rows": np.array(recorder.rows, dtype=np.int64)}, **found)
        del self._parity_check_probe, self._parity_check_rows
        return {name: recorder.dtypes[name] for name in found}
