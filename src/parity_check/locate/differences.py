"""Two probes compared module by module, against the noise that rounding alone would cause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from parity_check.engines.probe import Probe

Floats = NDArray[np.float64]

BEYOND_NOISE = 2.0
"""How many times the noise a difference must be. Healthy pairs stay under 1: docs/guides/locate.md.
"""
SAME_PROCESSING = 0.01
"""Nats that a returned logprob may be off the log-softmax of the logits, as the other engine's."""
LOGPROBS = "returned logprobs"


@dataclass(frozen=True, slots=True)
class Difference:
    """One module's output in both engines, root mean square over the forward passes.

    `relative`: ‖candidate − reference‖ / ‖reference‖; None if a value is not finite. `noise`: the
    same for the reference with one more rounding error in every module. The dtypes are those of the
    output.
    """

    module: str
    relative: float | None
    noise: float | None
    reference_dtype: str
    candidate_dtype: str

    @property
    def times_noise(self) -> float:
        """0 where nothing differs; infinite where rounding changes nothing, or not finite."""
        if self.relative == 0.0:
            return 0.0
        return self.relative / self.noise if self.relative and self.noise else math.inf

    @property
    def is_beyond_noise(self) -> bool:
        return self.times_noise > BEYOND_NOISE


@dataclass(frozen=True, slots=True)
class Processing:
    """What an engine did between the logits and the returned logprobs.

    `off`: the largest |returned logprob − log-softmax(logits / temperature)| of a token, nats; None
    if it is not finite. `off_raw`: the same without temperature.
    """

    off: float | None
    off_raw: float | None


def differences(reference: Probe, candidate: Probe, noisy: Probe) -> tuple[Difference, ...]:
    """All modules that both engines have in the same shape, in the order of the forward pass."""
    left, right, again = (_by_row(each) for each in (reference, candidate, noisy))
    rows = [row for row in left if row in right and row in again]
    return tuple(
        Difference(
            module,
            _apart(
                values[[left[row] for row in rows]],
                candidate.modules[module][[right[row] for row in rows]],
            ),
            _apart(
                values[[left[row] for row in rows]],
                noisy.modules[module][[again[row] for row in rows]],
            ),
            reference.dtypes[module],
            candidate.dtypes[module],
        )
        for module, values in reference.modules.items()
        if module in candidate.modules
        and module in noisy.modules
        and candidate.modules[module].shape[1] == values.shape[1]
    )


def first_beyond_noise(found: Sequence[Difference]) -> Difference | None:
    """The first module whose output differs by more than rounding in it and before it explains."""
    return next((each for each in found if each.is_beyond_noise), None)


def processing(
    probe: Probe, requests: Sequence[tuple[int, Sequence[int]]], temperature: float
) -> Processing | None:
    """What lies between logits and logprobs; None if no module puts out logits.

    `requests`: the number of prompt tokens, and the completion's token ids.
    """
    name = next((each for each in probe.modules if each.endswith("logits_processor")), None)
    if name is None:
        return None
    rows, logits = _by_row(probe), probe.modules[name].astype(np.float64)
    off, off_raw = [0.0], [0.0]
    for number, (prompt, tokens) in enumerate(requests):
        for step, token in enumerate(tokens):
            row = rows.get((number, prompt - 1 + step))
            if row is None:
                continue
            returned = probe.logprobs[number][step]
            value = math.inf if returned is None else returned
            off.append(abs(value - log_softmax(logits[row] / (temperature or 1.0))[token]))
            off_raw.append(abs(value - log_softmax(logits[row])[token]))
    return Processing(_finite(max(off)), _finite(max(off_raw)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def log_softmax(logits: Floats) -> Floats:
    """Of one row, in float64."""
    shifted: Floats = logits - logits.max()
    return shifted - float(np.log(np.exp(shifted).sum()))


def by_layer(found: Sequence[Difference]) -> Iterator[tuple[str, list[Difference]]]:
    """The modules of each decoder layer, and what lies before and after them."""
    groups: dict[str, list[Difference]] = {}
    for each in found:
        groups.setdefault(layer_of(each.module) or each.module, []).append(each)
    yield from groups.items()


def layer_of(module: str) -> str | None:
    """`layer 3` for `model.layers.3.mlp`; None outside of the layers."""
    for before, number in pairwise(module.split(".")):
        if before in ("layers", "h", "blocks") and number.isdecimal():
            return f"layer {number}"
    return None


def place_of(module: str) -> str:
    """`layer 3, self_attn.o_proj` for `model.layers.3.self_attn.o_proj`."""
    layer = layer_of(module)
    if layer is None:
        return module.removeprefix("model.")
    _, _, inner = module.partition(f".{layer.removeprefix('layer ')}.")
    return f"{layer}, {inner or 'output'}"


def _by_row(probe: Probe) -> Mapping[tuple[int, int], int]:
    """The index of each (request, position); the last one counts."""
    return {(int(a), int(b)): index for index, (a, b) in enumerate(probe.rows)}


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """The relative difference of rows, root mean square; None if a value is not finite."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None
    apart, size = np.linalg.norm(right - left, axis=1), np.linalg.norm(left, axis=1)
    found = apart / np.maximum(size, np.finfo(np.float32).tiny)
    return float(np.sqrt(np.mean(found**2)))
