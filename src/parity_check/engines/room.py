"""Room on a shared GPU: the memory of one engine is free before the next one starts.

A killed process gives its memory back a moment after it has ended. An engine that starts in that
moment fails, or takes a smaller KV cache than it would have alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from parity_check import interrupts
from parity_check.engines import gpus
from parity_check.errors import EngineEnvironmentError

LIMIT_S = 60.0
POLL_S = 0.5


def wait(
    role: str,
    share: float,
    claims: Callable[[], tuple[gpus.Gpu, ...] | None],
    say: Callable[[str], None],
    limit_s: float = LIMIT_S,
) -> None:
    """Wait until each GPU has its share of memory free; unknown ones are not waited for.

    `claims` lists them as they are now. Raises EngineEnvironmentError after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while found := claims():
        full = next((each for each in found if each.free_mib < share * each.total_mib), None)
        if full is None:
            return
        if time.monotonic() > deadline:
            raise EngineEnvironmentError(
                f"the {role} engine needs {gpus.gib(round(share * full.total_mib))} of GPU "
                f"{full.index} ({full.name}), which has {gpus.gib(full.free_mib)} free after "
                f"{limit_s:g} s; held by {gpus.holders(full) or 'processes that are not visible'}",
                hint="end what holds it, or lower gpu_memory_utilization in its engine_args",
            )
        say(f"waiting for memory of GPU {full.index}")
        interrupts.check()
        time.sleep(POLL_S)
