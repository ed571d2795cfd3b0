"""`import`: the dump of a training run becomes traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity_check.config.load import stated_sampling
from parity_check.console import Console
from parity_check.files import check_writable
from parity_check.importers import headers
from parity_check.importers.formats import importer
from parity_check.importers.turns import Imported, collect
from parity_check.traces.trace import check_vocabulary, write_trace


def evaluating_path(path: Path) -> Path:
    """Where the trainer's side of an imported trace goes."""
    return path.parent / f"{path.stem}-trainer{path.suffix}"


def import_dump(
    format: str,
    files: Sequence[Path],
    path: Path,
    stated: Sequence[str],
    model: str | None,
    console: Console,
) -> None:
    """Write the rollout's side of a dump, and the trainer's beside it where the dump holds one.

    Nothing is written before everything is read and checked. Raises ConfigError, InputError.
    """
    how = importer(format)
    sampling = stated_sampling(stated)
    fingerprint, vocabulary = headers.stated_model(model)
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
        f"wrote {path}: {written.samples} samples, {written.tokens} tokens, {how.behaviour}"
        f"{_left_out(imported)}"
    )
    if imported.evaluating is None:
        console.say("the dump holds no trainer's logprobs; to measure engines on these tokens:")
        console.say(f"  parity-check compare -c parity.toml --workload-trace {path}")
        return
    header = headers.evaluating_header(written, how.evaluating)
    write_trace(other, imported.evaluating, header, imported.texts)
    console.say(f"wrote {other}: the same tokens, {how.evaluating}; to compare the two:")
    console.say(f"  parity-check compare {path} {other}")


def _left_out(imported: Imported) -> str:
    """What of the dump is not in the trace, and what was cut into turns."""
    sampled = imported.sequences - imported.unsampled
    told = []
    if len(imported.behaviour) > sampled:
        told.append(f"{sampled} sequences became one sample a turn")
    if imported.masked:
        told.append(f"{imported.masked} masked tokens between turns are context only")
    if imported.unsampled:
        told.append(f"{imported.unsampled} sequences without a sampled token are left out")
    return "".join(f"; {each}" for each in told)
