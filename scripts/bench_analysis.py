"""Measure what it costs to compare two stored traces: CPU seconds and memory of whole processes.

    python scripts/bench_analysis.py [--tokens 1e3 1e6 1e7] [--top 0 5] [--length 512] [--repeats 3]

Builds two traces, four samples a prompt, with heavy-tailed Δ, `--top` alternatives a token, and
runs these side by side, each in a process of its own, start-up included:

- `parity-check`: `parity-check compare A.parquet B.parquet`, from Parquet to the verdict;
- `duckdb`, `polars`, `numpy`: seven plain means of the same logprobs in one query (of numpy, over
  whole columns that pyarrow reads): no intervals, clusters, breakdowns or checks, one objective;
- `verl`: its own metrics, `compute_offpolicy_metrics`, over tensors that are read as they are
  (needs `--torch-python`, an interpreter with torch, and `--checkouts`, a directory with verl).

What is not installed is left out. Tokens count one trace. Each figure is the smallest of the
repeats. CPU seconds include all threads; on a busy machine they grow too, so only rows of one run
can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LENGTH = 512
SAMPLES_PER_PROMPT = 4
PROMPT_TOKENS = 64
NAMES = ("behaviour", "evaluating")
HEAD = "| | tokens | top | CPU s | s | peak MiB |\n|---|---:|---:|---:|---:|---:|"

DUCKDB = """
import sys, duckdb
a, b = (f"{sys.argv[1]}/{name}.parquet" for name in "AB")
print(duckdb.sql(f'''
    SELECT avg(d), avg(abs(d)), avg(exp(d)), avg(exp(d) - 1 - d), avg((abs(d) > 1)::DOUBLE),
        avg((exp(d) NOT BETWEEN 0.8 AND 1.2)::DOUBLE),
        sum(exp(d)) ** 2 / (count(*) * sum(exp(2 * d)))
    FROM (SELECT unnest(b.logprobs)::DOUBLE - unnest(a.logprobs) AS d
        FROM '{a}' a POSITIONAL JOIN '{b}' b)
''').fetchall())
"""

POLARS = """
import sys, polars
a, b = (polars.scan_parquet(f"{sys.argv[1]}/{name}.parquet").select("logprobs") for name in "AB")
d = polars.col("b").cast(polars.Float64) - polars.col("a")
r = polars.col("d").exp()
both = polars.concat(
    [a.rename({"logprobs": "a"}), b.rename({"logprobs": "b"})], how="horizontal"
)
print(both.explode("a", "b").select(d=d).select(
    mean=polars.col("d").mean(), size=polars.col("d").abs().mean(), ratio=r.mean(),
    k3=(r - 1 - polars.col("d")).mean(), tail=(polars.col("d").abs() > 1).mean(),
    clip=(~r.is_between(0.8, 1.2)).mean(), ess=r.sum() ** 2 / (r.len() * (r * r).sum()),
).collect())
"""

NUMPY = """
import sys, numpy, pyarrow.parquet
a, b = (
    numpy.from_dlpack(
        pyarrow.parquet.read_table(f"{sys.argv[1]}/{name}.parquet", columns=["logprobs"])
        .column(0).combine_chunks().flatten()
    )
    for name in "AB"
)
d = b.astype(numpy.float64) - a
r = numpy.exp(d)
print(
    d.mean(), abs(d).mean(), r.mean(), (r - 1 - d).mean(), (abs(d) > 1).mean(),
    ((r < 0.8) | (r > 1.2)).mean(), r.sum() ** 2 / (len(r) * (r * r).sum()),
)
"""

VERL = """
import sys, numpy, torch
from pathlib import Path
from framework_values import taken
root, length = Path(sys.argv[2]) / "verl", int(sys.argv[3])
functional = taken(root / "verl/utils/torch_functional.py", {"masked_mean", "masked_sum"})
helper = taken(
    root / "verl/trainer/ppo/rollout_corr_helper.py", {"compute_offpolicy_metrics"},
    verl_F=functional, SAFETY_BOUND=20.0,
)
rollout, trainer = (
    torch.from_numpy(numpy.load(f"{sys.argv[1]}/{name}.npy")).view(-1, length)
    for name in ("behaviour", "evaluating")
)
print(helper.compute_offpolicy_metrics(trainer, rollout, torch.ones_like(rollout)))
"""


def build(directory: Path, tokens: int, length: int = LENGTH, top: int = 0) -> None:
    """Two traces, the second replayed from the first, and the same logprobs as plain arrays."""
    import numpy as np
    import pyarrow as pa

    from parity_check.traces.seal import write_seal
    from parity_check.traces.trace import (
        METADATA_KEY,
        ROWS_PER_GROUP,
        TOKENS_PER_GROUP,
        VOCABULARY_KEY,
        trace_schema,
        trace_writer,
    )

    rng = np.random.default_rng(20261121)
    samples = tokens // length
    tokens = samples * length
    group = max(1, min(ROWS_PER_GROUP, TOKENS_PER_GROUP // (length + PROMPT_TOKENS)))
    arrays = [
        np.lib.format.open_memmap(directory / f"{name}.npy", "w+", np.float32, (tokens,))
        for name in NAMES
    ]
    schemas = [
        trace_schema().with_metadata(
            {METADATA_KEY: json.dumps(made).encode(), VOCABULARY_KEY: b"{}"}
        )
        for made in (header(name, samples, tokens) for name in NAMES)
    ]
    paths = [directory / f"{name}.parquet" for name in "AB"]
    writers = [trace_writer(*each) for each in zip(paths, schemas, strict=True)]

    def lists(values: Any, width: int) -> Any:
        offsets = pa.array(range(0, len(values) + 1, width), pa.int32())
        return pa.ListArray.from_arrays(offsets, values)

    for start in range(0, samples, group):
        numbers = range(start, min(start + group, samples))
        size = len(numbers) * length
        ids = rng.integers(0, 50_000, (size, max(top, 1)), dtype=np.int32)
        steps = rng.gamma(0.5, 1.5, (size, max(top, 1))).astype(np.float32)
        heavy = np.where(rng.random(size) < 0.02, 0.2, 0.02)
        noise = (heavy * rng.standard_t(4, size)).astype(np.float32)
        steps[:, 0] = 0.0
        below = -np.cumsum(steps, axis=1)
        behaviour = -rng.gamma(0.5, 1.5, size).astype(np.float32)
        evaluating = np.minimum(behaviour + noise, np.float32(0.0))
        prompts = rng.integers(0, 50_000, len(numbers) * PROMPT_TOKENS, np.int32)
        for writer, array, values in zip(writers, arrays, (behaviour, evaluating), strict=True):
            array[start * length : start * length + size] = values
            columns = {
                "sample_id": [f"s{n}" for n in numbers],
                "prompt_id": [f"p{n // SAMPLES_PER_PROMPT}" for n in numbers],
                "sample_index": [n % SAMPLES_PER_PROMPT for n in numbers],
                "prompt_group": [f"g{n // SAMPLES_PER_PROMPT % 8}" for n in numbers],
                "prompt_token_ids": lists(prompts, PROMPT_TOKENS),
                "completion_token_ids": lists(np.ascontiguousarray(ids[:, 0]), length),
                "logprobs": lists(values, length),
            }
            if top:
                rows = (values[:, None] + below).ravel()
                columns["top_token_ids"] = lists(lists(ids.ravel(), top), length)
                columns["top_logprobs"] = lists(lists(rows, top), length)
            empty = [None] * len(numbers)
            table = [pa.array(columns.get(f.name, empty), type=f.type) for f in trace_schema()]
            writer.write_batch(pa.record_batch(table, schema=writer.schema))
    for path, writer in zip(paths, writers, strict=True):
        writer.close()
        write_seal(path)


def header(name: str, samples: int, tokens: int) -> dict[str, object]:
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
        "samples": samples, "tokens": tokens,
    }  # fmt: skip


def jobs(directory: Path, length: int, options: argparse.Namespace) -> dict[str, Sequence[str]]:
    """The commands to compare, by name."""
    traces = [str(directory / f"{name}.parquet") for name in "AB"]
    found = {"parity-check": [sys.executable, "-m", "parity_check", "compare", *traces]}
    for name, program, module in (
        ("duckdb", DUCKDB, "duckdb"), ("polars", POLARS, "polars"), ("numpy", NUMPY, "numpy"),
    ):  # fmt: skip
        if find_spec(module) is not None:
            found[name] = [sys.executable, "-c", program, str(directory)]
    if options.torch_python and options.checkouts:
        arguments = [str(directory), options.checkouts, str(length)]
        found["verl"] = [options.torch_python, "-c", VERL, *arguments]
    return found


def measured(command: Sequence[str]) -> tuple[float, float, float]:
    """CPU seconds, seconds and peak MiB of a process. Exits 0, or with a verdict."""
    import time

    scripts = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), scripts)))
    started = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 1, 4):
        raise SystemExit(f"failed: {command}")
    return used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e3, 1e6, 1e7])
    parser.add_argument("--top", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens a sample")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="of the rows, by name")
    parser.add_argument("--torch-python", help="an interpreter with torch, for verl")
    parser.add_argument("--checkouts", help="a directory with a checkout of verl")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:  # in a child: its memory would count as that of the processes it starts
        build(options.build, int(options.tokens[0]), options.length, options.top[0])
        return
    print(HEAD, flush=True)
    for wanted in options.tokens:
        length = min(options.length, int(wanted) // 16)
        tokens = int(wanted) // length * length
        for top in options.top:
            with tempfile.TemporaryDirectory() as made:
                size = ["--tokens", str(tokens), "--top", str(top), "--length", str(length)]
                subprocess.run([sys.executable, __file__, "--build", made, *size], check=True)
                for name, command in jobs(Path(made), length, options).items():
                    if options.only and name not in options.only:
                        continue
                    best = map(min, *(measured(command) for _ in range(max(2, options.repeats))))
                    cpu, seconds, peak = best
                    cells = (
                        name,
                        f"{tokens:,}",
                        top,
                        f"{cpu:.2f}",
                        f"{seconds:.2f}",
                        f"{peak:.0f}",
                    )
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
