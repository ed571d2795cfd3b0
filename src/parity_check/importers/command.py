"""The `import` command: convert a dump of a training run to traces."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from parity_check import words
from parity_check.config.flags import ON_A_TRACE
from parity_check.config.load import stated_sampling
from parity_check.console import Console
from parity_check.errors import ConfigError, InputError
from parity_check.files import check_writable
from parity_check.importers import headers
from parity_check.importers.formats import AUTO, IMPORTERS, check_format, find_format, importer
from parity_check.importers.turns import Imported, collect
from parity_check.reading import regular_file
from parity_check.traces.trace import Sample, check_vocabulary, write_trace


def format_and_files(arguments: Sequence[str]) -> tuple[str, list[Path]]:
    """The format (AUTO if not given) and the files. Raises ConfigError, InputError."""
    first, *others = arguments
    if first == AUTO or first in IMPORTERS:
        if not others:
            raise InputError(f"no file of {first} to import", hint="pass the files of the dump")
        return first, [Path(word) for word in others]
    if not Path(first).exists() and Path(first).name == first and not Path(first).suffix:
        importer(first)
    return AUTO, [Path(word) for word in arguments]


def evaluating_path(path: Path) -> Path:
    """The path of the trainer's trace."""
    return path.parent / f"{path.stem}-trainer{path.suffix}"


def import_dump(
    format: str,
    files: Sequence[Path],
    path: Path,
    stated: Sequence[str],
    model: str | None,
    lora: str | None,
    console: Console,
) -> None:
    """Write the rollout's trace of a dump, and the trainer's trace if the dump has one.

    `format` is a framework's name, or AUTO. Writes nothing before everything is read and checked.
    Raises ConfigError, InputError.
    """
    if str(path) == "-":
        raise ConfigError("-o -: a trace is a file, not standard output", hint="-o trace.parquet")
    for file in files:
        regular_file(file, "the dump")
    if format == AUTO:
        format = find_format(files)
        console.say(f"detected format: {format}")
    else:
        check_format(format, files)
    how = importer(format)
    sampling = stated_sampling(stated)
    fingerprint, vocabulary = headers.stated_model(model, lora)
    imported = collect(how.read(files))
    check_vocabulary(imported.behaviour, vocabulary, "the dump")
    other = evaluating_path(path)
    for each in [path] if imported.evaluating is None else [path, other]:
        check_writable(each)
    labels = (how.behaviour, how.evaluating)
    written = write_trace(
        path,
        imported.behaviour,
        headers.header(format, files, labels, imported, sampling, fingerprint),
        imported.texts,
    )
    console.say(
        f"wrote {path}: {words.count(written.samples, 'sample')}, "
        f"{words.count(written.tokens, 'token')}, {how.behaviour}"
        f"{_left_out(imported)}{_nulls(imported.behaviour)}"
    )
    if imported.evaluating is None:
        console.say(
            "the dump has no trainer logprobs; to compare engines on these tokens (parity-check "
            "init writes parity.toml):"
        )
        console.say(f"  {ON_A_TRACE.format(trace=shlex.quote(str(path)))}")
        return
    header = headers.evaluating_header(written, how.evaluating)
    write_trace(other, imported.evaluating, header, imported.texts)
    console.say(
        f"wrote {other}: the same tokens, {how.evaluating}{_nulls(imported.evaluating)}; to "
        "compare the two:"
    )
    console.say(f"  {shlex.join(('parity-check', 'compare', str(path), str(other)))}")


def _nulls(samples: Sequence[Sample]) -> str:
    """How many logprobs the dump does not have."""
    count = sum(value is None for sample in samples for value in sample.logprobs)
    return (
        f"; {words.count(count, 'logprob')} {'is' if count == 1 else 'are'} null" if count else ""
    )


def _left_out(imported: Imported) -> str:
    """What was excluded from the trace, and what was split into turns."""
    sampled = imported.sequences - imported.unsampled
    notes = []
    if len(imported.behaviour) > sampled:
        split = words.count(sampled, "sequence")
        notes.append(f"{split} {_was(sampled)} split into one sample per turn")
    if imported.rollouts < sampled:  # so there are several sequences
        rollouts = words.count(imported.rollouts, "rollout")
        notes.append(f"{sampled:,} sequences belong to {rollouts}")
    if imported.masked:
        masked = words.count(imported.masked, "masked token")
        is_or_are = "is" if imported.masked == 1 else "are"
        notes.append(f"{masked} between turns {is_or_are} only context")
    if imported.unsampled:
        unsampled = words.count(imported.unsampled, "sequence")
        notes.append(f"{unsampled} without a sampled token {_was(imported.unsampled)} skipped")
    return "".join(f"; {each}" for each in notes)


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
