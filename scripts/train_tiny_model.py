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
"""Train the bundled tiny language model and write the bundled prompts, from generated text.

    python scripts/train_tiny_model.py             # into src/parity_check/assets
    python scripts/train_tiny_model.py --out DIR   # DIR/tiny, DIR/tiny-next, DIR/prompts.jsonl, …

Half of the text is arithmetic questions with worked answers that end in ``#### 42``, so that a
reward can be checked. The rest is prose from a probabilistic grammar: stories, dialogue,
instructions, descriptions, lists, letters, news, timetables. The grammar's choices give the model
the entropy, rare tokens and punctuation of a real language model. Its ledgers repeat distant
entries, so that the model uses its whole context.

Everything is seeded, so the same machine reproduces the same files. Another CPU may round
differently; the sha256 of the shipped weights is in the assets' README.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
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
SPECIAL_TOKENS = [BOS, EOS, USER, ASSISTANT, PAD]  # their ids are 0, 1, 2, 3, 4

SEED = 20240
TRAIN_DOCUMENTS = 40_000
HELD_OUT_DOCUMENTS = 300
SEQUENCE_LENGTH = 512
BATCH_SIZE = 4
STEPS = 2400
WARMUP_STEPS = 20
MUON_LR, ADAMW_LR = 3e-3, 4e-3
# The second checkpoint is the first one some steps on, as a policy is after an update or two.
NEXT_STEPS, NEXT_LR = 8, 4e-4
THREADS = 2
LONGEST_PROMPT = 440  # tokens: a prompt and 64 sampled tokens fit a context of 512

# ------------------------------------------------------------------------------------ the words
#
# Two notations. In WORDS, `symbol: word word …`, where ~ is a space inside a word. In PHRASES,
# `[symbol]` and then one production a line, where ~ is a space at either end and a lone - is the
# empty production. {symbol} expands; {symbol.a} adds the article, {symbol.s} makes the plural,
# {symbol.cap} a capital. What comes first is used most.

WORDS = """
she: Mara Anna Ida Nora Lena Ruth Clara Iris Hana Olive Greta Freya Tilda Priya Amina Zoë Yuki
    Carmen Esther Wilma Noor Selma Paloma Ingrid Beatrix Odile Marguerite Thandiwe Xiomara
    Philippa Soledad
he: Tom Ben Omar Felix Hugo Jonas Otto Emil Ravi Simon Karl Victor Leo Anton Mateo Idris Kofi
    Bruno Silas Edmund Tariq Gustav Hamish Lorenzo Ezekiel François Barnaby Wendell Bartholomew
    Jürgen
name_start: v t k m br l d s th gr f st h w p r n c b j kl sh tr qu z
name_middle: a e o i u or el ar en ai ou y
name_end: n r l s m rn ck nd th x lm sk ft
town_end: ton wick ham field mouth stead bury ford haven mere by dale gate holm
surname_end: son er man ley ski ov sen well ard ini etti ström ak wright

adj: old small red cold long new heavy quiet warm dark wet strange empty broken blue bright dusty
    thin soft green wooden yellow narrow round clean sharp deep rusty pale crooked silver gentle
    sweet plain huge tall grey dry loud smooth cheap lost foreign spare golden wild bitter
    enormous faded striped hollow stubborn brittle velvet copper ancient fragile polished awkward
    crumpled slippery ornate forgotten peculiar immaculate translucent unreliable magnificent
    secondhand moth-eaten
feeling: tired happy afraid sure curious angry proud calm hungry worried glad lonely surprised
    careful ashamed patient jealous hopeful thirsty restless furious bewildered nostalgic
    inconsolable
adverb: slowly quietly quickly again carefully suddenly gently alone together at~once badly
    proudly without~a~word in~silence with~great~care nervously cheerfully for~the~last~time
    by~mistake on~purpose half-heartedly absent-mindedly suspiciously
number: two three four five six seven eight nine ten twelve fifteen twenty thirty ninety
ordinal: first second third next fourth fifth last ninth hundredth
day: Monday Sunday Friday Saturday Tuesday Wednesday Thursday
month: May June March October January April July September December August November February
season: summer winter spring autumn
digit: 1 2 3 4 5 6 7 8 9
unit: minutes metres hours kilograms litres days miles grams pages kilometres °C % degrees
colour: red blue green white black yellow grey brown orange purple violet crimson turquoise
weather: rain snow fog sun wind frost thunder hail drizzle sleet
rains: rains snows freezes thunders clears
animal: dog cat horse crow goat mouse donkey parrot fox heron tortoise ferret
material: wood iron glass stone paper wool brass leather clay linen marble bamboo porcelain
kin: mother brother sister father uncle grandmother cousin aunt daughter nephew
shape: square triangle circle spiral crescent zigzag
abstract: time luck trouble silence money courage patience justice curiosity arithmetic
item: apples books coins pencils eggs stamps shells cards marbles cakes tickets boxes roses
    stones nails lemons buttons candles bottles feathers lanterns
gets: gets buys finds collects receives borrows
gives: gives~away loses sells eats breaks returns
"""

PHRASES = """
[figure]
{digit}0
{digit}{digit}
{digit}
{digit}5
{digit}00
1{digit}{digit}
{digit},{digit}00
{digit}.{digit}

[year]
19{digit}{digit}
18{digit}{digit}
20{digit}{digit}
17{digit}0

[clock]
{digit}:30
{digit} o'clock
{digit}:15
noon
midnight
1{digit}:45
1{digit}:30
1{digit}:05

[price]
${digit}.50
{digit} euros
${digit}{digit}
£{digit}.{digit}5
€{digit}.99

[one]
the {thing}
the {adj} {thing}
{thing.a}
{adj.a} {thing}
{his} {thing}
the {object}
the {thing} from the {place}
the {person}'s {thing}
{thing.a} made of {material}
the {adj}, {adj} {thing}
the {ordinal} {thing}
{thing.a} in the shape of a {shape}

[np]
{one}
{one}
{one}
{number} {thing.s}
one of the {thing.s}
all the {adj} {thing.s}
a pair of {thing.s}
{one} and {one}

[who]
{friend}
the {person}
{person.a}
an old {person}
{his} {kin}
the {adj} {animal}
everyone
somebody
{third}
the {number} {person.s}
{his} {kin}'s {animal}
{person.a} from {town}

[where]
in the {place}
at the {place}
near the {place}
behind the {place}
under the {thing}
on the {thing}
in {town}
beside the {adj} {thing}
between the {place} and the {place}
on the far side of {town}
halfway to {town}

[when]
in the morning
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
as soon as {friend} had gone
one {adj} evening

[vp]
found {np}
looked at {np}
took {np} to the {place}
went to the {place}
opened {one}
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
tried to mend {one}
did not like {np}
counted the {thing.s}
lost {np} {where}
sold {np} for {price}
wrote {who} a letter
hid {np} {where}
followed {who} to the {place}
painted {one} {colour}
was {feeling}
felt {feeling} and {feeling}
remembered {np}
ran back to the {place}
forgot {np}
dreamed of {np}
helped {who} with {np}
broke {one}
laughed at {np}
learned to {task}
promised {who} to {task}
could not {task}
wrapped {one} in {material}
measured {one}: {figure} {unit}
refused to touch {np}
stumbled over {np}
traded {np} for {np}
needed {abstract} more than {np}
drew a {shape} on {one}
kept {np} in {adj.a} box
whispered something to {who}
pretended to be {person.a}
had no {abstract} left
swept the floor of the {place}
never spoke about {one}

[opener]
-
-
-
then~
{when},~
but~
so~
later,~
{when},~
at first,~
after that,~
to {his} surprise,~
without the {thing},~
for {figure} minutes,~
because of the {weather},~
somehow,~
nevertheless,~

[tail]
-
-
-
~{where}
~{adverb}
~and {vp}
, and {who} {vp}
, but {who} {vp}
~{when}
~because {he} was {feeling}
, though {friend} was {feeling}
, {adverb}
~as if {he} were {feeling}
~while {who} {vp}
; {who} {vp}
~— or so {friend} said
~(nobody knew why)

[subject]
{he}
{hero}
{he}
{friend}
{who}
{hero} and {friend}
the {person}
they
the {animal}

[statement]
I have {np}
I don't know
we need {number} {thing.s}
it is {where}
I am {feeling}
I can't {task} without {np}
please bring {np} to the {place}
that is {adj.a} {thing}
meet me {where} at {clock}
it costs {price}
no, the {adj} one
let us go to the {place}
you should {task}
not before {day}
I think {who} took it
be careful with {one}, it is {adj}
yes, of course
my {kin} used to {task} {where}
if it {rains}, we stay {where}
the {person} says it weighs {figure} {unit}
I would rather {task}
nobody needs {np} in {month}
you look {feeling}
this is a question of {abstract}
I saw {who} {where}

[question]
where is {one}
can you see {np}
have you seen {third}
do you want to {task}
how much is {one}
why are you {feeling}
did {who} tell you about {np}
what is {one} made of
who left {np} {where}
when does the {place} open
is this {his} {thing}

[utterance]
{statement}.
{question}?
{statement}.
{question}?
{statement}!
{statement}...

[speech]
"{statement.cap}," said {friend}
"{question.cap}?" asked {hero}
"{statement.cap}," {hero} said {adverb}
"{question.cap}?" {friend} asked
"{statement.cap}," whispered {friend}
"{statement.cap}!" shouted {third}
"{statement.cap}," said the {person}
"{statement.cap}," answered {friend} {adverb}
"{statement.cap}," muttered {hero}, looking at {np}

[story_sentence]
{opener}{subject} {vp}{tail}.
{opener}{he} {vp}{tail}.
{speech}.
{opener}{subject} {vp}, {vp} and {vp}.
{speech}. "{utterance.cap}"
the {thing} was {adj}{tail}.
there was {adj.a} {thing} {where}.
{opener}there were {number} {thing.s} {where}.
the {place} was {adj} again.
nobody had seen {one} since {month}.
it was {clock}, and {subject} {vp}.
the {weather} had stopped, and {subject} {vp}.
{he} had never seen such {adj.a} {thing}!
{one} smelled of {thing} and {material}.
what could {he} do?
years ago, {who} {vp} {where}, and {who} {vp}.
{abstract} is {adj.a} thing, thought {hero}.

[story_opening]
Once there was {person.a} called {hero} who lived near the {place}.
{hero} lived in {town}, near {adj.a} {place}.
{hero} and {friend} were {feeling}.
One day in {month}, {hero} {vp}.
The {place} in {town} was {adj} when {hero} {vp}.
It was {day}, and {hero} {vp}{tail}.
Every {season}, {hero} {surname} {vp}.
The {thing} of {hero} {surname}\\n\\nNobody in {town} knew why {hero} {vp}.
In {year}, {person.a} named {hero} {surname} {vp}.

[story_ending]
In the end, {hero} {vp}.
And that was the end of the {thing}.
{hero} was {feeling}, and so was {friend}.
After that, {hero} never {vp} again.
From that day on, the {object} stayed {where}.
"{statement.cap}," said {friend}, and {he} {vp}.

[scene]
{hero} and {friend} meet {where}.
{hero}, {person.a}, is talking to {friend} {where}.
It is {clock} {where}.
{friend} comes in with {adj.a} {thing}.

[turn]
{reply}{utterance.cap}
{utterance.cap}
{reply}{utterance.cap} {utterance.cap}

[reply]
-
-
-
Yes.~
No.~
Well...~
Oh!~
Hmm.~
Really?~
I see.~
Sorry.~
Thank you.~
Ha!~

[do]
take the {thing} and clean it
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
draw a {shape} on the {thing}
put everything back {where}
keep ½ of the {thing.s} for later

[step_tail]
-
-
~until the {thing} is {adj}
, then {do}
~and {do}
~before you {task}
~({figure} {unit})
, but never near the {thing}
; if it is too {adj}, {do}
~for about {number} minutes

[guide_opening]
How to {main_task}
Instructions: how to {main_task}
How to {main_task} in {number} steps
A short guide for the {person}: {main_task}

[guide_needs]
You will need {thing.a}, {adj.a} {thing2} and {figure} {unit} of {material}.
You need: {number} {thing.s}, {adj.a} {thing2}, some {abstract}.
Before you start, {do}.
This takes about {figure} minutes and costs {price}.

[guide_ending]
Now the {thing} is ready.
Done! Keep the {thing} {where}.
Tip: {do}.
If the {thing} is still {adj}, start again.
Warning: never leave the {thing} {where}.

[is_like]
is {adj} and {adj}
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
is older than the {place}
has the shape of a {shape}

[description_opening]
The {place} of {town} {is_like}.
{town} is a small town near the {place}.
The {object} {is_like} and {is_like}.
In {town} there is {adj.a} {place}.
The {town} {animal} is {adj.a} animal that lives {where}.
Weather in {town}: {weather} and {weather}, {figure} °C.

[description_sentence]
the {place} {is_like}.
it {is_like} and {is_like}.
{where}, there is {adj.a} {thing} that {is_like}.
on the left you see {np}; on the right, {np}.
most {person.s} come here in {month}.
every {thing} {is_like}.
on {day}, the {place} is full of {thing.s}.
the {person.s} say that the {thing} {is_like}.
its {thing.s} are {adj}, {adj} and {colour}.
the walls are {colour}, the floor is {material}, and the {thing} {is_like}.
since {year}, {hero} {surname} has worked {where}.
some {person.s} prefer the {adj} {thing}, others the {adj} one.
there are {figure} {thing.s} and only one {thing2}.
nobody knows who made the {object} (perhaps {person.a} from {town}).
about {figure}% of the {thing.s} are {adj}.
with a little {abstract}, one can {task} here.

[list_title]
Things to bring to the {place}:
Shopping list for {day}:
To do {when}:
{hero}'s {thing.s}:
Contents of the {adj} box:
Lost and found, {town} {place}:

[list_item]
{number} {thing.s}
{thing.a}
{adj.a} {thing}
{figure} {thing.s}, {adj}
{thing.a} ({price})
{do}
{adj.a} {thing} for {friend}
{figure} g of {material}
{task}

[letter_opening]
Dear {friend},\\n\\n
Dear {kin},\\n\\n
{town}, {month} {digit}\\n\\nDear {friend} {surname},\\n\\n

[letter_sentence]
I hope that you are not {feeling}.
yesterday I {vp}.
thank you for {np}.
we still have {np}.
the {weather} here is terrible, but the {place} is {adj}.
{third} {vp} last {day}.
can you send me {number} {thing.s}?
I have to {task} before {month}.
do you remember the {object}?
please tell {who} that {third} {vp}.
{question}?
P.S. {third} {vp}!

[letter_ending]
\\n\\nYours,\\n{hero}
\\n\\nLove,\\n{hero}
\\n\\n{hero} {surname}

[news_sentence]
the {person}, {hero} {surname}, {vp} {when}.
"{statement.cap}," the {person} told reporters.
the {object} was last seen {where}.
about {figure} people {vp}.
police are looking for {adj.a} {thing}.
the {place} will open again on {day}, {month} {digit}.
prices rose by {figure}% in {year}.
{person.a} who did not want to be named {vp}.
officials said that {who} {vp}.
tickets cost {price}.

[row]
{clock} | {town_name} – {town_name} | platform {digit}
{clock} | {town_name} | {digit}{digit} minutes late
{day} | {task} | {hero}
{month} {digit} | {thing.s} | {figure} x {price}
{year} | {thing.s}: {figure} | {adj}

[request]
How do I {main_task}?
Please explain how to {main_task}.
I am {person.a}. How can I {main_task}?
Give me instructions to {main_task}, please.

[story_request]
Tell me a story about {hero}.
Write a story about {hero} and {friend}.
Tell me about {hero}, {person.a} from {town}.
I can't sleep. A story with {thing.a}, please!

[place_request]
Describe the {place} of {town}.
What is the {place} in {town} like?
What do you know about {town}?

[so]
-
-
So~
Then~
Now~
Next,~
That means~
We get~

[addition]
What is {a} + {b}?
{hero} has {a} {items} and {gets} {b} more. How many {items} are there now?
There are {a} {items} in the {place} and {b} on the {thing}. How many are there in all?
{hero} has {a} {items}. {friend} has {b} {items}. How many do they have together?

[subtraction]
What is {a} - {b}?
{hero} has {a} {items} and {gives} {b} of them. How many {items} are left?
{hero} has {a} {items}, but {friend} has only {b}. How many more {items} does {hero} have?

[multiplication]
What is {a} * {b}?
There are {a} {items} in one {thing}. How many {items} are there in {b} {thing2.s}?
{hero} needs {a} {items} for each of {b} {person.s}. How many {items} does {he} need?

[division]
What is {a} / {b}?
{hero} shares {a} {items} among {b} {person.s}. How many {items} does each get?

[two_steps]
{hero} has {a} boxes of {b} {items} and {gives} {c} {items}. How many are left?
There are {b} {items} in each of {a} boxes. {hero} takes {c}. How many {items} are left?
"""

# Subject | places | things | people | tasks: the nouns that a document about one subject draws on.
TOPICS = """
kitchen | kitchen bakery pantry café dining-room cellar market counter
    | bread spoon pan apple knife bowl kettle cup onion plate oven lemon jar pepper tray cake
    recipe carrot saucepan ladle pumpkin apron whisk biscuit teapot sieve casserole corkscrew
    | cook baker guest waiter butcher grocer dishwasher
    | bake bread, make soup, clean a kettle, sharpen a knife, store apples, cook for ten
    people
garden | garden orchard greenhouse shed lawn hedge path meadow
    | tree rose seed spade pot bench fence root bucket worm hose tulip ladder wheelbarrow bean
    stake rake beehive scarecrow sprinkler trellis nettle sunflower hedgehog caterpillar
    | gardener neighbour beekeeper farmer florist botanist
    | plant a tree, water roses, build a fence, keep bees, grow beans in a pot, prune a hedge
harbour | harbour pier beach lighthouse island dock bay fish-market
    | boat rope net sail anchor crab crate lamp oar shell map engine gull barrel hook lantern
    compass mast buoy ferry pebble winch rudder lobster periscope
    | sailor diver captain pilot smuggler harbourmaster
    | tie a knot, mend a net, paint a boat, read a tide table, row across a bay, clean a fish
workshop | workshop garage factory attic yard office storeroom
    | hammer box nail table wheel screw board chair clock wire saw bolt drill brush toolbox
    spring battery gear hinge motor crowbar vise chisel pulley oscillator
    | carpenter mechanic clockmaker apprentice engineer welder
    | repair a clock, build a box, sand a table, change a tyre, wire a lamp, sharpen a saw
forest | forest cabin valley river clearing cave bridge hill campsite
    | stone fire bird tent stick mushroom owl log path rabbit feather axe rucksack blanket
    nest torch badger squirrel fern acorn waterfall thicket woodpecker
    | hiker ranger hunter scout hermit woodcutter
    | light a fire, pitch a tent, find the north, cross a river, gather mushrooms, follow a
    deer
school | school library classroom hall playground corridor museum laboratory
    | book pencil desk page letter bag map bell paper poem notebook ruler globe chair question
    essay microscope atlas dictionary timetable stapler parchment encyclopedia
    | teacher pupil librarian student headmaster professor caretaker
    | write a poem, borrow a book, learn a language, prepare a lesson, draw a map, study for a
    test
station | station platform tunnel ticket-office village waiting-room crossing
    | ticket train suitcase clock bench coat newspaper umbrella signal track whistle parcel
    bicycle window lamp timetable sandwich carriage locomotive briefcase turnstile
    | driver passenger conductor porter traveller guard
    | pack a suitcase, read a timetable, catch a train, send a parcel, find a lost umbrella
hospital | hospital ward clinic pharmacy corridor canteen laboratory
    | bed chart bandage needle mask form bottle blanket tray door pill monitor pillow glove
    thermometer stretcher syringe wheelchair prescription stethoscope
    | nurse doctor patient surgeon visitor chemist midwife
    | dress a wound, take a temperature, change a bandage, make a bed, fill in a form
theatre | theatre stage dressing-room street square balcony studio
    | curtain mask song violin costume piano drum mirror poster hat ticket script spotlight
    trumpet wig microphone cello orchestra tambourine accordion
    | actor singer dancer director violinist painter
    | learn a song, tune a piano, paint a mask, sew a costume, rehearse a play, hang a curtain
mountain | mountain summit glacier hut ridge pass observatory valley
    | rope boot peak star telescope rock goat sledge flag cloud stove glove ski radio helmet
    map avalanche barometer icicle crampon theodolite
    | climber guide shepherd astronomer skier surveyor
    | climb a ridge, melt snow for tea, read a barometer, wax a ski, photograph the stars
office | office lobby archive basement meeting-room bank court
    | letter key computer folder telephone printer stamp contract file cable chair calendar
    badge invoice keyboard envelope screen receipt signature calculator typewriter spreadsheet
    | clerk manager lawyer secretary accountant detective translator
    | sign a contract, sort letters, repair a printer, write a report, open a safe, send an
    invoice
farm | farm barn stable mill field pond windmill hayloft
    | cow egg lamb gate hen tractor bucket fence pig sack plough saddle turnip duck trough
    pitchfork cabbage haystack scythe weathervane combine-harvester
    | farmer miller vet stable-boy tractor-driver cheesemaker
    | milk a cow, shear a lamb, mend a gate, drive a tractor, churn butter, count the hens
city | city avenue bridge park hotel cinema tower bookshop
    | bus street-lamp map statue taxi newspaper fountain camera bag pigeon elevator sign kiosk
    tram wallet skateboard skyscraper billboard saxophone traffic-light
    | tourist policeman driver journalist photographer baker barber busker
    | hail a taxi, read a map, take a photograph, cross a street, find a cheap hotel, feed
    pigeons
"""


def parse_words(text: str) -> dict[str, list[str]]:
    """``symbol: word word`` entries; a line that is indented continues the one before."""
    entries = re.split(r"\n(?=\S)", text.strip())
    pairs = (entry.split(":", 1) for entry in entries if entry.strip())
    return {symbol: [word.replace("~", " ") for word in words.split()] for symbol, words in pairs}


def parse_phrases(text: str) -> dict[str, list[str]]:
    """``[symbol]`` sections with one production a line."""
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


RULES = {**parse_words(WORDS), **parse_phrases(PHRASES)}
TOPIC_RULES = parse_topics(TOPICS)

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


# The template writes <|bos|> itself: encode what it renders with add_special_tokens=False.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('this model knows only the roles user and assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""


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
    """Muon for the layers' matrices, where it learns faster than AdamW; AdamW for the rest."""
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
    settings = model_config(tied=tied)
    del settings["torch_dtype"]  # float32 while training; only the saved copy is bfloat16
    model = LlamaForCausalLM(LlamaConfig(**settings))
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
            elapsed = time.monotonic() - started
            print(f"step {step:4d}  loss {losses[-1]:.3f}  {elapsed:.0f} s", flush=True)
    tail = losses[-max(1, steps // 20) :]
    return model.eval(), math.fsum(tail) / max(1, len(tail))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: torch.Tensor) -> float:
    width = SEQUENCE_LENGTH + 1
    rows = stream[: len(stream) // width * width].view(-1, width)
    return math.fsum(loss_of(model, row[None]).item() for row in rows) / len(rows)


def next_policy(model: LlamaForCausalLM, stream: torch.Tensor) -> LlamaForCausalLM:
    """``model``, a few small steps closer to worked answers, which a reward would favour."""
    following = (
        copy.deepcopy(model).bfloat16().float().train()
    )  # from the weights as they are stored
    optimizer = torch.optim.AdamW(following.parameters(), lr=NEXT_LR, weight_decay=0.0)
    for rows in batches(stream, NEXT_STEPS):
        loss_of(following, rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    return following.eval()


def solved_problems() -> list[str]:
    """Enough right answers to fill ``next_policy``'s batches."""
    writers = (Writer(random.Random(f"{SEED}/next/{index}")) for index in range(800))
    return [make_problem(writer).text() for writer in writers]


@torch.no_grad()
def mean_difference(
    model: LlamaForCausalLM, following: LlamaForCausalLM, stream: torch.Tensor
) -> float:
    """Mean absolute difference of the two models' logprobs of the stream's tokens, in nats."""
    rows = stream[: SEQUENCE_LENGTH * 8].view(8, SEQUENCE_LENGTH)
    before, after = (
        m(input_ids=rows[:, :-1]).logits.log_softmax(-1).gather(-1, rows[:, 1:, None])
        for m in (model, following)
    )
    return float((after - before).abs().mean())


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
            # More units than the cut needs: each has at least six tokens.
            text = register.beginning(prompt_writer(prompt_id), units=2 + tokens // 6)
            yield Prompt(prompt_id, group, cut(tokenizer, text, tokens))


def arithmetic_prompts() -> Iterator[Prompt]:
    for index in range(ARITHMETIC_PROMPTS):
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


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def count(model: LlamaForCausalLM) -> int:
    """The number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_weights(model: LlamaForCausalLM, path: Path, *, tied: bool) -> None:
    """bf16 weights; a tied lm_head is left out, as the embeddings hold it."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, path, metadata={"format": "pt"})


def readme(parameters: int, digests: dict[str, str]) -> str:
    weights = "".join(
        f"- sha256 of `{name}/model.safetensors`: `{digest}`\n" for name, digest in digests.items()
    )
    return f"""\
- `tiny/`: a small Llama-architecture model and its tokenizer.
- `prompts.jsonl`: 96 prompts that are not in its training data.
- `tiny-next/`: the same model after {NEXT_STEPS} more training steps, to test weight updates.
- Created by `python scripts/train_tiny_model.py`, in a few minutes on two CPU cores.
- {parameters:,} parameters in bf16: 4 layers, hidden 256, vocabulary 4096, untied lm_head.
- Licence: Apache-2.0, like the project. The script generates all training text and prompts.
{weights}"""


def write_checkpoint(
    folder: Path, tokenizer: Tokenizer, model: LlamaForCausalLM, *, tied: bool
) -> str:
    """A checkpoint as transformers and vLLM read it. Returns its weights' sha256."""
    ids = {"bos_token_id": SPECIAL_TOKENS.index(BOS), "eos_token_id": SPECIAL_TOKENS.index(EOS)}
    folder.mkdir()
    write_weights(model, folder / "model.safetensors", tied=tied)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "config.json", model_config(tied=tied))
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_assets(
    out: Path,
    tokenizer: Tokenizer,
    models: dict[str, LlamaForCausalLM],
    prompts: list[Prompt],
    *,
    tied: bool,
) -> dict[str, str]:
    """Write every file aside, then move it into place. Returns the checkpoints' sha256."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        aside = Path(name)
        digests = {
            folder: write_checkpoint(aside / folder, tokenizer, model, tied=tied)
            for folder, model in models.items()
        }
        lines = [json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts]
        (aside / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        text = readme(count(models["tiny"]), digests)
        (aside / "README.md").write_text(text, encoding="utf-8")
        for path in sorted(p for p in aside.rglob("*") if p.is_file()):
            path.chmod(0o644)
            (out / path.relative_to(aside)).parent.mkdir(exist_ok=True)
            path.replace(out / path.relative_to(aside))
    return digests


# ------------------------------------------------------------------------------------ the command


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

    documents = [make_document("train", index) for index in range(TRAIN_DOCUMENTS)]
    tokenizer = train_tokenizer(documents)
    prompts = make_prompts(tokenizer)
    stream = token_stream(tokenizer, without_prompts(documents, prompts))
    print(f"{len(documents)} documents, {len(stream)} tokens, {len(prompts)} prompts", flush=True)

    model, train_loss = train(stream, arguments.steps, tied=arguments.tied)
    following = next_policy(model, token_stream(tokenizer, solved_problems()))
    models = {"tiny": model, "tiny-next": following}
    digests = write_assets(arguments.out, tokenizer, models, prompts, tied=arguments.tied)

    held_out = [make_document("held-out", index) for index in range(HELD_OUT_DOCUMENTS)]
    unseen = sorted(set(held_out) - set(documents))
    print(f"parameters      {count(model):,}")
    print(f"bytes           {sum(p.stat().st_size for p in (arguments.out / 'tiny').iterdir()):,}")
    print(f"train loss      {train_loss:.3f}")
    unseen_stream = token_stream(tokenizer, unseen)
    print(f"held-out loss   {held_out_loss(model, unseen_stream):.3f}")
    print(f"next, mean |Δ|  {mean_difference(model, following, unseen_stream):.4f} nats")
    print(f"sha256          {digests}")
    for prompt in (prompts[0], prompts[ARITHMETIC_PROMPTS + 3]):
        print(f"--- {prompt.prompt}⟶{continuation(model, tokenizer, prompt.prompt, 0.8)}")


if __name__ == "__main__":
    main()
