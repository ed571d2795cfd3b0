"""The renderers of a comparison of many engines by name: MatrixReport → str."""

from __future__ import annotations

from collections.abc import Callable

from parity_check.report.matrix import json, markdown, text
from parity_check.report.matrix.model import MatrixReport

RENDERERS: dict[str, Callable[[MatrixReport], str]] = {
    "text": text.render,
    "json": json.render,
    "markdown": markdown.render,
}
