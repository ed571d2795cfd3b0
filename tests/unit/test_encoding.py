"""How a worker turns messages into ids: everything that a row says reaches the chat template."""

from __future__ import annotations

from typing import Any

import pytest

from unit.test_proofs import worker_module

MESSAGES = [{"role": "user", "content": "hi"}]


class Tokenizer:
    """Renders what its template was called with."""

    def apply_chat_template(self, messages: Any, **given: Any) -> str:
        return repr((messages, sorted(given.items())))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [add_special_tokens, *text.encode()]


def rendered(template: dict[str, Any] | None) -> str:
    request = {"prompt_id": "p", "text": None, "messages": MESSAGES, "template": template}
    special, *ids = worker_module("encoding").encode(Tokenizer(), request)
    assert not special
    return bytes(ids).decode()


def test_without_arguments_the_generation_prompt_is_added() -> None:
    plain = repr((MESSAGES, [("add_generation_prompt", True), ("tokenize", False)]))
    assert rendered({}) == rendered(None) == plain


def test_arguments_of_the_row_are_passed_and_win() -> None:
    text = rendered({"tools": [{"name": "add"}], "add_generation_prompt": False})
    assert "('tools', [{'name': 'add'}])" in text
    assert "('add_generation_prompt', False)" in text


def test_an_argument_that_no_template_takes_is_a_bad_prompt() -> None:
    with pytest.raises(worker_module("failures").WorkerFailure, match="chat template failed"):
        rendered({"tokenize": True})
