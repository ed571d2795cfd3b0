"""`compare` on two stored traces, and `report`: analyse, deliver. Loads and starts no engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from parity_check.comparison.analyse import analyse, analyse_pair
from parity_check.comparison.document import document
from parity_check.comparison.document.brief import brief
from parity_check.comparison.judgement import judgement
from parity_check.config.load import dump_config, load_config
from parity_check.config.models import Config, Judging
from parity_check.console import Console
from parity_check.errors import ConfigError, ExitCode
from parity_check.recording import unchanged
from parity_check.report.deliver import Delivery, deliver


def compare_traces(
    one: Path, other: Path, judging: Judging, delivery: Delivery, console: Console
) -> ExitCode:
    """Compare two stored traces, one replayed from the other. Starts no engine."""
    judgement(judging)
    delivery.check()
    report = analyse_pair(one, other, judging)
    if delivery.draws():
        from parity_check.comparison.pictures.gather import gather_pair

        report = replace(report, pictures=gather_pair(one, other, judging))
    return deliver(document(report), delivery, console, brief(report))


def report(run: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Judge and render a finished run with the limits of `config`. Does not change the run."""
    judgement(config)
    delivery.check()
    _check_recorded(run, config)
    report = analyse(run, config)
    if delivery.draws():
        from parity_check.comparison.pictures.gather import gather

        report = replace(report, pictures=gather(run, config))
    return deliver(document(report), delivery, console, brief(report, run))


def _check_recorded(run: Path, config: Config) -> None:
    """Raises ConfigError where `config` says something else of what was recorded."""
    stored = load_config(run / "config.toml")
    before, now = (
        unchanged.keys(dump_config(each), unchanged.JUDGING) for each in (stored, config)
    )
    found = unchanged.changes(before, now)
    if found:
        raise ConfigError(
            f"--set changes what the run recorded: {found}",
            hint="a report can change [gates], [stats], [objective] and [diagnosis]",
        )
