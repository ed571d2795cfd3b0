"""One renderer a format: Document → str."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from parity_check import visible
from parity_check.report import github, html, json, junit, markdown, text
from parity_check.report.document import Document

Format = Literal["text", "json", "markdown", "html", "github", "junit"]

RENDERERS: dict[Format, Callable[[Document], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
    "html": html.render,
    "github": github.render,
    "junit": junit.render,
}


def render_text(document: Document, width: int) -> str:
    """A document for a terminal of `width` columns."""
    return visible.document(text.render(document, width))


def render(document: Document, format: Format) -> str:
    """A document in a format: valid UTF-8, and in reading order, whatever the tokens are."""
    return visible.document(RENDERERS[format](document))
