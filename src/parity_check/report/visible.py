"""Untrusted text made visible: nothing hides, turns its neighbours round, or goes on for ever."""

from __future__ import annotations

import json
import re
import unicodedata

SPACE, TAB, NEWLINE = "·", "⇥", "↵"
SHOWN = {" ": SPACE, "\t": TAB, "\n": NEWLINE}
LONGEST = 120
"""Characters of a token that are shown."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff]"
)


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
