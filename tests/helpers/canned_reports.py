"""Every canned report as a document: what the golden files and the tests of formats show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from helpers.canned import CANNED, Canned, write_run
from helpers.canned_ablation import write_ablation
from helpers.canned_logs import logs_report
from helpers.canned_matrix import write_matrix
from helpers.canned_probes import LOCATED
from helpers.canned_training import TRAINED
from helpers.canned_updates import UPDATES
from parity_check.ablation.analyse import analyse_ablation
from parity_check.ablation.document import document as ablation_document
from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.pictures.gather import gather
from parity_check.config.load import load_config
from parity_check.locate.document import document as locate_document
from parity_check.locate.report import LocateReport
from parity_check.logs.document import document as logs_document
from parity_check.report.document import Document
from parity_check.training.document import document as training_document
from parity_check.training.report import TrainingReport
from parity_check.weight_sync.document import document as weight_sync_document
from parity_check.weight_sync.report import WeightSyncReport


def comparison(run: Path) -> Document:
    """The report of a run, with what a page draws."""
    config = load_config(run / "config.toml")
    return document(replace(analyse(run, config), pictures=gather(run, config)))


def of_two(canned: Canned, directory: Path) -> Document:
    return comparison(write_run(directory / "run", canned))


def of_three(directory: Path) -> Document:
    return comparison(write_matrix(directory / "run"))


def ablation(directory: Path) -> Document:
    run = write_ablation(directory / "run")
    return ablation_document(analyse_ablation(run, load_config(run / "config.toml")))


def weight_sync(report: WeightSyncReport, directory: Path) -> Document:
    return weight_sync_document(report)


def locate(report: LocateReport, directory: Path) -> Document:
    return locate_document(report)


def training(report: TrainingReport, directory: Path) -> Document:
    return training_document(report)


REPORTS: dict[str, Callable[[Path], Document]] = {
    **{name: partial(of_two, canned) for name, canned in CANNED.items()},
    "three-engines": of_three,
    "ablation": ablation,
    "logs": lambda directory: logs_document(logs_report(directory)),
    **{f"weight-sync-{name}": partial(weight_sync, report) for name, report in UPDATES.items()},
    **{f"locate-{name}": partial(locate, report) for name, report in LOCATED.items()},
    **{f"training-{name}": partial(training, report) for name, report in TRAINED.items()},
}
"""Each makes its report in an empty directory."""
KINDS = {
    "comparison": "three-engines",
    "ablation": "ablation",
    "weight_sync": "weight-sync-stale",
    "locate": "locate-module",
    "logs": "logs",
    "training": "training-story",
}
"""One report of each kind, by the kind's package."""
