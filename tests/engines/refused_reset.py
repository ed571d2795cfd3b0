"""A cache reset as 0.16 did it: not of running requests, so it is refused while they run."""

from __future__ import annotations

from typing import Any

from parity_check_weights import load_in_place
from vllm.v1.core.sched.scheduler import Scheduler

reset = Scheduler.reset_prefix_cache


def refused_once(self: Any, reset_running_requests: bool = False, *rest: Any) -> bool:
    Scheduler.reset_prefix_cache = reset
    return bool(reset(self))


Scheduler.reset_prefix_cache = refused_once


def load(worker: Any, checkpoint: str) -> None:
    load_in_place(worker, checkpoint)
