"""A document as one page: self-contained, readable without network, JavaScript or pictures."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING

from parity_check import visible
from parity_check.report import svg
from parity_check.report.document import (
    MARKS,
    OUTCOME_MARKS,
    Document,
    Figure,
    capitalised,
    full_stop,
)
from parity_check.report.json import tree

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_CODE = re.compile("`([^`]+)`")


def render(document: Document) -> str:
    data = json.dumps(tree(document.record), ensure_ascii=False, allow_nan=False)
    return _environment().get_template("page.html").render(document=document, data=data)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("parity_check.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "capitalised": capitalised,
        "data": _data,
        "full_stop": full_stop,
        "inline": _inline,
        "kind": lambda value: type(value).__name__,
        "signed": lambda value: f"{value:+.4f}",
        "token": visible.token,
    }
    environment.globals |= {
        "marks": MARKS,
        "outcome_marks": OUTCOME_MARKS,
        "draws": svg.available,
        "drawn": _drawn,
    }
    return environment


def _data(text: str) -> Markup:
    """JSON for a script element, which must not hold what ends or changes one."""
    from markupsafe import Markup

    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _inline(sentence: str) -> Markup:
    """A sentence with what is in backticks as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(sentence))))


def _drawn(figure: Figure) -> list[tuple[Markup, str]]:
    """The panels of a figure as SVG, with their captions."""
    from markupsafe import Markup

    return [
        (Markup(svg.draw(panel, f"{figure.name}-{number}")), panel.caption)
        for number, panel in enumerate(figure.panels)
    ]
