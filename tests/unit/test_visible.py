"""Untrusted text: seen, in order, on one line, and not for ever."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check import visible

ANY = st.text(st.characters(exclude_categories=()), max_size=200)


@given(ANY)
def test_a_shown_token_hides_and_turns_nothing(text: str) -> None:
    shown = visible.token(text)
    shown.encode("utf-8")
    assert all(character.isprintable() for character in shown)
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLI", "PDI") for c in shown)
    assert len(shown) < 10 * visible.LONGEST + 40


@given(ANY, ANY)
def test_different_tokens_look_different(one: str, other: str) -> None:
    if one != other and max(len(one), len(other)) <= visible.LONGEST and "\\" not in one + other:
        assert visible.token(one) != visible.token(other)


@given(ANY)
def test_a_document_is_utf8_whatever_it_holds(text: str) -> None:
    document = visible.document(text)
    document.encode("utf-8")
    assert visible.document(document) == document


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "·the"),
        ("\n\n\t", "↵↵⇥"),
        ("·", "\\u00b7"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u0301", "\\u0301"),
        ("a\u0301\u0302\u0303\u0304", "a\u0301\u0302\\u0303\\u0304"),
        ("\u05e9\U0001f680", "\u05e9\U0001f680"),
        (121 * "x", 120 * "x" + "… (121 characters)"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert visible.token(text) == shown


@given(ANY)
def test_a_line_is_one_line(text: str) -> None:
    shown = visible.line(text)
    shown.encode("utf-8")
    assert all(character.isprintable() for character in shown)
    if text.isprintable():
        assert shown == text
