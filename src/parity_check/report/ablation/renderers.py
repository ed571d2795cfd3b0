"""The renderers of an ablation by name: AblationReport → str."""

from __future__ import annotations

from collections.abc import Callable

from parity_check.ablation.report import AblationReport
from parity_check.report.ablation import html, json, markdown, text

RENDERERS: dict[str, Callable[[AblationReport], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
    "html": html.render,
}
