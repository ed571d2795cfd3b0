"""The renderers by name: WeightSyncReport → str."""

from __future__ import annotations

from collections.abc import Callable

from parity_check.report.renderers import Format
from parity_check.report.weight_sync import github, html, json, junit, markdown, text
from parity_check.weight_sync.report import WeightSyncReport

RENDERERS: dict[Format, Callable[[WeightSyncReport], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
    "html": html.render,
    "github": github.render,
    "junit": junit.render,
}
