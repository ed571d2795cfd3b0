"""An ablation that no engine made: synthetic steps with fixed ids, for golden files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.canned import Canned, write_run
from helpers.support import SMALL_RUN
from parity_check.ablation.files import FAILURE, StoredPlan, write_plan
from parity_check.ablation.plan import DEFAULT, SETTINGS, Flip, plan

GATES = SMALL_RUN
RAW = Canned(noise=0.02, raw=True)
CLEAN = Canned(noise=2e-4, own_noise=1e-5)
SAME = Canned()
STEPS = {1: RAW, 2: CLEAN, 3: CLEAN, 4: None, 5: SAME, 7: replace(RAW, noise=0.2), 8: RAW}
"""What each configuration's engine did; None failed, one that is left out was not run."""


def write_ablation(directory: Path) -> Path:
    """Every kind of row: removes, adds, changes nothing, at the floor, failed, refused, not run."""
    steps = plan(
        dict.fromkeys(SETTINGS, DEFAULT),
        {},
        flips=[Flip("block_size", (32,)), Flip("enforce_eager", (True,))],
        refuse=lambda key, _: "V0 has none" if key == "async_scheduling" else None,
    )
    write_run(directory, replace(CLEAN, config={"gates": GATES}))
    for name in ("candidate", "candidate-repeat-1", "candidate-replayed-by-reference"):
        (directory / f"{name}.parquet").unlink()
    (directory / "reference-replayed-by-candidate.parquet").unlink()
    for number, canned in STEPS.items():
        path = directory / f"step-{number}"
        if canned is None:
            path.mkdir()
            (path / FAILURE).write_text("the candidate engine (vllm 0.18.1) could not start: x\n")
        else:
            write_run(path, canned)
    stored: dict[str, Any] = {
        "run_id": "20261121-090000-ab1e",
        "created_utc": "2026-11-21T09:00:00+00:00",
        "command": "parity-check ablate runs/20261121-080000-c0de",
        "source": "20261121-080000-c0de",
    }
    write_plan(directory, StoredPlan(**stored, steps=steps))
    return directory
