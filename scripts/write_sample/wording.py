"""Turns bank lines into prose: choices, fair drawing, spelling habits and slips of the finger.

Nothing here knows about books or motives; it works on plain strings.
"""

from __future__ import annotations

import random
import re

CHOICE = re.compile(r"\[([^\[\]]*)\]")
QUOTED = re.compile(r'("[^"]*")')

AMERICAN = {
    "favourite": "favorite", "colour": "color", "honour": "honor", "grey": "gray", "humour": "humor",
    "neighbour": "neighbor", "cosy": "cozy", "memorised": "memorized", "recognise": "recognize", "mum": "mom",
    "moralising": "moralizing", "parcels": "packages", "flatmate": "roommate", "nappies": "diapers",
    "behaviour": "behavior", "theatre": "theater", "centre": "center", "plough": "plow", "rumour": "rumor",
}  # fmt: skip

SPELT_OUT = (("can't", "can not"), ("won't", "will not"), ("n't", " not"), ("I'm", "I am"), ("I'd", "I would"))

CHATTY = {
    "because": "bc", "though": "tho", "really": "rly", "definitely": "definately", "probably": "prob", "weird": "wierd",
    "separate": "seperate", "about": "abt", "people": "ppl", "until": "til", "something": "smth", "minutes": "mins",
}  # fmt: skip


class Chooser:
    """Draws lines from banks so that a bank is used up before any line comes again."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self._decks: dict[str, list[str]] = {}
        self._drawn: dict[str, int] = {}

    def draw(self, bank_name: str, lines: list[str]) -> str:
        """Return the next line of a bank, shuffled afresh every time it has been used up."""
        deck = self._decks.get(bank_name)
        if not deck:
            deck = list(lines)
            self.chance.shuffle(deck)
            self._decks[bank_name] = deck
        self._drawn[bank_name] = self._drawn.get(bank_name, 0) + 1
        return deck.pop()

    def times_used_up(self, bank_name: str, lines: list[str]) -> float:
        """Return how many times over a bank has been drawn, for callers that limit repetition."""
        return self._drawn.get(bank_name, 0) / max(1, len(lines))

    def expand(self, line: str) -> str:
        """Replace every "[one|other]" by one of its choices."""
        while True:
            replaced = CHOICE.sub(lambda match: self.chance.choice(match.group(1).split("|")), line)
            if replaced == line:
                # An empty choice may leave a space before the stop.
                return re.sub(r" +(?=[.!?,])", "", line).strip()
            line = replaced


def begin_with_capital(sentence: str) -> str:
    """Raise the first letter, looking past an opening quotation mark."""
    for position, character in enumerate(sentence):
        if character.isalpha():
            return sentence[:position] + character.upper() + sentence[position + 1 :]
        if character not in "\"'“(":
            break
    return sentence


def replace_words(text: str, table: dict[str, str], chance: random.Random, rate: float) -> str:
    """Replace whole words found in a table, keeping a leading capital, each with the given probability."""

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        new = table.get(word.lower())
        if new is None or chance.random() >= rate:
            return word
        return new.capitalize() if word[0].isupper() else new

    return re.sub(r"[A-Za-z]+", swap, text)


def american_spelling(text: str, chance: random.Random) -> str:
    """Spell as an American reader would, plurals included."""
    table = AMERICAN | {word + "s": new + "s" for word, new in AMERICAN.items()}
    return replace_words(text, table, chance, 1.0)


def slip_of_the_finger(text: str, chance: random.Random) -> str:
    """Swap or drop one letter inside one longer word."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 5]
    if not places:
        return text
    place = chance.choice(places)
    word = words[place]
    letter = chance.randrange(1, len(word) - 2)
    if chance.random() < 0.6:
        word = word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :]
    else:
        word = word[:letter] + word[letter + 1 :]
    words[place] = word
    return " ".join(words)


def as_chatty(text: str, chance: random.Random) -> str:
    """Write as on a phone: small letters, dropped apostrophes, short forms and slips."""
    text = replace_words(text.lower(), CHATTY, chance, 0.5)
    if chance.random() < 0.5:
        text = re.sub(r"(?<=\w)n't\b", "nt", text)
    for _ in range(len(text) // 260 + 1):
        if chance.random() < 0.6:
            text = slip_of_the_finger(text, chance)
    if chance.random() < 0.5:
        text = text.rstrip(".")
    return text


def as_learner(text: str, chance: random.Random) -> str:
    """Write as a learner of English: some articles missing, contractions spelt out, quotations left alone."""
    pieces = QUOTED.split(text)
    for place in range(0, len(pieces), 2):
        piece = pieces[place]
        for short, full in SPELT_OUT:
            piece = piece.replace(short, full)
        pieces[place] = re.sub(
            r"(?<=[a-z,]) (?:the|a|an) (?=[a-z])",
            lambda match: " " if chance.random() < 0.4 else match.group(0),
            piece,
        )
    return "".join(pieces)


def as_gushing(text: str, chance: random.Random) -> str:
    """Turn about half of the full stops into exclamation marks."""
    return re.sub(r"(?<=[a-z])\.(?= |$)", lambda match: "!" if chance.random() < 0.55 else ".", text)
