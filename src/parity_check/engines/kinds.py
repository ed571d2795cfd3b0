"""The kinds of engine, by the `kind` of their tables."""

from __future__ import annotations

from typing import Any

from parity_check.config.models import Config
from parity_check.engines.base import ConfiguredEngine
from parity_check.engines.endpoint.engine import ConfiguredEndpoint
from parity_check.engines.fake import ConfiguredFake
from parity_check.engines.trainer import ConfiguredTrainer
from parity_check.engines.vllm import ConfiguredVllm

KINDS: dict[str, type[ConfiguredEngine[Any]]] = {
    "vllm": ConfiguredVllm,
    "transformers": ConfiguredTrainer,
    "endpoint": ConfiguredEndpoint,
    "fake": ConfiguredFake,
}


def configured_engine(role: str, config: Config) -> ConfiguredEngine[Any]:
    """One engine of a configuration. Raises ConfigError for an unknown role."""
    table = config.engine(role)
    return KINDS[table.kind](role, config, table)
