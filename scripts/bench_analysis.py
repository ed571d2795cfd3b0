"""Measure the speed and memory of reading, measuring and judging traces.

    python scripts/bench_analysis.py [--tokens 1e6 1e7 4e7] [--repeats 5] [--torch-python PATH]

Builds two traces of 512-token samples, four samples per prompt, with heavy-tailed Δ, and times
these parts, each in its own process, as the best of several runs:

- `compare`: what `parity-check compare A B` does after its imports, from Parquet to verdict;
- `metrics`: the same numbers from arrays in memory, in chunks of 1,024 samples;
- `numpy`: whole-array means of the same quantities; no intervals, breakdowns or objectives;
- `torch`: a loop over samples with the operations of RL trainers, up to a million tokens (needs an
  interpreter with torch: `--torch-python`).

Tokens per second count the tokens of one trace. CPU seconds include all threads; on a busy machine
they are more reliable than wall time. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LENGTH = 512
SAMPLES_PER_PROMPT = 4
LOAD_LIMIT = 0.5
NAMES = ("behaviour", "evaluating")
HEAD = (
    "| part | tokens | s | CPU s | M tokens/s | M tokens/CPU s | peak MiB |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)

TORCH = """
import json, sys, time
import numpy, torch
torch.set_num_threads(1)  # samples are too short for more
directory, length, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sides = [numpy.load(f"{directory}/{name}.npy") for name in ("behaviour", "evaluating")]
sides = [torch.from_numpy(side).split(length) for side in sides]
seconds = cpu_seconds = float("inf")
for _ in range(repeats):
    started, used = time.perf_counter(), time.process_time()
    rows = []
    for behaviour, evaluating in zip(*sides):
        mask = torch.ones_like(behaviour)
        size = mask.sum()
        delta = evaluating - behaviour
        ratio = delta.clamp(-20, 20).exp()
        mean = lambda x: ((x * mask).sum() / size).item()
        rows.append((
            mean(delta), mean(delta.abs()), mean(delta ** 2), mean(ratio), mean(ratio ** 2),
            mean(ratio - 1 - delta), mean(torch.exp(delta.abs())), mean((delta.abs() > 1).float()),
            mean((behaviour.exp() - evaluating.exp()).abs()),
            mean(((ratio < 0.8) | (ratio > 1.2)).float()), torch.exp((delta * mask).sum()).item(),
        ))
    [sum(column) / len(rows) for column in zip(*rows)]
    seconds = min(seconds, time.perf_counter() - started)
    cpu_seconds = min(cpu_seconds, time.process_time() - used)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}))
"""


def build(directory: Path, tokens: int) -> None:
    """Two traces, the second replayed from the first, and the same logprobs as plain arrays."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from parity_check.traces.trace import METADATA_KEY, ROWS_PER_GROUP, VOCABULARY_KEY, trace_schema

    rng = np.random.default_rng(20261121)
    samples = tokens // LENGTH
    arrays = [
        np.lib.format.open_memmap(
            directory / f"{name}.npy", "w+", np.dtype(np.float32), (samples * LENGTH,)
        )
        for name in NAMES
    ]
    schemas = [
        trace_schema().with_metadata(
            {METADATA_KEY: json.dumps(header(name, samples)).encode(), VOCABULARY_KEY: b"{}"}
        )
        for name in NAMES
    ]
    with (
        pq.ParquetWriter(directory / "A.parquet", schemas[0], compression="zstd") as first,
        pq.ParquetWriter(directory / "B.parquet", schemas[1], compression="zstd") as second,
    ):
        for start in range(0, samples, ROWS_PER_GROUP):
            numbers = range(start, min(start + ROWS_PER_GROUP, samples))
            size = len(numbers) * LENGTH
            behaviour = -rng.gamma(0.5, 1.5, size).astype(np.float32)
            heavy = np.where(rng.random(size) < 0.02, 0.2, 0.02)
            noise = (heavy * rng.standard_t(4, size)).astype(np.float32)
            evaluating = np.minimum(behaviour + noise, np.float32(0.0))
            ids = rng.integers(0, 50_000, size, dtype=np.int32)
            for writer, array, values in zip(
                (first, second), arrays, (behaviour, evaluating), strict=True
            ):
                array[start * LENGTH : start * LENGTH + size] = values
                columns = {
                    "sample_id": [f"s{n}" for n in numbers],
                    "prompt_id": [f"p{n // SAMPLES_PER_PROMPT}" for n in numbers],
                    "sample_index": [n % SAMPLES_PER_PROMPT for n in numbers],
                    "prompt_group": [f"g{n // SAMPLES_PER_PROMPT % 8}" for n in numbers],
                    "prompt_token_ids": lists(pa, ids[: len(numbers) * 64], 64),
                    "completion_token_ids": lists(pa, ids, LENGTH),
                    "logprobs": lists(pa, values, LENGTH),
                }
                empty = [None] * len(numbers)
                table = [
                    pa.array(columns.get(field.name, empty), type=field.type)
                    for field in trace_schema()
                ]
                writer.write_batch(pa.record_batch(table, schema=writer.schema))


def lists(pa: Any, values: Any, length: int) -> Any:
    """A list column of equal lengths over flat values."""
    offsets = range(0, len(values) + 1, length)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def header(name: str, samples: int) -> dict[str, object]:
    engine = {
        "label": name, "version": "0", "family": "v1", "device": "none", "packages": {},
        "settings": {}, "config": {}, "environment": {}, "model": {},
    }  # fmt: skip
    sampling = {
        "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    return {
        "run_id": "bench", "created_utc": "", "command": "bench", "sampled_by": "reference",
        "evaluated_by": "reference" if name == "behaviour" else "candidate", "engine": engine,
        "model": {"name": "bench"}, "sampling": sampling, "logprob_path": "decode",
        "logprob_distribution": "processed", "host": {}, "config": {},
        "replayed_from": None if name == "behaviour" else "bench",
        "token_digest": "bench" if name == "behaviour" else "replayed", "schema_version": 1,
        "samples": samples, "tokens": samples * LENGTH,
    }  # fmt: skip


def compare(directory: Path) -> Callable[[], object]:
    from parity_check.comparison.analyse import analyse_pair
    from parity_check.config.models import Judging

    return lambda: analyse_pair(directory / "A.parquet", directory / "B.parquet", Judging())


def metrics(directory: Path) -> Callable[[], object]:
    import numpy as np

    from parity_check.measure.measure import measure
    from parity_check.measure.metrics import PairedChunk

    behaviour, evaluating = (np.load(directory / f"{name}.npy") for name in NAMES)
    samples = len(behaviour) // LENGTH

    def chunk(start: int) -> PairedChunk:
        size = min(1024, samples - start)
        tokens = slice(start * LENGTH, (start + size) * LENGTH)
        prompts = np.arange(start, start + size, dtype=np.int32) // SAMPLES_PER_PROMPT
        starts = np.arange(size + 1) * LENGTH
        return PairedChunk(behaviour[tokens], evaluating[tokens], starts, prompts, prompts % 8)

    return lambda: measure(map(chunk, range(0, samples, 1024)), sampled_by="reference")


def numpy(directory: Path) -> Callable[[], object]:
    import numpy as np

    behaviour, evaluating = (np.load(directory / f"{name}.npy") for name in NAMES)

    def means() -> list[float]:
        delta = evaluating.astype(np.float64) - behaviour
        ratio = np.exp(np.clip(delta, -20, 20))
        size = np.abs(delta)
        columns = (
            delta, size, delta**2, ratio, ratio**2, ratio - 1 - delta,
            np.exp(-delta) - 1 + delta, np.exp(size), size > 1, delta == 0,
            np.abs(np.exp(evaluating) - np.exp(behaviour)), (ratio < 0.8) | (ratio > 1.2),
        )  # fmt: skip
        return [float(column.mean()) for column in columns]

    return means


PARTS = {"compare": compare, "metrics": metrics, "numpy": numpy}


def measure_part(name: str, directory: Path, repeats: int) -> None:
    """Run in the child: print the best time and the peak memory."""
    import time

    job = PARTS[name](directory)
    seconds = cpu_seconds = float("inf")
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        job()
        seconds = min(seconds, time.perf_counter() - started)
        cpu_seconds = min(cpu_seconds, time.process_time() - used)
    # Not ru_maxrss: a child inherits that of the process which started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}))


def child(command: Sequence[str]) -> dict[str, float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    done = subprocess.run(
        command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(name: str, tokens: int, found: dict[str, float]) -> None:
    rates = [tokens / found[name] / 1e6 for name in ("seconds", "cpu_seconds")]
    cells = (
        name, f"{tokens:,}", f"{found['seconds']:.2f}", f"{found['cpu_seconds']:.2f}",
        *(f"{rate:.1f}" for rate in rates), f"{found['peak_mib']:.0f}",
    )  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e6, 1e7, 4e7])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch-python", help="an interpreter with torch, for the loop")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measure_part(options.part, options.directory, options.repeats)
        return
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    if load > LOAD_LIMIT:
        print(f"note: the machine is busy, {load:.1f} runnable processes per core", file=sys.stderr)
    print(HEAD, flush=True)
    for wanted in options.tokens:
        tokens = int(wanted) // LENGTH * LENGTH
        with tempfile.TemporaryDirectory() as made:
            build(Path(made), tokens)
            for name in PARTS:
                if name == "compare" or tokens <= 1e7:
                    arguments = ["--part", name, "--directory", made]
                    repeats = ["--repeats", str(options.repeats)]
                    found = child([sys.executable, __file__, *arguments, *repeats])
                    report(name, tokens, found)
            if options.torch_python and tokens <= 1e6:
                found = child([options.torch_python, "-c", TORCH, made, str(LENGTH), "2"])
                report("torch", tokens, found)


if __name__ == "__main__":
    main()
