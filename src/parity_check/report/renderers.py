"""The renderers by name: ParityReport → str."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from parity_check.report import github, json, junit, markdown, text
from parity_check.report.model import ParityReport

Format = Literal["text", "json", "markdown", "github", "junit"]

RENDERERS: dict[Format, Callable[[ParityReport], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
    "github": github.render,
    "junit": junit.render,
}
