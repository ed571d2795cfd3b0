"""The bundled prompts: short and long, arithmetic, and families that share a prefix."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from tiny_model.corpus import REGISTERS, SEED, Writer, make_problem

LONGEST_PROMPT = 440  # tokens: a prompt and 64 sampled tokens fit a context of 512


@dataclass(frozen=True)
class Prompt:
    prompt_id: str
    prompt_group: str
    prompt: str
    family: str | None = None
    """What prompts with a common beginning have in common: `stats.cluster_by = "family"`."""

    def row(self) -> dict[str, str]:
        """Its line of prompts.jsonl."""
        family = {} if self.family is None else {"family": self.family}
        names = {"prompt_id": self.prompt_id, "prompt_group": self.prompt_group}
        return {**names, **family, "prompt": self.prompt}


# Lengths in tokens at which documents are cut.
CUTS: dict[str, list[int]] = {
    "story": [10, 14, 20, 32, 48, 64, 90, 120, 150, 190, 230, 280, 330, 380, 420, LONGEST_PROMPT],
    "dialogue": [14, 24, 40, 60, 85, 115, 160, 220, 300, 400],
    "instruction": [10, 18, 30, 45, 65, 90, 125, 170, 240, 350],
    "description": [10, 22, 40, 70, 110, 180, 260, 360],
}
ARITHMETIC_PROMPTS = 20
# Families of prompts with one long common beginning: its bounds in tokens. vLLM's V1 prefix cache
# on CPU works in blocks of 128 tokens: each family shares one block, the last two share two.
FAMILIES = {
    "worksheet": (180, 215),
    "story": (220, 250),
    "dialogue": (268, 300),
    "ledger": (300, 330),
}
FAMILY_SIZE = 8
TURNS = 3
"""Of the bundled prompts: each turn has those of `held_out_prompts` that share no prefix, anew."""
SHORT = (30, 60)
"""Bounds in tokens of the further prompts, which are many."""
SHORT_PROMPTS = 3900


def prompt_writer(name: str) -> Writer:
    return Writer(random.Random(f"{SEED}/prompt/{name}"))


def cut(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The longest beginning of ``text`` that ends with a word and has at most ``tokens`` tokens."""
    offsets = tokenizer.encode(text).offsets
    if len(offsets) <= tokens:
        raise ValueError(f"the document has fewer than {tokens} tokens")
    end = offsets[tokens][0]
    return re.sub(r"\s*\S*$", "", text[: end + 1])


def cut_prompts(tokenizer: Tokenizer, turn: int = 0) -> Iterator[Prompt]:
    """Documents cut in the middle, short and long; others each turn."""
    for group, lengths in CUTS.items():
        register = REGISTERS[group]
        for index, tokens in enumerate(lengths, start=turn * len(lengths)):
            prompt_id = f"{group}-{index:03d}"
            # More units than the cut needs: each has at least six tokens.
            text = register.beginning(prompt_writer(prompt_id), units=2 + tokens // 6)
            yield Prompt(prompt_id, group, cut(tokenizer, text, tokens))


def arithmetic_prompts(turn: int = 0) -> Iterator[Prompt]:
    for index in range(turn * ARITHMETIC_PROMPTS, (turn + 1) * ARITHMETIC_PROMPTS):
        prompt_id = f"arith-{index:03d}"
        question = make_problem(prompt_writer(prompt_id)).question
        yield Prompt(prompt_id, "arithmetic", f"Question: {question}\nAnswer:")


def shared_prefix(tokenizer: Tokenizer, writer: Writer, name: str) -> tuple[str, int]:
    """A document's beginning whose length suits its family, and its number of units."""
    shortest, longest = FAMILIES[name]
    while True:
        units = writer.rng.randint(2, 40)
        text = REGISTERS[name].beginning(writer, units)
        if shortest <= len(tokenizer.encode(text).ids) <= longest:
            return text, units


def short_ending(register_name: str, unit: str) -> str:
    """The beginning of a further unit, for the model to go on with."""
    if register_name == "worksheet":
        return unit[: unit.index("\nAnswer:")] + "\nAnswer:"
    words = re.findall(r"\s*\S+", unit)
    return "".join(words[: max(2, len(words) // 2)])


def family_prompts(tokenizer: Tokenizer) -> Iterator[Prompt]:
    """Long common beginnings, each with different short endings."""
    for family, name in enumerate(FAMILIES):
        writer = prompt_writer(f"family-{family}")
        prefix, units = shared_prefix(tokenizer, writer, name)
        endings: list[str] = []
        while len(endings) < FAMILY_SIZE:
            ending = short_ending(name, REGISTERS[name].unit(writer, units))
            if ending not in endings:
                endings.append(ending)
        for member, ending in enumerate(endings):
            name_of = f"shared-{family}"
            yield Prompt(
                f"{name_of}-{member:03d}", "shared-prefix", prefix + ending, family=name_of
            )


BUNDLED = 560
"""With one sample each, enough tokens and families for every gate of the relaxed profile."""


def short_prompts(tokenizer: Tokenizer) -> Iterator[Prompt]:
    """Documents cut early: one of many prompts costs little."""
    for index in range(SHORT_PROMPTS):
        group = list(CUTS)[index % len(CUTS)]
        prompt_id = f"{group}-short-{index:04d}"
        writer = prompt_writer(prompt_id)
        tokens = writer.rng.randint(*SHORT)
        text = REGISTERS[group].beginning(writer, units=2 + tokens // 6)
        yield Prompt(prompt_id, group, cut(tokenizer, text, tokens))


def held_out_prompts(tokenizer: Tokenizer) -> list[Prompt]:
    """Those that the model is not trained on."""
    return [*arithmetic_prompts(), *cut_prompts(tokenizer), *family_prompts(tokenizer)]


def make_prompts(tokenizer: Tokenizer) -> list[Prompt]:
    """The bundled prompts, all short enough."""
    prompts = held_out_prompts(tokenizer)
    for turn in range(1, 1 + TURNS):
        prompts += [*arithmetic_prompts(turn), *cut_prompts(tokenizer, turn)]
    return checked([*prompts, *short_prompts(tokenizer)], tokenizer)[:BUNDLED]


def more_prompts(tokenizer: Tokenizer) -> list[Prompt]:
    """The bundled prompts, and many more short ones."""
    return checked([*make_prompts(tokenizer), *short_prompts(tokenizer)], tokenizer)


def checked(prompts: list[Prompt], tokenizer: Tokenizer) -> list[Prompt]:
    """Each text once: two of the shortest can be the same. RuntimeError if one is too long."""
    prompts = list({prompt.prompt: prompt for prompt in reversed(prompts)}.values())[::-1]
    longest = max(len(tokenizer.encode(prompt.prompt).ids) for prompt in prompts)
    if longest > LONGEST_PROMPT:
        raise RuntimeError(f"a prompt has {longest} tokens")
    return prompts


def without_prompts(documents: list[str], prompts: list[Prompt]) -> list[str]:
    """The documents in which no prompt occurs: what is left to train on."""
    return [text for text in documents if not any(p.prompt in text for p in prompts)]
