"""The header of an imported trace: what the dump states; everything else is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parity_check.config.engines import Settings
from parity_check.config.models import ModelConfig
from parity_check.errors import ConfigError
from parity_check.importers.turns import Imported
from parity_check.reading import wrong_name
from parity_check.traces import checkpoint, provenance
from parity_check.traces.adapter import adapted
from parity_check.traces.engine import UNKNOWN, EngineDescription, EngineSetting
from parity_check.traces.trace import TraceHeader


def unknown_engine(label: str) -> EngineDescription:
    """The description of an engine that is known only from a dump."""
    setting = EngineSetting(UNKNOWN, UNKNOWN, "not stated in the dump")
    return EngineDescription(
        label=label,
        version=UNKNOWN,
        family=UNKNOWN,
        device=UNKNOWN,
        packages={},
        settings=dict.fromkeys(Settings.model_fields, setting),
        config={},
        environment={},
    )


def header(
    format: str,
    files: Sequence[Path],
    labels: tuple[str, str],
    imported: Imported,
    sampling: dict[str, Any],
    model: dict[str, Any],
) -> TraceHeader:
    """The header of the behaviour side. `labels` are the names of both sides."""
    now = datetime.now(UTC)
    return TraceHeader(
        run_id=f"import-{now:%Y%m%d-%H%M%S}",
        created_utc=now.isoformat(timespec="seconds"),
        command=provenance.command_line(),
        sampled_by=labels[0],
        evaluated_by=labels[0],
        engine=unknown_engine(labels[0]),
        model=model,
        sampling=sampling,
        logprob_path=UNKNOWN,
        logprob_distribution=UNKNOWN,
        host=provenance.host_fingerprint(),
        config={
            "import": {
                "format": format,
                "files": [str(file) for file in files],
                "sequences": imported.sequences,
                "masked_tokens": imported.masked,
            }
        },
    )


def evaluating_header(behaviour: TraceHeader, label: str) -> TraceHeader:
    """The header of the evaluating side, for the tokens of the written behaviour side."""
    return replace(
        behaviour,
        evaluated_by=label,
        engine=unknown_engine(label),
        replayed_from=behaviour.token_digest,
    )


def stated_model(path: str | None, lora: str | None) -> tuple[dict[str, Any], int | None]:
    """The fingerprint and vocabulary size of the checkpoint and adapter that the user passed."""
    if path is None:
        if lora is not None:
            raise ConfigError(f"--lora {lora}: of which model? Pass its base model as --model")
        return {}, None
    reason = wrong_name(path)
    if reason is not None:
        raise ConfigError(f"--model {path}: {reason}")
    located = checkpoint.locate_model(ModelConfig(path=path, revision="main"))
    written = checkpoint.read_config(located)
    size = None if written is None else checkpoint.vocabulary_size(written)
    return adapted(provenance.model_fingerprint(located, None), lora, located), size
