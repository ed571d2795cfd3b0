"""Every canned report as a document: what the golden files and the tests of formats show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from helpers.canned import CANNED, Canned, write_run
from helpers.canned_matrix import write_matrix
from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.pictures.gather import gather
from parity_check.config.load import load_config
from parity_check.report.document import Document


def comparison(run: Path) -> Document:
    """The report of a run, with what a page draws."""
    config = load_config(run / "config.toml")
    return document(replace(analyse(run, config), pictures=gather(run, config)))


def of_two(canned: Canned, directory: Path) -> Document:
    return comparison(write_run(directory / "run", canned))


def of_three(directory: Path) -> Document:
    return comparison(write_matrix(directory / "run"))


REPORTS: dict[str, Callable[[Path], Document]] = {
    **{name: partial(of_two, canned) for name, canned in CANNED.items()},
    "three-engines": of_three,
}
"""Each makes its report in an empty directory."""
KINDS = {"comparison": "three-engines"}
"""One report of each kind, by the kind's package."""
