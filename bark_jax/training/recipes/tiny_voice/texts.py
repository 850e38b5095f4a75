"""Texts of the built-in voice: digit strings, and the sentences of a small grammar.

A sentence is a template whose slots are filled with words or phrases of a class. A hash of the text decides whether it
is held out for evaluation, so the held-out set does not depend on how many texts are drawn.
"""

import hashlib
import re

import numpy as np

from bark_jax.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT_IN = 16  # one text in so many is held out of training
MAX_IDLE = 500  # consecutive draws without a new text after which the grammar counts as exhausted

CLASSES = {
    "number": "three five six seven nine ten eleven twelve thirty fifty",
    "person": "brother sister mother father teacher friend doctor neighbor",
    "animal": "dog cat",
    "thing": "letter picture window computer camera chair paper",
    "food": "coffee milk sugar dinner breakfast",
    "color": "red green yellow black brown",
    "quality": "good new small big beautiful happy strong",
    "weather": "cold hot sunny windy beautiful terrible",
    "place": "garden city station market hospital river office mountain",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "when": "today tomorrow tonight",
    "part": "morning afternoon evening summer winter",
    "plan": "leave start finish sleep work travel",
    "feeling": "happy tired sorry ready hungry",
}

TEMPLATES = (
    "hello, {hello}.",
    "the weather is {weather} {when}.",
    "it will be {weather} on {day} {part}.",
    "i would like some {food}, please.",
    "please open the {thing}.",
    "this is a very {quality} {thing}.",
    "thank you very much, my {quality} friend.",
    "she wants to {plan} in the {part}.",
    "she said that he will {plan} on {day}.",
    "i want to {plan} {when}.",
    "can you {plan} on {day} {part}?",
    "we will {plan} at {number} in the {part}.",
    "we will meet you at the {place} on {day}.",
    "there are {number} {thing}s on the table.",
    "you can find the {color} {thing} in the {place}.",
    "there is a {quality} {place} near the {place}.",
    "they said it was a {quality} {place}.",
    "the {person} of the {person} is {feeling}.",
    "i think that the {person} is {feeling} {when}.",
    "i think my {person} has a {color} {animal}.",
    "the number is {digit} {digit} {digit}.",
)

HELLO = (
    "world",
    "my friend",
    "how are you {when}",
    "my name is not important",
    "i am a small computer voice",
    "this is a small voice",
    "i am happy to meet you",
    "it is a beautiful {part}",
)

_SLOT = re.compile(r"\{(\w+)\}")


def _choices(slot: str) -> tuple[str, ...]:
    if slot == "digit":
        return DIGITS
    if slot == "hello":
        return HELLO
    return tuple(CLASSES[slot].split())


def fill(template: str, rng: np.random.Generator) -> str:
    """Fills the slots of a template at random, also the slots of phrases that were filled in."""
    while match := _SLOT.search(template):
        choices = _choices(match[1])
        template = template[: match.start()] + choices[rng.integers(len(choices))] + template[match.end() :]
    return template


def digit_string(rng: np.random.Generator) -> str:
    """Three to seven digits as words."""
    return " ".join(DIGITS[i] for i in rng.integers(10, size=rng.integers(3, 8)))


def sentence(rng: np.random.Generator) -> str:
    """A random sentence of the grammar."""
    return fill(TEMPLATES[rng.integers(len(TEMPLATES))], rng)


def is_held_out(text: str) -> bool:
    """Whether a text is held out of training, by its hash."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_IN == 0


def draw(kind: str, count: int, *, seed: int, held_out: bool = False) -> list[str]:
    """Draws `count` different texts, from the training or from the held-out part.

    Args:
      kind: "digits" or "sentences".

    Raises:
      InputError: the grammar does not make so many different texts.
    """
    rng = np.random.default_rng([seed, len(kind), held_out])
    make = {"digits": digit_string, "sentences": sentence}[kind]
    found: dict[str, None] = {}
    idle = 0
    while len(found) < count:
        text = make(rng)
        idle = idle + 1 if text in found or is_held_out(text) != held_out else 0
        if idle == 0:
            found[text] = None
        elif idle == MAX_IDLE:
            raise InputError(f"{count} different {kind} were asked for, the grammar makes about {len(found)}")
    return list(found)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def vocabulary() -> list[str]:
    """Every word that the grammar can make, sorted."""
    texts = [*DIGITS, *(t for t in TEMPLATES), *HELLO, *CLASSES.values()]
    texts += [f"{thing}s" for thing in CLASSES["thing"].split()]
    return sorted({word for text in texts for word in words(_SLOT.sub(" ", text))} - {"s"})
