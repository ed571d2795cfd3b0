"""`import`: a dump of a training run as traces."""

from __future__ import annotations

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    Color,
    Dump,
    Quiet,
    StatedLora,
    StatedModel,
    StatedSampling,
    TraceOut,
)
from parity_check.files import check_apart


def import_dump(
    context: typer.Context,
    dump: Dump,
    trace: TraceOut,
    sampling: StatedSampling = None,
    model: StatedModel = None,
    lora: StatedLora = None,
    quiet: Quiet = 0,
    color: Color = None,
) -> None:
    """Convert a dump of a training run to traces: rollout and trainer logprobs."""
    from parity_check.importers import command as importing

    console = invocation.console(context, -quiet, color, None)
    format, files = importing.format_and_files(dump)
    check_apart([trace, importing.evaluating_path(trace)], files)
    importing.import_dump(format, files, trace, sampling or [], model, lora, console)
