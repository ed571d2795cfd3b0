"""`locate`: probe both engines on the same few tokens, and find where they part."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config
from parity_check.console import Console
from parity_check.errors import ConfigError, ExitCode
from parity_check.locate import probes
from parity_check.locate.document import document
from parity_check.locate.files import PAGE, REPORT
from parity_check.locate.measured import report_of
from parity_check.locate.record import read
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import session, tokenize_prompts
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document
from parity_check.report.record import stored
from parity_check.report.renderers import render
from parity_check.traces.prompts import Prompt, read_workload


def locate(config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Find the first module whose output differs between the reference and the candidate."""
    delivery.check()
    return deliver(run_probes(config, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again. Raises InputError."""
    delivery.check()
    shown = stored(directory / REPORT, "locate", lambda tree: document(read(tree)))
    return deliver(shown, delivery, console)


def check(config: Config) -> list[Prompt]:
    """The prompts, checked before any engine starts. Raises ConfigError, InputError."""
    for role in ROLES:
        reason = probes.why_not(role, config)
        if reason is not None:
            raise ConfigError(f"locate: {reason}")
    return probes.few(read_workload(config.workload, looks=True))


def run_probes(config: Config, console: Console) -> Document:
    """Sample a few tokens on the reference, probe both engines on them, and compare."""
    prompts = check(config)
    config = probes.eager(config)
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(config, ROLES, run, console) as live:
            ids = tokenize_prompts(live, prompts)
            sample = partial(probes.sample, config, prompts, ids)
            samples = live.engines.run({"reference": sample})["reference"]
            plain, noisy = (partial(probes.probe, config, samples, each) for each in (False, True))
            probed = live.engines.run(dict.fromkeys(ROLES, plain))
            noise = live.engines.run({"reference": noisy})["reference"].probe
        shown = document(report_of(live, samples, probed, noise))
        run.write(REPORT, render(shown, "json"))
        run.write(PAGE, render(shown, "html"))
    return shown
