"""`locate`: probe both engines on the same few tokens, and find where they part."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from parity_check import __version__
from parity_check.comparison.analyse import engine_report
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import ROLES, Config, Role
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.engines.probe import Probe
from parity_check.errors import ConfigError, ExitCode, InputError
from parity_check.locate.differences import differences, processing
from parity_check.locate.document import document
from parity_check.locate.files import PAGE, REPORT
from parity_check.locate.record import read
from parity_check.locate.report import LocateReport
from parity_check.reading import parse_json, read_text
from parity_check.recording import requests
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import Session, session, tokenize_prompts
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document, Head
from parity_check.report.renderers import render
from parity_check.traces import provenance
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import Prompt, read_workload
from parity_check.traces.trace import Sample

PROMPTS, TOKENS = 4, 8
"""Few: an output of every module is kept for each token."""


class Probed(NamedTuple):
    """An engine as loaded, and its modules."""

    engine: EngineDescription
    probe: Probe


def locate(config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Find the first module whose output differs between the reference and the candidate."""
    delivery.check()
    return deliver(run_probes(config, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again. Raises InputError."""
    delivery.check()
    path = directory / REPORT
    tree = parse_json(read_text(path, "the report"), str(path))
    try:
        shown = document(read(tree))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a report of locate: {reason}") from None
    return deliver(shown, delivery, console)


def run_probes(config: Config, console: Console) -> Document:
    """Sample a few tokens on the reference, probe both engines on them, and compare."""
    for role in ROLES:
        can = configured_engine(role, config).can
        if not can.shows_modules:
            raise ConfigError(
                f"locate: the {role} is {can.noun}, whose modules parity-check cannot read"
            )
    config = _eager(config)
    prompts = _spread(read_workload(config.workload))
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(config, ROLES, run, console) as live:
            ids = tokenize_prompts(live, prompts)
            [samples] = live.engines.run(
                {"reference": partial(_sample, config, prompts, ids)}
            ).values()
            probed = live.engines.run(dict.fromkeys(ROLES, partial(_probe, config, samples, False)))
            [noisy] = live.engines.run(
                {"reference": partial(_probe, config, samples, True)}
            ).values()
        shown = document(_report(live, samples, probed, noisy.probe))
        run.write(REPORT, render(shown, "json"))
        run.write(PAGE, render(shown, "html"))
    return shown


def _eager(config: Config) -> Config:
    """Engines without compiled graphs, which call no module."""
    tree = dump_config(config)
    for role in ROLES:
        tree[role]["engine_args"] = {**tree[role]["engine_args"], "enforce_eager": True}
    return parse_config(tree, source="locate")


def _spread(prompts: Sequence[Prompt]) -> list[Prompt]:
    """A few prompts from all over the workload."""
    return list(prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS])


def _sample(
    config: Config, prompts: Sequence[Prompt], ids: Sequence[list[int]], engine: Engine
) -> list[Sample]:
    few = {"samples_per_prompt": 1, "max_tokens": TOKENS, "ignore_eos": True, "top_logprobs": 0}
    return requests.generate(engine, prompts, ids, config.workload.model_copy(update=few))


def _probe(config: Config, samples: Sequence[Sample], noise: bool, engine: WorkerEngine) -> Probed:
    sampling = config.workload.sampling()
    probe = engine.probe(requests.evaluated(samples), noise=noise, sampling=sampling)
    return Probed(engine.description, probe)


def _report(
    live: Session, samples: Sequence[Sample], probed: Mapping[Role, Probed], noisy: Probe
) -> LocateReport:
    reference, candidate = (probed[role].probe for role in ROLES)
    found = differences(reference, candidate, noisy)
    compared = {each.module for each in found}
    given = [(len(each.prompt_token_ids), each.completion_token_ids) for each in samples]
    temperature = live.config.workload.temperature
    one, other = (engine_report(role, probed[role].engine, "decode", None) for role in ROLES)
    return LocateReport(
        head=Head(
            kind="locate",
            run_id=live.run_id,
            created_utc=live.created_utc,
            command=shlex.join(["parity-check", *sys.argv[1:]]),
            parity_check=__version__,
            config=dump_config(live.config),
            model=live.model,
            host=provenance.host_fingerprint(),
        ),
        engines=(one, other),
        passes=len(reference.rows),
        differences=found,
        unmatched=tuple(
            name
            for name in dict.fromkeys((*reference.modules, *candidate.modules))
            if name not in compared
        ),
        processing=(
            processing(reference, given, temperature),
            processing(candidate, given, temperature),
        ),
    )
