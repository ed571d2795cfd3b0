"""Measure the time and size of an HTML report.

    python scripts/bench_html.py [--tokens 1e6 1e7]

Builds two traces like `bench_analysis.py` and times what `parity-check compare A B --format html`
does after its imports: measure and judge, collect the plot data in a second pass, render the page.
Does not include the second of matplotlib imports for the first page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench_analysis import LENGTH, build
from parity_check.comparison.analyse import analyse_pair
from parity_check.comparison.document import document
from parity_check.comparison.pictures.gather import gather_pair
from parity_check.config.models import Judging
from parity_check.report import svg
from parity_check.report.document import Panel
from parity_check.report.renderers import render

HEAD = "| tokens | analyse, s | gather, s | render, s | page, MB |\n|---:|---:|---:|---:|---:|"


def row(tokens: int) -> str:
    svg.draw(Panel(lambda axes: None, "", ""), "warm-up")
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        build(directory, tokens)
        pair, judging = (directory / "A.parquet", directory / "B.parquet"), Judging()
        times = [time.perf_counter()]
        report = analyse_pair(*pair, judging)
        times.append(time.perf_counter())
        report = replace(report, pictures=gather_pair(*pair, judging))
        times.append(time.perf_counter())
        page = render(document(report), "html")
        times.append(time.perf_counter())
    seconds = [f"{b - a:.2f}" for a, b in pairwise(times)]
    size = len(page.encode()) / 1e6
    return "| " + " | ".join([f"{tokens:,}", *seconds, f"{size:.2f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e6, 1e7])
    options = parser.parse_args()
    print(HEAD)
    for wanted in options.tokens:
        print(row(int(wanted) // LENGTH * LENGTH), flush=True)


if __name__ == "__main__":
    main()
