"""Untrusted text made visible: nothing hides, turns its neighbours round, or goes on for ever."""

from __future__ import annotations

import json
import re
import reprlib
import unicodedata

SPACE, TAB, NEWLINE = "·", "⇥", "↵"
SHOWN = {" ": SPACE, "\t": TAB, "\n": NEWLINE}
LONGEST = 120
"""Characters of a token that are shown."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff]"
)
_COMMAND = re.compile(r"^([^\S\n]*):(?=:)|#(#)(?=\[)", re.MULTILINE)
"""Where GitHub's runner begins to read a command of the workflow, in any line of a log."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def token(text: str) -> str:
    """A token's text on one line: whitespace as signs, what cannot be seen as its escape."""
    cut = text[:LONGEST]
    shown = "".join(_sign(cut, place) for place in range(len(cut)))
    return shown if len(text) <= LONGEST else f"{shown}… ({len(text):,} characters)"


def line(text: str) -> str:
    """Text on one line: control characters and what cannot be seen as their JSON escapes."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return "".join(c if c.isprintable() else _escape(c) for c in escaped)


def document(text: str) -> str:
    """A whole page or file that any reader takes as UTF-8, and in the order that it was written.

    Lone surrogates, control characters, and what is invisible or turns the direction of writing
    become escapes, which mean the same in JSON.
    """
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def log(text: str) -> str:
    """A document for a terminal or a workflow's log: none of its lines is a command to either."""
    return _COMMAND.sub(_disarmed, document(text))


def message(text: str, longest: int | None = None) -> str:
    """A log on one line, of so many characters at the most: the middle is left out."""
    shown = log(text).replace("\n", "\\n")
    if longest is None or len(shown) <= longest:
        return shown
    return f"{shown[: longest // 2]} … {shown[-longest // 2 :]}"


def value(found: object) -> str:
    """A value of any kind and size, short enough to stand in a message."""
    try:
        return _SHORT.repr(found)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        return f"a {type(found).__name__} that is too large to show"


def _disarmed(found: re.Match[str]) -> str:
    return f"#{_escape('#')}" if found[2] else f"{found[1]}{_escape(':')}"


def _sign(text: str, place: int) -> str:
    character = text[place]
    if character in SHOWN:
        return SHOWN[character]
    if character in SHOWN.values() or not character.isprintable():
        return _escape(character)
    # A mark sits on the character before it: alone it would change another token, and a pile of
    # them other lines.
    before = text[max(0, place - 2) : place]
    if unicodedata.combining(character) and (
        not before or all(unicodedata.combining(each) for each in before)
    ):
        return _escape(character)
    return character


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
