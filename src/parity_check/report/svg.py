"""matplotlib figures as inline SVG that follows the page: its colours, its font, light and dark.

Figures are drawn in stand-in colours, one a role, which become the page's CSS variables here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from parity_check.report.document import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = (
    *("ink", "muted", "rule", "reference", "candidate", "data", "good", "bad"),
    *("heat-1", "heat-2", "heat-3", "heat-4", "heat-5", "heat-6"),
)
COLOURS: Mapping[str, str] = {role: f"#0a0b{number:02x}" for number, role in enumerate(ROLES, 16)}
"""The stand-in for each role; `--role` is its variable in page.css."""
STYLE: Any = {
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 0.8,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.4,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}
MARGINS = {"left": 0.16, "right": 0.985, "top": 0.9, "bottom": 0.19}
"""Room for a legend above the axes and for labels; a plot may set others."""
NOTHING = ("Creator", "Date", "Format", "Type")
_FONT = re.compile(r"font(-family)?: ([\d.]+px )?[^;\"]*(sans-serif|serif)[^;\"]*")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_ATTRIBUTE = re.compile(r'="[^"]*"')
_UNUSED_ID = re.compile(r' id="(?!p[0-9a-f]{10}"|m[0-9a-f]{10}")[^"]*"')


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(panel: Panel, name: str) -> str:
    """One panel as inline SVG. `name` makes its ids its own."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=panel.size)
        figure.subplots_adjust(**MARGINS)
        axes = figure.add_subplot()
        panel.draw(axes)
        axes.minorticks_off()
        return _inline(figure, name, panel.alt)


def _inline(figure: Figure, name: str, alt: str) -> str:
    """One figure as an `<svg>` element whose ids are its own; equal figures give equal text."""
    import matplotlib
    from markupsafe import escape

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(NOTHING))
    text = file.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    body = body.replace("xlink:href", "href")
    body = _UNUSED_ID.sub("", body)
    body = _FONT.sub(lambda found: f"font-size: {found[2]}" if found[2] else "", body)
    body = _ATTRIBUTE.sub(lambda found: _LONG_NUMBER.sub(_rounded, found[0]), body)
    for role, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{role})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    return (
        f'<svg class="plot" viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">\n{body}</svg>'
    )


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
