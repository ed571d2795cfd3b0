"""`demo`: a named fault on stored traces that ship with the package. Starts no engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.document.brief import brief
from parity_check.comparison.report import ComparisonReport
from parity_check.config.load import load_config
from parity_check.console import Console
from parity_check.errors import ConfigError, ExitCode, suggestion
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Sentence

DIRECTORY = Path(__file__).parents[1] / "assets" / "demo"
NAMES = ("raw-logprobs", "bf16-head", "stale-cache", "parity")


def demo(name: str, delivery: Delivery, console: Console) -> ExitCode:
    """Judge and render one of the stored runs. Raises ConfigError for an unknown name."""
    if name not in NAMES:
        raise ConfigError(f"no demo is called {name!r}", hint=suggestion(name, NAMES))
    delivery.check()
    run = DIRECTORY / name
    report = _without_commands(analyse(run, load_config(run / "config.toml")))
    others = ", ".join(each for each in NAMES if each != name)
    closing = (
        Sentence(
            "This was a demo: stored traces of a small bundled model, with limits for few tokens."
        ),
        Sentence(
            "your own model: parity-check compare --model PATH --reference vllm==0.8.5 "
            "--candidate vllm==0.18.1 --prompts FILE"
        ),
        Sentence("the same on CPU, from the start: parity-check compare -c bundled:quickstart"),
        Sentence(f"other demos: {others}"),
    )
    return deliver(document(report), delivery, console, replace(brief(report), closing=closing))


def _without_commands(report: ComparisonReport) -> ComparisonReport:
    """The report without the commands that confirm a finding: its engines are not here."""
    return replace(
        report,
        pairs=tuple(
            replace(
                pair,
                diagnosis=replace(
                    pair.diagnosis,
                    findings=tuple(
                        replace(finding, confirm=None) for finding in pair.diagnosis.findings
                    ),
                ),
            )
            for pair in report.pairs
        ),
    )
