"""Ablations by fake engines, through the real worker protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from helpers.support import SMALL_RUN, Finished, call_cli, fake_config, only_run

DEFAULTS = dict.fromkeys(
    ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype"), "default"
)
WORKLOAD = {
    "num_prompts": 10, "samples_per_prompt": 1, "max_tokens": 8, "temperature": 0.7, "repeats": 1,
}  # fmt: skip
GATES = {
    **SMALL_RUN, "tail_fraction": 0.9, "clip_fraction": 0.9, "k3_kl": 2.0,
    "mean_importance_ratio": 2.0, "ess": 0.01, "mean_abs_log_ratio": 1e-2,
}  # fmt: skip
"""80 tokens decide these: mean |Δ| in place of k3, whose interval knows of unseen tokens."""
FLIPS = ("noise=0.2,0.0", "max_model_len=4096,2048", "tokenizer=bytes")


class Ablation(NamedTuple):
    """A finished ablation: the run that it started from, its directory, streams and JSON."""

    home: Path
    source: Path
    path: Path
    done: Finished
    tree: dict[str, Any]

    def step(self, **wanted: Any) -> dict[str, Any]:
        return step(self.tree, **wanted)


def step(tree: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """The one step with these values."""
    [found] = [each for each in tree["steps"] if wanted.items() <= each.items()]
    return dict(found)


def metric(step: dict[str, Any], name: str, sampled_by: str) -> float:
    [found] = [
        each for each in step["metrics"] if (each["name"], each["sampled_by"]) == (name, sampled_by)
    ]
    return float(found["value"])


def drifting_config(directory: Path, **tables: Any) -> Path:
    """A candidate at its defaults (raw logprobs) with noise; both are causes of drift."""
    return fake_config(
        directory,
        **{
            "candidate": {"noise": 0.2},
            "candidate_settings": DEFAULTS,
            "workload": WORKLOAD,
            "gates": GATES,
            **tables,
        },
    )


def compared(home: Path, **tables: Any) -> Path:
    """A finished run to start from."""
    call_cli("compare", "-c", drifting_config(home, **tables), cwd=home)
    return only_run(home)


def ablation_of(home: Path, source: Path | None = None) -> Path:
    [path] = [path for path in (home / "runs").iterdir() if path != source]
    return path


def run_ablation(home: Path) -> Ablation:
    """The whole of it from a finished run, with flips that the engine reports and does not."""
    source = compared(home)
    flips = [f"--flip={flip}" for flip in FLIPS]
    done = call_cli("ablate", source, *flips, "--write", f"json={home}/a.json", cwd=home)
    tree = json.loads((home / "a.json").read_text())
    return Ablation(home, source, ablation_of(home, source), done, tree)
