"""`locate`: probe both engines on the same few tokens, and find where they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from parity_check import __version__
from parity_check.comparison.analyse import engine_report
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config, Role
from parity_check.console import Console
from parity_check.engines.kinds import configured_engine
from parity_check.engines.probe import Probe
from parity_check.errors import ConfigError, ExitCode
from parity_check.locate import probes
from parity_check.locate.differences import differences, processing
from parity_check.locate.document import document
from parity_check.locate.files import PAGE, REPORT
from parity_check.locate.probes import Probed
from parity_check.locate.record import read
from parity_check.locate.report import LocateReport
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import Session, session, tokenize_prompts
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document, Head
from parity_check.report.record import stored
from parity_check.report.renderers import render
from parity_check.traces import provenance
from parity_check.traces.prompts import read_workload
from parity_check.traces.trace import Sample


def locate(config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Find the first module whose output differs between the reference and the candidate."""
    delivery.check()
    return deliver(run_probes(config, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again. Raises InputError."""
    delivery.check()
    shown = stored(directory / REPORT, "locate", lambda tree: document(read(tree)))
    return deliver(shown, delivery, console)


def run_probes(config: Config, console: Console) -> Document:
    """Sample a few tokens on the reference, probe both engines on them, and compare."""
    for role in ROLES:
        can = configured_engine(role, config).can
        if not can.shows_modules:
            raise ConfigError(
                f"locate: the {role} is {can.noun}, whose modules parity-check cannot read"
            )
    config = probes.eager(config)
    prompts = probes.few(read_workload(config.workload, looks=True))
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(config, ROLES, run, console) as live:
            ids = tokenize_prompts(live, prompts)
            sample = partial(probes.sample, config, prompts, ids)
            samples = live.engines.run({"reference": sample})["reference"]
            plain, noisy = (partial(probes.probe, config, samples, each) for each in (False, True))
            probed = live.engines.run(dict.fromkeys(ROLES, plain))
            noise = live.engines.run({"reference": noisy})["reference"].probe
        shown = document(_report(live, samples, probed, noise))
        run.write(REPORT, render(shown, "json"))
        run.write(PAGE, render(shown, "html"))
    return shown


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
            command=provenance.command_line(),
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
