# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "tokenizers==0.23.3",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""Make the bundled tiny language model and the bundled prompts, from text generated here.

    python scripts/train_tiny_model.py              # writes src/parity_check/assets/{tiny,prompts.jsonl,README.md}
    python scripts/train_tiny_model.py --out DIR    # the same three below DIR

The text has two halves. Arithmetic questions come with worked answers that end in ``#### 42``, so a
reward can be checked. The rest is prose from a probabilistic grammar: stories, dialogue, instructions,
descriptions, lists, letters, news. The grammar's choices give the model distributions with a language
model's entropy, rare tokens and punctuation.

Everything is seeded. The same machine gives the same files twice; another CPU may round differently, so
the shipped weights are known by their sha256 (in the assets' README.md), not by retraining.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

ASSETS = Path(__file__).resolve().parent.parent / "src" / "parity_check" / "assets"

VOCAB_SIZE = 4096
BOS, EOS, USER, ASSISTANT, PAD = "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL_TOKENS = [BOS, EOS, USER, ASSISTANT, PAD]

TRAIN_DOCUMENTS = 26_000
HELD_OUT_DOCUMENTS = 300
SEQUENCE_LENGTH = 512
BATCH_SIZE = 8
STEPS = 900
MUON_LR, ADAMW_LR = 4e-3, 4e-3
WARMUP_STEPS = 20
THREADS = 2
SEED = 20240

LONGEST_PROMPT = 440  # tokens; a prompt and 64 sampled tokens fit a context of 512

# ------------------------------------------------------------------------------------ the words


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    """One production a line; a line that holds only a dash is the empty production."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return ["" if line == "-" else line.replace("~", " ") for line in lines]


SHE = _words(
    "Mara Anna Ida Nora Lena Ruth Clara Iris Hana Olive Greta Freya Tilda Priya Amina Zoë Yuki Carmen "
    "Esther Wilma Noor Selma Paloma Ingrid Beatrix Odile Marguerite Thandiwe Xiomara"
)
HE = _words(
    "Tom Ben Omar Felix Hugo Jonas Otto Emil Ravi Simon Karl Victor Leo Anton Mateo Idris Kofi Bruno "
    "Silas Edmund Tariq Gustav Hamish Lorenzo Ezekiel François Barnaby Wendell"
)
SYLLABLE_STARTS = _words("v t k m br l d s th gr f st h w p r n c b j kl sh tr qu z")
SYLLABLE_MIDDLES = _words("a e o i u or el ar en ai ou y")
SYLLABLE_ENDS = _words("n r l s m rn ck nd th x lm sk ft")
TOWN_ENDS = _words("ton wick ham field mouth stead bury ford haven mere by dale gate holm")
SURNAME_ENDS = _words("son er man ley ski ov sen well ard ini etti ström ak wright")


@dataclass(frozen=True)
class Topic:
    """The nouns that a document about one subject draws on."""

    places: list[str]
    things: list[str]
    people: list[str]
    tasks: list[str]


def _topic(places: str, things: str, people: str, tasks: str) -> Topic:
    return Topic(
        places.split(), things.split(), people.split(), [t.strip() for t in tasks.split(",")]
    )


TOPICS: dict[str, Topic] = {
    "kitchen": _topic(
        "kitchen bakery pantry café dining-room cellar market counter",
        "bread spoon pan apple knife bowl kettle cup onion plate oven lemon jar pepper dough cake recipe "
        "carrot saucepan ladle pumpkin apron whisk biscuit teapot sieve casserole",
        "cook baker guest waiter butcher grocer dishwasher",
        "bake bread, make soup, clean a kettle, sharpen a knife, store apples, cook rice for ten people",
    ),
    "garden": _topic(
        "garden orchard greenhouse shed lawn hedge path meadow",
        "tree rose seed spade pot bench fence leaf bucket worm hose root tulip ladder wheelbarrow bean "
        "rake beehive compost sprinkler trellis nettle sunflower rhubarb",
        "gardener neighbour beekeeper farmer florist botanist",
        "plant a tree, water roses, build a fence, keep bees, grow beans in a pot, prune a hedge",
    ),
    "harbour": _topic(
        "harbour pier beach lighthouse island dock bay fish-market",
        "boat rope net sail anchor fish crate lamp oar shell map engine gull barrel hook lantern compass "
        "mast buoy ferry pebble winch rudder driftwood",
        "sailor fisherman captain diver harbourmaster pilot smuggler",
        "tie a knot, mend a net, paint a boat, read a tide table, row across a bay, clean a fish",
    ),
    "workshop": _topic(
        "workshop garage factory attic yard office storeroom",
        "hammer box nail table wheel screw board chair clock wire saw bolt drill brush toolbox spring "
        "battery gear hinge motor sandpaper vise chisel solder oscillator",
        "carpenter mechanic clockmaker apprentice engineer welder foreman",
        "repair a clock, build a box, sand a table, change a tyre, wire a lamp, sharpen a saw",
    ),
    "forest": _topic(
        "forest cabin valley river clearing cave bridge hill campsite",
        "stone fire bird tent stick mushroom owl fox log path deer feather moss axe rucksack blanket nest "
        "torch badger squirrel fern acorn waterfall thicket",
        "hiker ranger hunter woodcutter scout hermit",
        "light a fire, pitch a tent, find the north, cross a river, gather mushrooms, follow a deer",
    ),
    "school": _topic(
        "school library classroom hall playground corridor museum laboratory",
        "book pencil desk page letter bag map bell paper poem notebook ruler globe chalk question essay "
        "microscope atlas dictionary timetable stapler parchment encyclopedia",
        "teacher pupil librarian student headmaster professor caretaker",
        "write a poem, borrow a book, learn a language, prepare a lesson, draw a map, study for a test",
    ),
    "station": _topic(
        "station platform train tunnel ticket-office village waiting-room crossing",
        "ticket train suitcase clock bench coat newspaper umbrella signal track whistle parcel bicycle "
        "window lamp timetable sandwich carriage locomotive briefcase turnstile",
        "driver passenger conductor porter traveller guard signalman",
        "pack a suitcase, read a timetable, catch a train, send a parcel, find a lost umbrella",
    ),
    "hospital": _topic(
        "hospital ward clinic pharmacy corridor kitchen laboratory",
        "bed chart bandage needle mask form bottle blanket tray door pill monitor pillow glove thermometer "
        "stretcher syringe antiseptic wheelchair prescription",
        "nurse doctor patient surgeon visitor chemist midwife",
        "dress a wound, take a temperature, change a bandage, make a bed, fill in a form",
    ),
    "theatre": _topic(
        "theatre stage dressing-room street square balcony studio",
        "curtain mask song violin costume piano drum mirror poster hat ticket script spotlight trumpet "
        "wig microphone cello candelabra orchestra tambourine",
        "actor singer dancer director violinist painter stagehand",
        "learn a song, tune a piano, paint a mask, sew a costume, rehearse a play, hang a curtain",
    ),
    "mountain": _topic(
        "mountain summit glacier hut ridge pass observatory valley",
        "snow rope boot peak star telescope ice rock goat sledge flag cloud stove glove ski radio glacier "
        "helmet avalanche barometer icicle crampon theodolite",
        "climber guide shepherd astronomer skier surveyor meteorologist",
        "climb a ridge, melt snow for tea, read a barometer, wax a ski, photograph the stars",
    ),
}

RULES: dict[str, list[str]] = {
    # words
    "adj": _words(
        "old small red cold long new heavy quiet warm dark wet strange empty broken blue bright dusty thin "
        "soft green wooden yellow narrow round clean sharp deep rusty pale crooked silver gentle sweet "
        "enormous faded striped hollow stubborn brittle velvet copper peculiar immaculate translucent"
    ),
    "feeling": _words(
        "tired happy afraid sure curious angry proud calm hungry worried glad lonely surprised careful "
        "ashamed patient jealous hopeful furious bewildered nostalgic"
    ),
    "adverb": _words(
        "slowly quietly quickly again carefully suddenly gently alone together at~once badly proudly "
        "without~a~word in~silence with~great~care nervously cheerfully half-heartedly absent-mindedly"
    ),
    "number": _words(
        "two three four five six seven eight nine ten twelve fifteen twenty thirty ninety"
    ),
    "ordinal": _words("first second third fourth fifth last next ninth hundredth"),
    "day": _words("Monday Sunday Friday Saturday Tuesday Wednesday Thursday"),
    "month": _words(
        "May June March October January April July September December August November February"
    ),
    "season": _words("summer winter spring autumn"),
    "digit": _words("1 2 3 4 5 6 7 8 9"),
    "figure": _lines(
        """{digit}0
        {digit}{digit}
        {digit}
        {digit}5
        {digit}00
        1{digit}{digit}
        {digit},{digit}00
        {digit}.{digit}"""
    ),
    "unit": _words(
        "minutes metres hours kilograms litres days miles grams pages kilometres °C % degrees"
    ),
    "year": _lines("19{digit}{digit}\n18{digit}{digit}\n20{digit}{digit}\n17{digit}0"),
    "clock": _lines("{digit}:30\n{digit} o'clock\n{digit}:15\nnoon\nmidnight\n1{digit}:{digit}5"),
    "price": _lines("${digit}.50\n{digit} euros\n${digit}{digit}\n£{digit}.{digit}5\n€{digit}.99"),
    "colour": _words("red blue green white black yellow grey brown orange purple violet crimson"),
    "weather": _words("rain snow fog sun wind frost thunder hail drizzle sleet"),
    "animal": _words("dog cat horse crow goat mouse donkey parrot fox heron tortoise ferret"),
    "material": _words("wood iron glass stone paper wool brass leather clay linen marble bamboo"),
    # noun phrases
    "np": _lines(
        """the {thing}
        the {adj} {thing}
        {thing.a}
        {adj.a} {thing}
        {his} {thing}
        the {object}
        the {thing} from the {place}
        {number} {thing.s}
        one of the {thing.s}
        the {person}'s {thing}
        a {thing} made of {material}
        the {adj}, {adj} {thing}"""
    ),
    "who": _lines(
        """{friend}
        the {person}
        {friend}
        {person.a}
        an old {person}
        {his} {kin}
        the {adj} {animal}
        everyone
        somebody
        {third}
        the {number} {person.s}"""
    ),
    "kin": _words("mother brother sister father uncle grandmother cousin aunt daughter nephew"),
    "where": _lines(
        """in the {place}
        at the {place}
        near the {place}
        behind the {place}
        under the {thing}
        on the {thing}
        in {town}
        beside the {adj} {thing}
        between the {place} and the {place}
        on the far side of {town}"""
    ),
    "when": _lines(
        """in the morning
        that night
        the next day
        on {day}
        after {number} days
        at {clock}
        before the {weather} came
        in {month}
        all {season}
        when the {thing} was ready
        long after {clock}
        as soon as {friend} had gone"""
    ),
    # stories, in the past tense
    "vp": _lines(
        """found {np}
        looked at {np}
        took {np} to the {place}
        went to the {place}
        opened {np}
        saw {who} {where}
        carried {np} home
        asked {who} about {np}
        put {np} on the {thing}
        waited {where}
        gave {np} to {who}
        picked up {np}
        heard {who} {where}
        sat down {where}
        wanted to see {np}
        thought about {np}
        walked past the {place}
        tried to mend {np}
        did not like {np}
        counted the {thing.s}
        lost {np} {where}
        sold {np} for {price}
        wrote {who} a letter
        hid {np} {where}
        followed {who} to the {place}
        painted {np} {colour}
        was {feeling}
        felt {feeling} and {feeling}
        remembered {np}
        ran back to the {place}
        forgot {np}
        dreamed of {np}
        helped {who} with {np}
        broke {np}
        laughed at {np}
        learned to {task}
        promised {who} to {task}
        could not {task}
        wrapped {np} in {material}
        measured {np}: {figure} {unit}
        refused to touch {np}
        stumbled over {np}"""
    ),
    "opener": _lines(
        """-
        -
        -
        then~
        {when}, {-}
        but~
        so~
        later, {-}
        {when}, {-}
        at first, {-}
        after that, {-}
        to {his} surprise, {-}
        without the {thing}, {-}
        for {figure} minutes, {-}
        because of the {weather}, {-}
        somehow, {-}
        nevertheless, {-}"""
    ),
    "tail": _lines(
        """-
        -
        -
        {-} {where}
        {-} {adverb}
        {-} and {vp}
        , and {who} {vp}
        , but {who} {vp}
        {-} {when}
        {-} because {he} was {feeling}
        , though {friend} was {feeling}
        , {adverb}
        {-} as if {he} were {feeling}
        {-} while {who} {vp}
        ; {who} {vp}
        {-} — or so {friend} said"""
    ),
    "said": _lines(
        """said {friend}
        said {hero}
        asked {hero}
        {friend} said
        {hero} said {adverb}
        whispered {friend}
        said the {person}
        shouted {third}
        answered {friend} {adverb}
        muttered {hero}, looking at {np}"""
    ),
    "subject": _lines(
        "{he}\n{hero}\n{he}\n{friend}\n{who}\n{hero} and {friend}\nthe {person}\nthey"
    ),
    "story_sentence": _lines(
        """{opener}{subject} {vp}{tail}.
        {opener}{subject} {vp}{tail}.
        {opener}{he} {vp}{tail}.
        "{utterance}" {said}.
        {opener}{subject} {vp}, {vp} and {vp}.
        "{utterance}" {said}. "{utterance}"
        the {thing} was {adj}{tail}.
        there was {adj.a} {thing} {where}.
        {opener}there were {number} {thing.s} {where}.
        the {weather} had stopped, and the {place} was {adj} again.
        nobody had seen {np} since {month}.
        it was {clock}, and {subject} {vp}.
        {he} had never seen such {adj.a} {thing}!
        what could {he} do?
        {np} smelled of {thing} and {material}.
        years ago, {who} {vp} {where}, and {who} {vp}."""
    ),
    "story_opening": _lines(
        """Once there was {person.a} called {hero} who lived {where}.
        {hero} lived in {town}, near {adj.a} {place}.
        {hero} and {friend} were {feeling}.
        One day in {month}, {hero} {vp}.
        The {place} in {town} was {adj} when {hero} {vp}.
        It was {day}, and {hero} {vp}{tail}.
        Every {season}, {hero} {surname} {vp}.
        The {thing} of {hero} {surname}\n\nNobody in {town} knew why {hero} {vp}.
        In {year}, {person.a} named {hero} {surname} {vp}."""
    ),
    "story_ending": _lines(
        """In the end, {hero} {vp}.
        And that was the end of the {thing}.
        {hero} was {feeling}, and so was {friend}.
        After that, {hero} never {vp} again.
        From that day on, the {object} stayed {where}.
        "{utterance}" said {friend}, and {he} {vp}."""
    ),
    # speech, in the present tense
    "utterance": _lines(
        """Where is {np}?
        I have {np}.
        I don't know.
        Can you see {np}?
        We need {number} {thing.s}.
        Have you seen {friend}?
        It is {where}.
        I am {feeling}.
        Do you want to {task}?
        I can't {task} without {np}.
        Please bring {np} to the {place}.
        That is {adj.a} {thing}!
        Meet me {where} at {clock}.
        How much is {np}?
        It costs {price}.
        No, the {adj} one.
        Let us go to the {place}.
        You should {task}, {friend}.
        Why are you {feeling}?
        Not before {day}.
        Did {who} tell you about {np}?
        I think {who} took it.
        Be careful with {np}, it is {adj}!
        Yes, of course.
        My {kin} used to {task} {where}.
        If it {rains}, we stay {where}.
        The {person} says it weighs {figure} {unit}...
        Naïve as ever, {hero}!"""
    ),
    "rains": _words("rains snows freezes thunders clears"),
    "reply_start": _lines(
        "-\n-\n-\nYes.~\nNo.~\nWell, {-}\nOh! {-}\nHmm.~\nReally?~\nI see.~\nSorry, {hero}.~\nThank you, {friend}.~"
    ),
    "turn": _lines("{reply_start}{utterance}\n{utterance}\n{reply_start}{utterance} {utterance}"),
    "scene": _lines(
        """{hero} and {friend} meet {where}.
        {hero}, {person.a}, is talking to {friend} {where}.
        It is {clock} {where}.
        {friend} comes in with {adj.a} {thing}."""
    ),
    # instructions
    "do": _lines(
        """take the {thing} and clean it
        put the {thing} on the {thing2}
        wait for {figure} minutes
        check that the {thing} is {adj}
        cut the {thing} into {number} pieces
        carry the {thing} to the {place}
        hold the {thing} with one hand
        ask {person.a} for help
        turn the {thing} {adverb}
        mix the {thing} with the {thing2}
        remove the {adj} {thing}
        cover the {thing} with {material}
        measure {figure} {unit}
        tie the {thing} to the {thing2}
        write down the number of {thing.s}
        leave the {thing} {where}
        do not touch the {thing}
        choose {adj.a} {thing}
        wash the {thing} in cold water
        repeat this {number} times
        put everything back {where}
        keep ½ of the {thing.s} for later"""
    ),
    "step_tail": _lines(
        """-
        -
        {-} until the {thing} is {adj}
        , then {do}
        {-} and {do}
        {-} before you {task}
        {-} ({figure} {unit})
        , but never near the {thing}
        ; if it is too {adj}, {do}
        {-} for about {number} minutes"""
    ),
    "guide_opening": _lines(
        """How to {main_task}
        Instructions: how to {main_task}
        How to {main_task} in {number} steps
        A short guide for the {person}: {main_task}"""
    ),
    "guide_needs": _lines(
        """You will need {thing.a}, {adj.a} {thing2} and {figure} {unit} of {material}.
        You need: {number} {thing.s}, {adj.a} {thing2}.
        Before you start, {do}.
        This takes about {figure} minutes and costs {price}."""
    ),
    "guide_ending": _lines(
        """Now the {thing} is ready.
        Done! Keep the {thing} {where}.
        Tip: {do}.
        If the {thing} is still {adj}, start again.
        Warning: never leave the {thing} {where}."""
    ),
    # descriptions, in the present tense
    "is_like": _lines(
        """is {adj} and {adj}
        is made of {material}
        has {number} {thing.s}
        stands {where}
        smells of {thing}
        looks like {adj.a} {thing}
        belongs to {hero} {surname}
        is open from {clock} to {clock}
        costs {price}
        is {figure} {unit} long
        was built in {year}
        is known for its {adj} {thing.s}
        turns {colour} in {season}
        is painted {colour} and {colour}
        can hold {figure} {thing.s}
        is older than the {place}"""
    ),
    "description_opening": _lines(
        """The {place} of {town} {is_like}.
        {town} is a small town near the {place}.
        The {object} {is_like} and {is_like}.
        In {town} there is {adj.a} {place}.
        The {town} {animal} is {adj.a} animal that lives {where}.
        Weather in {town}: {weather} and {weather}, {figure} °C."""
    ),
    "description_sentence": _lines(
        """the {place} {is_like}.
        it {is_like} and {is_like}.
        {where}, there is {adj.a} {thing} that {is_like}.
        on the left you see {np}; on the right, {np}.
        most {person.s} come here {when}.
        every {thing} {is_like}.
        {when}, the {place} is full of {thing.s}.
        the {person.s} say that the {thing} {is_like}.
        its {thing.s} are {adj}, {adj} and {colour}.
        the walls are {colour}, the floor is {material}, and the {thing} {is_like}.
        since {year}, {hero} {surname} has worked {where}.
        some {person.s} prefer the {adj} {thing}, others the {adj} one.
        there are {figure} {thing.s} and only one {thing}.
        nobody knows who made the {object} (perhaps {person.a} from {town}).
        about {figure}% of the {thing.s} are {adj}."""
    ),
    # lists, letters, news
    "list_title": _lines(
        """Things to bring to the {place}:
        Shopping list for {day}:
        To do {when}:
        {hero}'s {thing.s}:
        Contents of the {adj} box:
        Lost and found, {town} {place}:"""
    ),
    "list_item": _lines(
        """{number} {thing.s}
        {thing.a}
        {adj.a} {thing}
        {figure} {thing.s}, {adj}
        {thing.a} ({price})
        {do}
        {adj.a} {thing} for {friend}
        {figure} g of {material}
        {task}"""
    ),
    "letter_sentence": _lines(
        """I hope that you are not {feeling}.
        yesterday I {vp}.
        thank you for {np}.
        we still have {np}.
        the {weather} here is terrible, but the {place} is {adj}.
        {friend} {vp} last {day}.
        can you send me {number} {thing.s}?
        I have to {task} before {month}.
        do you remember the {object}?
        please tell {who} that {friend} {vp}.
        P.S. {friend} {vp}!"""
    ),
    "news_sentence": _lines(
        """the {person}, {hero} {surname}, {vp} {when}.
        "{utterance}" the {person} told reporters.
        the {object} was last seen {where}.
        about {figure} people {vp}.
        police are looking for {adj.a} {thing}.
        the {place} will open again on {day}, {month} {digit}.
        prices rose by {figure}% in {year}.
        a {person} who did not want to be named {vp}.
        officials said that {who} {vp}.
        tickets cost {price}."""
    ),
    # requests, for the chat format
    "request": _lines(
        """How do I {main_task}?
        Please explain how to {main_task}.
        I am {person.a}. How can I {main_task}?
        Give me instructions to {main_task}, please."""
    ),
    "story_request": _lines(
        """Tell me a story about {hero}.
        Write a story about {hero} and {friend}.
        Tell me about {hero}, a {person} from {town}.
        I can't sleep. A story with a {thing}, please!"""
    ),
    "place_request": _lines(
        """Describe the {place} of {town}.
        What is the {place} in {town} like?
        What do you know about {town}?"""
    ),
    # arithmetic
    "item": _words(
        "apples books coins pencils eggs stamps shells cards marbles cakes tickets boxes roses stones nails "
        "lemons buttons candles bottles feathers lanterns"
    ),
    "gets": _words("gets buys finds collects receives borrows"),
    "gives": _words("gives~away loses sells eats breaks returns"),
    "so": _lines("-\n-\nSo~\nThen~\nNow~\nNext,~\nThat means~\nWe get~"),
}

# ------------------------------------------------------------------------------------ the grammar

_SLOT = re.compile(r"\{([\w-]+)(?:\.(\w+))?\}")


def pick(rng: random.Random, items: list[str]) -> str:
    """One item, the earlier ones more often, as words are used in a language."""
    return items[int(len(items) * rng.random() ** 1.4)]


def plural(noun: str) -> str:
    """The regular English plural."""
    if re.search(r"(s|x|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if re.search(r"[^f]fe?$", noun) and noun not in {"chef", "cliff"}:
        return re.sub(r"fe?$", "ves", noun)
    return re.sub(r"man$", "men", noun) if noun.endswith("man") else noun + "s"


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalised(text: str) -> str:
    """``text`` with its first letter, which may follow a quotation mark, in upper case."""
    return re.sub(r"^(\W*)(\w)", lambda m: m[1] + m[2].upper(), text, count=1)


MODIFIERS: dict[str | None, Callable[[str], str]] = {None: str, "a": with_article, "s": plural}


def invented_name(rng: random.Random, ends: list[str]) -> str:
    """A name that no list holds, e.g. a town's: Velmorton."""
    syllables = "".join(
        pick(rng, SYLLABLE_STARTS) + pick(rng, SYLLABLE_MIDDLES)
        for _ in range(rng.choice((1, 1, 1, 2)))
    )
    return (syllables + pick(rng, [*SYLLABLE_ENDS, ""]) + pick(rng, ends)).capitalize()


class Writer:
    """Expands templates. People, town and main object are chosen once, so that they recur."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        topic = TOPICS[pick(rng, list(TOPICS))]
        hero_is_she = rng.random() < 0.5
        self._local = {
            "place": topic.places,
            "thing": self._favourites(topic.things),
            "thing2": topic.things,
            "person": topic.people,
            "task": topic.tasks,
        }
        self._fixed = {
            "-": "",
            "hero": pick(rng, SHE if hero_is_she else HE),
            "he": "she" if hero_is_she else "he",
            "his": "her" if hero_is_she else "his",
            "friend": pick(rng, HE if hero_is_she else SHE),
            "third": pick(rng, SHE if hero_is_she else HE),
            "town": invented_name(rng, TOWN_ENDS),
            "surname": invented_name(rng, SURNAME_ENDS),
            "main_task": pick(rng, topic.tasks),
        }
        self._fixed["object"] = self.write("{adj} {thing}")

    def _favourites(self, things: list[str]) -> list[str]:
        """The topic's things in an order of the document's own: each text dwells on a few of them."""
        keyed = sorted((index * self.rng.random(), thing) for index, thing in enumerate(things))
        return [thing for _, thing in keyed]

    def write(self, template: str) -> str:
        """``template`` with every ``{symbol}`` expanded."""
        return _SLOT.sub(self._expand, template)

    def one(self, symbol: str) -> str:
        return self.write(f"{{{symbol}}}")

    def sentence(self, symbol: str) -> str:
        return capitalised(self.one(symbol))

    def _expand(self, slot: re.Match[str]) -> str:
        symbol, modifier = slot[1], slot[2]
        if symbol in self._fixed:
            return MODIFIERS[modifier](self._fixed[symbol])
        productions = self._local.get(symbol) or RULES[symbol]
        return MODIFIERS[modifier](self.write(pick(self.rng, productions)).replace("~", " "))


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
    tens = a - a % 10, b - b % 10
    ones = a % 10, b % 10
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
    """``b`` below 10; the tens of ``a`` and its ones apart."""
    tens, ones = a - a % 10, a % 10
    if not tens or not ones:
        return [f"{a} * {b} = {a * b}."]
    products = tens * b, ones * b
    return [
        f"{tens} * {b} = {products[0]}.",
        f"{ones} * {b} = {products[1]}.",
        f"{products[0]} + {products[1]} = {a * b}.",
    ]


def _skewed(rng: random.Random, low: int, high: int) -> int:
    """An integer in [low, high], the small ones more often."""
    return low + int((high - low + 1) * rng.random() ** 1.5)


def _addition(writer: Writer) -> Problem:
    a, b = _skewed(writer.rng, 2, 99), _skewed(writer.rng, 2, 99)
    item = writer.one("item")
    question = pick(
        writer.rng,
        [
            f"What is {a} + {b}?",
            writer.write(
                f"{{hero}} has {a} {item} and {{gets}} {b} more. How many {item} are there now?"
            ),
            writer.write(
                f"There are {a} {item} in the {{place}} and {b} on the {{thing}}. How many are there in all?"
            ),
            writer.write(
                f"{{hero}} has {a} {item}. {{friend}} has {b} {item}. How many do they have together?"
            ),
        ],
    )
    return Problem(question, [writer.one("so") + add_steps(a, b)[0], *add_steps(a, b)[1:]], a + b)


def _subtraction(writer: Writer) -> Problem:
    b = _skewed(writer.rng, 2, 60)
    a = b + _skewed(writer.rng, 1, 39)
    item = writer.one("item")
    question = pick(
        writer.rng,
        [
            f"What is {a} - {b}?",
            writer.write(
                f"{{hero}} has {a} {item} and {{gives}} {b} of them. How many {item} are left?"
            ),
            writer.write(
                f"{{hero}} has {a} {item}, but {{friend}} has only {b}. How many more {item} does {{hero}} have?"
            ),
        ],
    )
    return Problem(
        question, [writer.one("so") + subtract_steps(a, b)[0], *subtract_steps(a, b)[1:]], a - b
    )


def _multiplication(writer: Writer) -> Problem:
    a, b = _skewed(writer.rng, 2, 25), _skewed(writer.rng, 2, 9)
    item = writer.one("item")
    question = pick(
        writer.rng,
        [
            f"What is {a} * {b}?",
            writer.write(
                f"There are {a} {item} in one {{thing}}. How many {item} are there in {b} {{thing.s}}?"
            ),
            writer.write(
                f"{{hero}} needs {a} {item} for each of {b} {{person.s}}. How many {item} does {{he}} need?"
            ),
        ],
    )
    return Problem(
        question, [writer.one("so") + multiply_steps(a, b)[0], *multiply_steps(a, b)[1:]], a * b
    )


def _division(writer: Writer) -> Problem:
    share, people = _skewed(writer.rng, 2, 10), _skewed(writer.rng, 2, 9)
    total, item = share * people, writer.one("item")
    question = pick(
        writer.rng,
        [
            f"What is {total} / {people}?",
            writer.write(
                f"{{hero}} shares {total} {item} among {people} {{person.s}}. How many {item} does each get?"
            ),
        ],
    )
    step = f"{writer.one('so')}{people} * {share} = {total}, so {total} / {people} = {share}."
    return Problem(question, [step], share)


def _two_steps(writer: Writer) -> Problem:
    boxes, size = _skewed(writer.rng, 2, 9), _skewed(writer.rng, 2, 12)
    total = boxes * size
    given, item = _skewed(writer.rng, 1, total - 1), writer.one("item")
    question = writer.write(
        f"{{hero}} has {boxes} boxes of {size} {item} and {{gives}} {given} {item}. How many are left?"
    )
    steps = [
        writer.write(f"{{hero}} has {boxes} * {size} {item} at first."),
        *multiply_steps(size, boxes),
        *subtract_steps(total, given),
    ]
    return Problem(question, steps, total - given)


PROBLEMS: list[Callable[[Writer], Problem]] = [
    _addition, _subtraction, _multiplication, _division, _two_steps,
]  # fmt: skip


def make_problem(writer: Writer) -> Problem:
    return writer.rng.choice(PROBLEMS)(writer)


# ------------------------------------------------------------------------------------ registers


@dataclass(frozen=True)
class Register:
    """One kind of document: an opening, units in a row, and perhaps an ending."""

    opening: Callable[[Writer], str]
    unit: Callable[[Writer, int], str]
    ending: Callable[[Writer], str]
    units: tuple[int, int]  # fewest, most

    def document(self, writer: Writer, units: int | None = None) -> str:
        """Without ``units``, their number is drawn, short documents being the most frequent."""
        fewest, most = self.units
        count = units or fewest + int((most - fewest + 1) * writer.rng.random() ** 1.8)
        body = "".join(self.unit(writer, index) for index in range(count))
        return (self.opening(writer) + body + self.ending(writer)).strip()


def _nothing(_: Writer) -> str:
    return ""


def _prose(symbol: str) -> Callable[[Writer, int], str]:
    """Sentences in a row, with a paragraph break now and then."""

    def unit(writer: Writer, index: int) -> str:
        gap = "\n\n" if index and writer.rng.random() < 0.15 else " "
        return gap + writer.sentence(symbol)

    return unit


def _story_ending(writer: Writer) -> str:
    return " " + writer.one("story_ending") if writer.rng.random() < 0.7 else ""


def _turn(writer: Writer, index: int) -> str:
    speaker = writer.one("friend" if index % 2 else "hero")
    return f"\n{speaker}: {capitalised(writer.one('turn'))}"


def _guide_opening(writer: Writer) -> str:
    return f"{writer.one('guide_opening')}\n\n{writer.sentence('guide_needs')}\n"


def _step(writer: Writer, index: int) -> str:
    return f"\n{index + 1}. {capitalised(writer.write('{do}{step_tail}'))}."


def _item(writer: Writer, _: int) -> str:
    return f"\n- {writer.one('list_item')}"


def _letter_opening(writer: Writer) -> str:
    return writer.write(
        pick(writer.rng, ["Dear {friend},\n\n", "Dear {kin},\n\n", "{town}, {month} {figure}\n\n"])
    )


def _letter_ending(writer: Writer) -> str:
    return writer.write(
        pick(writer.rng, ["\n\nYours,\n{hero}", "\n\nLove,\n{hero}", "\n\n{hero} {surname}"])
    )


def _news_opening(writer: Writer) -> str:
    return writer.write("{town}, {month} {digit} —")


def _problem_unit(writer: Writer, index: int) -> str:
    problem = make_problem(Writer(writer.rng))
    return ("\n\n" if index else "") + problem.text()


REGISTERS: dict[str, Register] = {
    "arithmetic": Register(_nothing, _problem_unit, _nothing, (1, 1)),
    "worksheet": Register(_nothing, _problem_unit, _nothing, (2, 8)),
    "story": Register(
        lambda w: w.one("story_opening"), _prose("story_sentence"), _story_ending, (2, 30)
    ),
    "dialogue": Register(lambda w: w.sentence("scene") + "\n", _turn, _nothing, (3, 34)),
    "instruction": Register(
        _guide_opening, _step, lambda w: "\n\n" + w.one("guide_ending"), (2, 20)
    ),
    "description": Register(
        lambda w: w.one("description_opening"), _prose("description_sentence"), _nothing, (2, 26)
    ),
    "list": Register(lambda w: w.one("list_title"), _item, _nothing, (3, 14)),
    "letter": Register(_letter_opening, _prose("letter_sentence"), _letter_ending, (2, 12)),
    "news": Register(_news_opening, _prose("news_sentence"), _nothing, (2, 10)),
}


def chat_document(writer: Writer) -> str:
    """A request and its answer, between the role tokens of the chat template."""
    kind = writer.rng.choice(["arithmetic", "arithmetic", "instruction", "story", "description"])
    if kind == "arithmetic":
        problem = make_problem(writer)
        return f"{USER}{problem.question}{ASSISTANT}{problem.worked()}"
    symbol = {"instruction": "request", "story": "story_request", "description": "place_request"}[
        kind
    ]
    return f"{USER}{writer.one(symbol)}{ASSISTANT}{REGISTERS[kind].document(writer)}"


# How often each kind of document is written, in parts.
MIX = {
    "arithmetic": 34, "worksheet": 8, "story": 14, "dialogue": 9, "instruction": 7, "description": 7,
    "list": 4, "letter": 4, "news": 4, "chat": 14,
}  # fmt: skip


def make_document(split: str, index: int) -> str:
    """Document ``index`` of ``split`` ("train" or "held-out"), a function of these two alone."""
    rng = random.Random(f"{SEED}/{split}/{index}")
    kind = rng.choices(list(MIX), weights=list(MIX.values()))[0]
    writer = Writer(rng)
    return chat_document(writer) if kind == "chat" else REGISTERS[kind].document(writer)


# ------------------------------------------------------------------------------------ the tokenizer


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """A byte-level BPE whose digits stay single tokens; encoding adds ``<|bos|>`` once."""
    split = Regex(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = re.compile("|".join(map(re.escape, (USER, ASSISTANT))))
    tokenizer.train_from_iterator((roles.sub("\n", text) for text in documents), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the text yields only {tokenizer.get_vocab_size()} tokens")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


# The template writes <|bos|> itself: what it renders is to be encoded with add_special_tokens=False.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('this model knows only the roles user and assistant') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, object]:
    decoder = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    return {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": [USER, ASSISTANT],
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": 1024,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


# ------------------------------------------------------------------------------------ the model


def model_config(*, tied: bool) -> dict[str, object]:
    """config.json in the form of transformers 4.51, which every later version reads correctly.

    The reverse does not hold: 4.x takes the defaults for 5.x's ``dtype`` and ``rope_parameters``.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 640,
        "max_position_embeddings": 1024,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """All documents in a row, each from ``<|bos|>`` to ``<|eos|>``."""
    encodings = tokenizer.encode_batch([text + EOS for text in documents])
    return torch.tensor([token for encoding in encodings for token in encoding.ids])


def batches(stream: torch.Tensor, steps: int) -> Iterator[torch.Tensor]:
    """``steps`` batches [BATCH_SIZE, SEQUENCE_LENGTH + 1]; rows in a new order on every pass."""
    width = SEQUENCE_LENGTH + 1
    rows = stream[: len(stream) // width * width].view(-1, width)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH_SIZE:
            order = torch.randperm(len(rows), generator=generator)
        yield rows[order[:BATCH_SIZE]]
        order = order[BATCH_SIZE:]


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean negative logprob of the next token, in nats."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1]).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to almost nothing."""
    warmup = min(WARMUP_STEPS, max(1, steps // 5))
    return min((step + 1) / warmup, max(0.01, (steps - step) / max(1, steps - warmup)))


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, which needs about half of AdamW's steps; AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in named if p.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(stream: torch.Tensor, steps: int, *, tied: bool) -> tuple[LlamaForCausalLM, float]:
    """The trained model and the mean training loss of the last twentieth of the steps."""
    torch.manual_seed(SEED)
    # fp32 master weights; only the saved copy is bf16.
    config = LlamaConfig(**{**model_config(tied=tied), "torch_dtype": "float32"})
    model = LlamaForCausalLM(config).float()
    optimizers = make_optimizers(model)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(step, steps))
        for o in optimizers
    ]
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, rows in enumerate(batches(stream, steps)):
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        losses.append(loss.item())
        if step % 25 == 0 or step == steps - 1:
            print(
                f"step {step:4d}  loss {losses[-1]:.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    tail = losses[-max(1, steps // 20) :]
    return model.eval(), math.fsum(tail) / max(1, len(tail))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: torch.Tensor) -> float:
    width = SEQUENCE_LENGTH + 1
    rows = stream[: len(stream) // width * width].view(-1, width)
    return math.fsum(loss_of(model, row[None]).item() for row in rows) / len(rows)


@torch.no_grad()
def continuation(
    model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, temperature: float
) -> str:
    """Up to 64 sampled tokens after ``prompt``."""
    generator = torch.Generator().manual_seed(SEED)
    ids = tokenizer.encode(prompt).ids
    start = len(ids)
    while len(ids) < start + 64 and ids[-1] != tokenizer.token_to_id(EOS):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        probabilities = torch.softmax(logits / temperature, dim=-1)
        ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return str(tokenizer.decode(ids[start:], skip_special_tokens=False))


# ------------------------------------------------------------------------------------ the prompts


@dataclass(frozen=True)
class Prompt:
    prompt_id: str
    prompt_group: str
    prompt: str


# Lengths in tokens at which documents are cut.
CUTS: dict[str, list[int]] = {
    "story": [8, 12, 20, 32, 48, 64, 90, 120, 150, 190, 230, 280, 330, 380, 420, LONGEST_PROMPT],
    "dialogue": [14, 24, 40, 60, 85, 115, 160, 220, 300, 400],
    "instruction": [10, 18, 30, 45, 65, 90, 125, 170, 240, 350],
    "description": [10, 22, 40, 70, 110, 180, 260, 360],
}
ARITHMETIC_PROMPTS = 20
# Families of prompts with one long common beginning: its bounds in tokens. vLLM's V1 prefix cache on
# CPU works in blocks of 128 tokens, so each shares at least one block and the last two share two.
FAMILIES: list[tuple[str, tuple[int, int]]] = [
    ("worksheet", (180, 215)), ("story", (220, 250)), ("dialogue", (268, 300)), ("description", (300, 330)),
]  # fmt: skip
FAMILY_SIZE = 8


def prompt_writer(name: str) -> Writer:
    return Writer(random.Random(f"{SEED}/prompt/{name}"))


def cut(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The longest beginning of ``text`` that ends with a word and has at most ``tokens`` tokens."""
    offsets = tokenizer.encode(text).offsets
    if len(offsets) <= tokens:
        raise ValueError(f"the document has fewer than {tokens} tokens")
    end = offsets[tokens][0]
    return re.sub(r"\s*\S*$", "", text[: end + 1])


def cut_prompts(tokenizer: Tokenizer) -> Iterator[Prompt]:
    """Documents cut in the middle, short and long."""
    for group, lengths in CUTS.items():
        register = REGISTERS[group]
        for index, tokens in enumerate(lengths):
            prompt_id = f"{group}-{index:03d}"
            # A document's length is a matter of chance: more units than any cut needs.
            text = register.document(
                prompt_writer(prompt_id), units=max(register.units[1], tokens // 6)
            )
            yield Prompt(prompt_id, group, cut(tokenizer, text, tokens))


def arithmetic_prompts() -> Iterator[Prompt]:
    for index in range(ARITHMETIC_PROMPTS):
        prompt_id = f"arith-{index:03d}"
        question = make_problem(prompt_writer(prompt_id)).question
        yield Prompt(prompt_id, "arithmetic", f"Question: {question}\nAnswer:")


def shared_prefix(
    tokenizer: Tokenizer, writer: Writer, register: Register, bounds: tuple[int, int]
) -> tuple[str, int]:
    """A document's beginning whose length lies in ``bounds``, and its number of units."""
    while True:
        text, index = register.opening(writer), 0
        while len(tokenizer.encode(text).ids) < bounds[0]:
            text += register.unit(writer, index)
            index += 1
        if len(tokenizer.encode(text).ids) <= bounds[1]:
            return text, index


def short_ending(register_name: str, unit: str) -> str:
    """The beginning of a further unit, for the model to go on with."""
    if register_name == "worksheet":
        return unit[: unit.index("\nAnswer:")] + "\nAnswer:"
    words = re.findall(r"\s*\S+", unit)
    return "".join(words[: max(2, len(words) // 2)])


def family_prompts(tokenizer: Tokenizer) -> Iterator[Prompt]:
    for family, (name, bounds) in enumerate(FAMILIES):
        writer = prompt_writer(f"family-{family}")
        prefix, index = shared_prefix(tokenizer, writer, REGISTERS[name], bounds)
        endings: list[str] = []
        while len(endings) < FAMILY_SIZE:
            ending = short_ending(name, REGISTERS[name].unit(writer, index))
            if ending not in endings:
                endings.append(ending)
        for member, ending in enumerate(endings):
            yield Prompt(f"shared-{family}-{member:03d}", "shared-prefix", prefix + ending)


def make_prompts(tokenizer: Tokenizer) -> list[Prompt]:
    """The bundled prompts, all short enough."""
    prompts = [*arithmetic_prompts(), *cut_prompts(tokenizer), *family_prompts(tokenizer)]
    if len({prompt.prompt for prompt in prompts}) < len(prompts):
        raise RuntimeError("two prompts are the same")
    longest = max(len(tokenizer.encode(prompt.prompt).ids) for prompt in prompts)
    if longest > LONGEST_PROMPT:
        raise RuntimeError(f"a prompt has {longest} tokens")
    return prompts


def without_prompts(documents: list[str], prompts: list[Prompt]) -> list[str]:
    """The documents in which no prompt occurs: what is left to train on."""
    return [text for text in documents if not any(p.prompt in text for p in prompts)]


# ------------------------------------------------------------------------------------ the files


def as_json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_weights(model: LlamaForCausalLM, path: Path, *, tied: bool) -> None:
    """bf16 weights; a tied lm_head is left out, as the embeddings hold it."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, path, metadata={"format": "pt"})


def readme(parameters: int, weights_sha256: str) -> str:
    return (
        "- `tiny/`: a Llama-architecture language model with its tokenizer; "
        "`prompts.jsonl`: 96 prompts that it was not trained on.\n"
        "- Made by `python scripts/train_tiny_model.py`, in minutes on two CPU cores.\n"
        f"- {parameters:,} parameters in bf16: 4 layers, hidden 256, vocabulary 4096, untied lm_head.\n"
        "- Licence: Apache-2.0, like the project; all training text and prompts were generated by that script.\n"
        f"- sha256 of `tiny/model.safetensors`: `{weights_sha256}`\n"
    )


def write_assets(
    out: Path, tokenizer: Tokenizer, model: LlamaForCausalLM, prompts: list[Prompt], *, tied: bool
) -> str:
    """Write everything beside ``out``'s files first, then move it over them. Returns the weights' sha256."""
    ids = {"bos_token_id": SPECIAL_TOKENS.index(BOS), "eos_token_id": SPECIAL_TOKENS.index(EOS)}
    (out / "tiny").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        temporary = Path(name)
        (temporary / "tiny").mkdir()
        weights = temporary / "tiny" / "model.safetensors"
        write_weights(model, weights, tied=tied)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        tokenizer.save(str(temporary / "tiny" / "tokenizer.json"), pretty=False)
        (temporary / "tiny" / "config.json").write_bytes(as_json(model_config(tied=tied)))
        (temporary / "tiny" / "generation_config.json").write_bytes(as_json(ids))
        (temporary / "tiny" / "tokenizer_config.json").write_bytes(
            as_json(tokenizer_config(tokenizer))
        )
        lines = [json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts]
        (temporary / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        parameters = sum(p.numel() for p in model.parameters())
        (temporary / "README.md").write_text(readme(parameters, digest), encoding="utf-8")
        for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
            path.chmod(0o644)
            os.replace(path, out / path.relative_to(temporary))
    return digest


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ASSETS, metavar="DIR", help="default: the package's assets"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)"
    )
    parser.add_argument("--tied", action="store_true", help="tie the lm_head to the embeddings")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    train_documents = [make_document("train", index) for index in range(TRAIN_DOCUMENTS)]
    held_out_documents = [make_document("held-out", index) for index in range(HELD_OUT_DOCUMENTS)]
    tokenizer = train_tokenizer(train_documents)
    prompts = make_prompts(tokenizer)
    train_documents = without_prompts(train_documents, prompts)
    stream = token_stream(tokenizer, train_documents)
    print(
        f"{len(train_documents)} documents, {len(stream)} tokens, {len(prompts)} prompts",
        flush=True,
    )

    model, train_loss = train(stream, arguments.steps, tied=arguments.tied)
    digest = write_assets(arguments.out, tokenizer, model, prompts, tied=arguments.tied)

    print(f"parameters      {sum(p.numel() for p in model.parameters()):,}")
    print(f"bytes           {sum(p.stat().st_size for p in (arguments.out / 'tiny').iterdir()):,}")
    print(f"train loss      {train_loss:.3f}")
    print(
        f"held-out loss   {held_out_loss(model, token_stream(tokenizer, held_out_documents)):.3f}"
    )
    print(f"sha256          {digest}")
    for prompt in (prompts[0], prompts[ARITHMETIC_PROMPTS + 3]):
        print(
            f"--- {prompt.prompt}⟶{continuation(model, tokenizer, prompt.prompt, temperature=0.8)}"
        )


if __name__ == "__main__":
    main()
