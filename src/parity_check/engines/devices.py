"""Which engine gets which of this machine's GPUs.

Engines that name their own in `env.CUDA_VISIBLE_DEVICES` keep them. The others get GPUs of their
own where there are enough, and then run side by side; else the same ones, by turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from parity_check.engines import gpus
from parity_check.engines.gpus import Gpu

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one, that CUDA shows to this process."""

    name: str
    """As CUDA_VISIBLE_DEVICES names it: the user's own name, else nvidia-smi's index."""
    gpu: Gpu | None
    """None for a part of a GPU (MIG), whose memory is not known."""

    def is_called(self, name: str) -> bool:
        return name == self.name or (self.gpu is not None and gpus.is_called(name, self.gpu))

    def __str__(self) -> str:
        if self.gpu is None:
            return self.name
        return f"GPU {self.gpu.index}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The GPUs that one engine takes."""

    count: int
    share: float
    """Of the memory of each."""
    named: tuple[str, ...] | None
    """Those that its own variables name; None if they name none."""


def wanted(arguments: Mapping[str, object], variables: Mapping[str, str]) -> Wanted:
    """What vLLM takes with these arguments, and the variables of its table."""
    listed = variables.get(VARIABLE)
    count, share = arguments.get("tensor_parallel_size"), arguments.get("gpu_memory_utilization")
    return Wanted(
        count if isinstance(count, int) else 1,
        share if isinstance(share, int | float) else 0.9,
        None if listed is None else tuple(map(str.strip, listed.split(","))),
    )


def visible(found: tuple[Gpu, ...] | None, environ: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices that `environ` shows, in its order; none where they are not known.

    `found` are all GPUs of the machine.
    """
    listed = environ.get(VARIABLE)
    if found is None:
        return ()
    if listed is None:
        return tuple(Device(str(each.index), each) for each in found)
    names = [each.strip() for each in listed.split(",")]
    shown = gpus.visible(found, environ)
    if shown is None:
        return tuple(Device(name, None) for name in names if name.startswith("MIG-"))
    return tuple(Device(name, gpu) for name, gpu in zip(names, shown, strict=False))


def assign(
    devices: Sequence[Device], engines: Mapping[str, Wanted]
) -> dict[str, tuple[Device, ...]]:
    """The devices of each engine that names none; without an entry, CUDA's own choice holds.

    Of one model, because two engines are compared; with their share of memory free, where there are
    enough of those.
    """
    asking = {role: each for role, each in engines.items() if each.named is None}
    if not asking:
        return {}
    named = [name for each in engines.values() for name in each.named or ()]
    unnamed = [each for each in devices if not any(map(each.is_called, named))]
    share = max(each.share for each in asking.values())
    needed = sum(each.count for each in asking.values())
    most = max(each.count for each in asking.values())
    if most > 1 and any(each.gpu is None for each in devices):
        return {}  # CUDA shows a process one part of a GPU at most
    for alike in _alike(_free(unnamed, share)):
        if needed <= len(alike):
            own = iter(alike)
            return {
                role: tuple(next(own) for _ in range(each.count)) for role, each in asking.items()
            }
    for group in (_free(unnamed, share), _free(devices, share), devices):
        for alike in _alike(group):
            if most <= len(alike):
                return {role: tuple(alike[: each.count]) for role, each in asking.items()}
    return {}


def assigned(engines: Mapping[str, Wanted]) -> dict[str, tuple[Device, ...]]:
    """`assign`, of the GPUs that this process sees, as they are now."""
    if not any(each.named is None for each in engines.values()):
        return {}
    return assign(visible(gpus.listed(), os.environ), engines)


def variables(devices: Sequence[Device], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that show an engine these devices alone; `environ` is this process's."""
    named = {VARIABLE: ",".join(each.name for each in devices)}
    # nvidia-smi counts by bus; CUDA counts the fastest first, where nobody says otherwise.
    return named if VARIABLE in environ else {ORDER: "PCI_BUS_ID", **named}


def sentence(assigned: Mapping[str, Sequence[Device]]) -> str:
    """Who runs where: "reference on GPU 0, candidate on GPU 1"."""
    return ", ".join(
        f"{role} on {' and '.join(map(str, devices))}" for role, devices in assigned.items()
    )


def shared(assigned: Mapping[str, Sequence[Device]]) -> bool:
    """Whether two engines were given the same device."""
    names = [device.name for devices in assigned.values() for device in devices]
    return len(set(names)) < len(names)


def _free(devices: Sequence[Device], share: float) -> list[Device]:
    return [
        each
        for each in devices
        if each.gpu is None or each.gpu.free_mib >= share * each.gpu.total_mib
    ]


def _alike(devices: Sequence[Device]) -> Iterator[list[Device]]:
    """The devices of each model, in the order in which the models come."""
    models = [each.gpu.name if each.gpu else None for each in devices]
    for model in dict.fromkeys(models):
        yield [each for each, own in zip(devices, models, strict=True) if own == model]
