"""The structure of a page as lines: headings, paragraphs, table rows, alt texts."""

from __future__ import annotations

from html.parser import HTMLParser

BLOCKS = {
    "h1": "# ", "h2": "## ", "h3": "### ", "p": "", "li": "- ", "summary": "> ", "caption": "[] ",
    "figcaption": "fig. ", "dt": ": ", "dd": "  ", "pre": "$ ", "title": "title ",
}  # fmt: skip
SKIPPED = ("style", "script", "svg")
LONG_TABLE = 24


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._block: str | None = None
        self._text: list[str] = []
        self._row: list[str] | None = None
        self._rows: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "svg" and values.get("aria-label"):
            self.lines.append(f"picture: {values['aria-label']}")
        if tag in SKIPPED:
            self._skipped += 1
        if tag == "section":
            self.lines += ["", f"section {values['id']}"]
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._row = []
        elif tag in BLOCKS or tag in ("td", "th"):
            self._flush()
            self._block = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in SKIPPED:
            self._skipped -= 1
        if tag in ("td", "th") and self._row is not None:
            self._row.append(self._taken())
            self._block = None
        elif tag == "tr" and self._row is not None:
            self._rows.append("| " + " | ".join(self._row) + " |")
            self._row = None
        elif tag == "table":
            shown = self._rows if len(self._rows) <= LONG_TABLE else self._rows[:3]
            left = len(self._rows) - len(shown)
            self.lines += [*shown, *([f"… {left} more rows"] if left else [])]
        elif tag in BLOCKS:
            self._flush()

    def handle_data(self, data: str) -> None:
        if not self._skipped and self._block is not None:
            self._text.append(data)

    def _taken(self) -> str:
        text = " ".join("".join(self._text).split())
        self._text = []
        return text

    def _flush(self) -> None:
        text = self._taken()
        if self._block in BLOCKS and text:
            self.lines.append(BLOCKS[self._block] + text)
        self._block = None


def outline(page: str) -> str:
    parser = Outline()
    parser.feed(page)
    return "\n".join(parser.lines) + "\n"
