"""The renderers by name: ParityReport → str."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from parity_check.comparison.report import ParityReport
from parity_check.report import github, html, json, junit, markdown, text

Format = Literal["text", "json", "markdown", "html", "github", "junit"]

RENDERERS: dict[Format, Callable[[ParityReport], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
    "html": html.render,
    "github": github.render,
    "junit": junit.render,
}
