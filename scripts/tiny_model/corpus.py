"""Documents: prose from a probabilistic grammar, and arithmetic with worked answers.

The grammar is data, in two notations. In words.txt, `symbol: word word …`, where ~ is a space
inside a word. In phrases.txt, `[symbol]` followed by one production per line, where ~ is a space at
either end and a lone - is the empty production. {symbol} expands; {symbol.a} adds the article,
{symbol.s} makes the plural, {symbol.cap} a capital. The first choices are used most. topics.txt has
the nouns of a document's topic: topic | places | things | people | tasks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SEED = 20240
BOS, EOS, USER, ASSISTANT, PAD = "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|pad|>"


def parse_words(text: str) -> dict[str, list[str]]:
    """``symbol: word word`` entries; a line that is indented continues the one before."""
    entries = re.split(r"\n(?=\S)", text.strip())
    pairs = (entry.split(":", 1) for entry in entries if entry.strip())
    return {symbol: [word.replace("~", " ") for word in words.split()] for symbol, words in pairs}


def parse_phrases(text: str) -> dict[str, list[str]]:
    """``[symbol]`` sections with one production per line."""
    rules: dict[str, list[str]] = {}
    for section in text.strip().split("\n\n"):
        head, *lines = section.splitlines()
        rules[head.strip("[]")] = [
            "" if line == "-" else line.replace("~", " ").replace("\\n", "\n") for line in lines
        ]
    return rules


def parse_topics(text: str) -> dict[str, dict[str, list[str]]]:
    """The symbols that depend on a document's topic."""
    topics: dict[str, dict[str, list[str]]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        name, places, things, people, tasks = entry.split("|")
        topics[name.strip()] = {
            "place": places.split(),
            "thing": things.split(),
            "thing2": things.split(),
            "person": people.split(),
            "task": [" ".join(task.split()) for task in tasks.split(",")],
        }
    return topics


RULES = {
    **parse_words((HERE / "words.txt").read_text(encoding="utf-8")),
    **parse_phrases((HERE / "phrases.txt").read_text(encoding="utf-8")),
}
TOPIC_RULES = parse_topics((HERE / "topics.txt").read_text(encoding="utf-8"))

# ------------------------------------------------------------------------------------ the grammar

SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")


def pick(rng: random.Random, items: list[str]) -> str:
    """One item, the earlier ones more often, as words are used in a language."""
    return items[int(len(items) * rng.random() ** 1.5)]


def plural(noun: str) -> str:
    """The regular English plural."""
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if re.search(r"(s|x|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if re.search(r"[^f]fe?$", noun):
        return re.sub(r"fe?$", "ves", noun)
    return noun + "s"


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalised(text: str) -> str:
    """``text`` with its first letter, which may follow a quotation mark, in upper case."""
    return re.sub(r"^(\W*)(\w)", lambda match: match[1] + match[2].upper(), text, count=1)


MODIFIERS: dict[str | None, Callable[[str], str]] = {
    None: str,
    "a": with_article,
    "s": plural,
    "cap": capitalised,
}


def invented_name(rng: random.Random, ends: str) -> str:
    """A name that no list holds, e.g. a town's: Velmorton."""
    parts = ["name_start", "name_middle"] * rng.choice((1, 1, 1, 2))
    name = "".join(pick(rng, RULES[part]) for part in parts)
    return (name + pick(rng, [*RULES["name_end"], ""]) + pick(rng, RULES[ends])).capitalize()


class Writer:
    """Expands templates. People, town and main object are chosen once, so that they recur."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.told: list[str] = []  # what a later sentence may repeat
        self._topic = dict(TOPIC_RULES[rng.choice(list(TOPIC_RULES))])
        self._topic["thing"] = self._favourites(self._topic["thing"])
        hero_is_she = rng.random() < 0.5
        hero_names, friend_names = ("she", "he") if hero_is_she else ("he", "she")
        self._fixed = {
            "hero": pick(rng, RULES[hero_names]),
            "friend": pick(rng, RULES[friend_names]),
            "third": pick(rng, RULES[hero_names]),
            "he": "she" if hero_is_she else "he",
            "his": "her" if hero_is_she else "his",
            "town": invented_name(rng, "town_end"),
            "surname": invented_name(rng, "surname_end"),
            "main_task": pick(rng, self._topic["task"]),
        }
        self._fixed["object"] = self.write("{adj} {thing}")

    def _favourites(self, things: list[str]) -> list[str]:
        """The topic's things in an order of this document's own: it dwells on a few of them."""
        keyed = sorted((index * self.rng.random(), thing) for index, thing in enumerate(things))
        return [thing for _, thing in keyed]

    def fix(self, **values: object) -> None:
        """Give symbols a value for the rest of the document."""
        self._fixed |= {symbol: str(value) for symbol, value in values.items()}

    def write(self, template: str) -> str:
        """``template`` with every ``{symbol}`` expanded."""
        return SLOT.sub(self._expand, template)

    def one(self, symbol: str) -> str:
        return self.write(f"{{{symbol}}}")

    def sentence(self, symbol: str) -> str:
        return capitalised(self.one(symbol))

    def _expand(self, slot: re.Match[str]) -> str:
        symbol, modifier = slot[1], slot[2]
        if symbol == "town_name":
            text = invented_name(self.rng, "town_end")
        elif symbol in self._fixed:
            text = self._fixed[symbol]
        else:
            text = self.write(pick(self.rng, self._topic.get(symbol) or RULES[symbol]))
        return MODIFIERS[modifier](text)


# ------------------------------------------------------------------------------------ arithmetic


@dataclass(frozen=True)
class Problem:
    question: str
    steps: list[str]
    answer: int

    def worked(self) -> str:
        return " ".join(self.steps) + f"\n#### {self.answer}"

    def text(self) -> str:
        return f"Question: {self.question}\nAnswer: {self.worked()}"


def add_steps(a: int, b: int) -> list[str]:
    """Tens, then ones, then their sum; directly where one number has a single digit."""
    if min(a, b) < 10:
        return [f"{a} + {b} = {a + b}."]
    ones = a % 10, b % 10
    tens = a - ones[0], b - ones[1]
    return [
        f"{tens[0]} + {tens[1]} = {sum(tens)}.",
        f"{ones[0]} + {ones[1]} = {sum(ones)}.",
        f"{sum(tens)} + {sum(ones)} = {a + b}.",
    ]


def subtract_steps(a: int, b: int) -> list[str]:
    """First the tens of ``b``, then its ones."""
    tens, ones = b - b % 10, b % 10
    if not tens or not ones:
        return [f"{a} - {b} = {a - b}."]
    return [f"{a} - {tens} = {a - tens}.", f"{a - tens} - {ones} = {a - b}."]


def multiply_steps(a: int, b: int) -> list[str]:
    """The tens of ``a`` and its ones apart; ``b`` is below 10."""
    tens, ones = a - a % 10, a % 10
    if not tens or not ones:
        return [f"{a} * {b} = {a * b}."]
    return [
        f"{tens} * {b} = {tens * b}.",
        f"{ones} * {b} = {ones * b}.",
        f"{tens * b} + {ones * b} = {a * b}.",
    ]


def skewed(rng: random.Random, low: int, high: int) -> int:
    """An integer in [low, high], the small ones more often."""
    return low + int((high - low + 1) * rng.random() ** 1.5)


def make_problem(writer: Writer) -> Problem:
    """A problem of a random kind, in the writer's world."""
    rng = writer.rng
    kind = rng.choice(["addition", "subtraction", "multiplication", "division", "two_steps"])
    a, b, c = skewed(rng, 2, 25), skewed(rng, 2, 9), 0
    if kind == "addition":
        a, b = skewed(rng, 2, 99), skewed(rng, 2, 99)
        steps, answer = add_steps(a, b), a + b
    elif kind == "subtraction":
        b = skewed(rng, 2, 60)
        a = b + skewed(rng, 1, 39)
        steps, answer = subtract_steps(a, b), a - b
    elif kind == "multiplication":
        steps, answer = multiply_steps(a, b), a * b
    elif kind == "division":
        answer = skewed(rng, 2, 10)
        a = answer * b
        steps = [f"{b} * {answer} = {a}, so {a} / {b} = {answer}."]
    else:
        a, b = b, skewed(rng, 2, 12)
        c = skewed(rng, 2, a * b - 1)
        steps, answer = [*multiply_steps(b, a), *subtract_steps(a * b, c)], a * b - c
    writer.fix(a=a, b=b, c=c, items=pick(rng, RULES["item"]))
    question = writer.one(kind)
    return Problem(question, [writer.one("so") + steps[0], *steps[1:]], answer)


# ------------------------------------------------------------------------------------ registers


def nothing(_: Writer) -> str:
    return ""


@dataclass(frozen=True)
class Register:
    """One kind of document: an opening, units in a row, and perhaps an ending."""

    unit: Callable[[Writer, int], str]
    units: tuple[int, int]  # fewest, most
    opening: Callable[[Writer], str] = nothing
    ending: Callable[[Writer], str] = nothing

    def document(self, writer: Writer, units: int | None = None) -> str:
        """Without ``units``, their number is drawn, short documents being the most frequent."""
        fewest, most = self.units
        count = units or fewest + int((most - fewest + 1) * writer.rng.random() ** 1.8)
        text = self.beginning(writer, count)
        return (text + self.ending(writer)).strip()

    def beginning(self, writer: Writer, units: int) -> str:
        """The opening and the first ``units`` units."""
        body = "".join(self.unit(writer, index) for index in range(units))
        return (self.opening(writer) + body).replace("\n ", "\n")


def prose(symbol: str) -> Callable[[Writer, int], str]:
    """Sentences in a row, with a paragraph break now and then."""

    def unit(writer: Writer, index: int) -> str:
        gap = "\n\n" if index and writer.rng.random() < 0.15 else " "
        return gap + writer.sentence(symbol)

    return unit


def problem_unit(writer: Writer, index: int) -> str:
    """Each problem on a sheet has people and things of its own."""
    return ("\n\n" if index else "") + make_problem(Writer(writer.rng)).text()


def turn(writer: Writer, index: int) -> str:
    speaker = "{friend}" if index % 2 else "{hero}"
    return writer.write(f"\n{speaker}: {{turn}}")


def entry(writer: Writer, index: int) -> str:
    """A name and its number; half of the entries repeat one told before, however far back."""
    told = writer.told
    if not told or writer.rng.random() < 0.5:
        told.append(writer.write("\n{town_name} {digit}{digit}{digit}"))
        return told[-1]
    return pick(writer.rng, told)


def step(writer: Writer, index: int) -> str:
    return f"\n{index + 1}. {capitalised(writer.write('{do}{step_tail}'))}."


def guide_opening(writer: Writer) -> str:
    return writer.write("{guide_opening}\n\n{guide_needs.cap}\n")


def story_ending(writer: Writer) -> str:
    return writer.write(" {story_ending}") if writer.rng.random() < 0.7 else ""


REGISTERS: dict[str, Register] = {
    "arithmetic": Register(problem_unit, (1, 1)),
    "worksheet": Register(problem_unit, (2, 8)),
    "story": Register(
        prose("story_sentence"), (2, 30), lambda w: w.one("story_opening"), story_ending
    ),
    "dialogue": Register(turn, (3, 34), lambda w: w.write("{scene.cap}\n")),
    "instruction": Register(step, (2, 20), guide_opening, lambda w: w.write("\n\n{guide_ending}")),
    "description": Register(
        prose("description_sentence"), (2, 26), lambda w: w.one("description_opening")
    ),
    "list": Register(
        lambda w, _: w.write("\n- {list_item}"), (3, 14), lambda w: w.one("list_title")
    ),
    "letter": Register(
        prose("letter_sentence"),
        (2, 12),
        lambda w: w.one("letter_opening"),
        lambda w: w.one("letter_ending"),
    ),
    "news": Register(
        prose("news_sentence"), (2, 10), lambda w: w.write("{town}, {month} {digit} —")
    ),
    "table": Register(lambda w, _: w.write("\n{row}"), (3, 9), lambda w: w.write("{town} {place}")),
    "ledger": Register(entry, (8, 60)),
}


def chat_document(writer: Writer) -> str:
    """A request and its answer, between the role tokens of the chat template."""
    kind = writer.rng.choice(["arithmetic", "arithmetic", "instruction", "story", "description"])
    if kind == "arithmetic":
        problem = make_problem(writer)
        return f"{USER}{problem.question}{ASSISTANT}{problem.worked()}"
    requests = {
        "instruction": "request",
        "story": "story_request",
        "description": "place_request",
    }
    return f"{USER}{writer.one(requests[kind])}{ASSISTANT}{REGISTERS[kind].document(writer)}"


# How often each kind of document is written, in parts.
MIX = {
    "arithmetic": 36,
    "worksheet": 8,
    "story": 14,
    "dialogue": 9,
    "instruction": 7,
    "description": 7,
    "list": 4,
    "letter": 4,
    "news": 4,
    "table": 2,
    "ledger": 8,
    "chat": 14,
}


def make_document(split: str, index: int) -> str:
    """Document ``index`` of ``split`` ("train" or "held-out"), a function of these two alone."""
    rng = random.Random(f"{SEED}/{split}/{index}")
    kind = rng.choices(list(MIX), weights=list(MIX.values()))[0]
    writer = Writer(rng)
    return chat_document(writer) if kind == "chat" else REGISTERS[kind].document(writer)
