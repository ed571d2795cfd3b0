"""Make the runs of `parity-check demo` from recorded cases of the fault matrix.

    python scripts/fault_matrix.py --seed 5 --record
    python scripts/make_demos.py faults/0.18.1-seed-5

Writes src/parity_check/assets/demo: the traces of real engines, with three alternatives a token
instead of five so that they are small, with limits for few tokens, and without paths of the
machine that recorded them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import tomli_w

from parity_check.config.load import dump_config, load_config
from parity_check.config.models import ROLES
from parity_check.traces import manifest
from parity_check.traces.trace import Sample, Trace, write_trace

DEMOS = Path(__file__).parents[1] / "src" / "parity_check" / "assets" / "demo"
CASES = {
    "parity": "clean-t-0.8",
    "raw-logprobs": "raw-0.6",
    "bf16-head": "bf16-head-reference",
    "stale-cache": "prefix-cache",
}
ALTERNATIVES = 3
LIMITS = {
    "mean_abs_log_ratio": 0.004,
    "mean_importance_ratio": 0.15,
    "k3_kl": 0.15,
    "clip_fraction": 0.02,
    "tail_fraction": 0.01,
    "burst_fraction": 0.15,
    "burst_cluster_fraction": 0.25,
    "impossible_fraction": 0.01,
    "ess": 0.4,
}
"""Limits that a thousand tokens can decide; numeric noise alone makes a mean |Δ| of 0.002."""


def main() -> int:
    recorded = Path(sys.argv[1])
    for name, case in CASES.items():
        make(recorded / case, DEMOS / name)
    return 0


def make(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    tree = dump_config(load_config(source / "config.toml"))
    tree["workload"]["top_logprobs"] = ALTERNATIVES
    tree |= {
        "gates": {"profile": "standard", **LIMITS},
        "stats": {**tree["stats"], "cluster_by": "family"},
        "run": {**tree["run"], "out": "demo"},
    }
    (target / "config.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
    for path in source.glob("*.parquet"):
        trace = Trace(path)
        recorded = trace.header.engine
        environment = {k: v for k, v in recorded.environment.items() if k != "LD_PRELOAD"}
        engine = replace(recorded, environment=environment)
        header = replace(trace.header, run_id=target.name, host={}, config=tree, engine=engine)
        kept = 0 if "repeat" in path.stem else ALTERNATIVES
        samples = [thinned(sample, kept) for sample in trace.samples()]
        # Tokens are shown with the text of the engine that sampled them.
        sampled = path.stem in ROLES
        write_trace(target / path.name, samples, header, trace.vocabulary() if sampled else {})
    manifest.begin(target, target.name, manifest.parts_of(ROLES, ROLES, dict.fromkeys(ROLES, 1)))
    manifest.finish(target)


def thinned(sample: Sample, alternatives: int) -> Sample:
    """The sample with the likeliest alternatives of every token alone."""
    if not alternatives or sample.top_token_ids is None or sample.top_logprobs is None:
        return replace(sample, top_token_ids=None, top_logprobs=None)
    return replace(
        sample,
        top_token_ids=[row[:alternatives] for row in sample.top_token_ids],
        top_logprobs=[row[:alternatives] for row in sample.top_logprobs],
    )


if __name__ == "__main__":
    sys.exit(main())
