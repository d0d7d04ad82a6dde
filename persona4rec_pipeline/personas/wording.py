"""How an extractive persona reads: a name from the words that set its group apart, a description, a rationale.

Belongs here: phrases, names and sentences made by rules. Does not belong here: finding the groups (`grouping.py`), and
anything a language model writes (`full_profile.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.grouping import Group, Polarity
from persona4rec_pipeline.personas.polarity import sentence_stance
from persona4rec_pipeline.personas.text import CapitalCounts, content_words, phrases, sentences, stem, tidy, words

# Candidate phrases per group whose meaning is compared with the group's centre.
CANDIDATES = 8
_ADJECTIVE = re.compile(r"(?:y|ful|ous|ic|al|ive|ish|less|able|ible|est)$")
_VERBISH = re.compile(r"(?:ing|ed|ly)$")


@dataclass
class PhraseStatistics:
    """In how many reviews of the catalogue a word occurs: what is everywhere sets nobody apart."""

    reviews: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, texts: Iterable[str], domain: Domain) -> PhraseStatistics:
        """Count words over the given train reviews, one at a time; names of people and places are remembered apart."""
        statistics = cls()
        capitals: CapitalCounts = CapitalCounts()
        for text in texts:
            statistics.reviews += 1
            statistics.counts.update(set(phrases(text, domain, set(), max_words=1)))
            capitals.add(text)
        statistics.names = capitals.names()
        return statistics

    def rarity(self, word: str) -> float:
        """Inverse document frequency, ln((N + 1) / (n + 1))."""
        return math.log((self.reviews + 1) / (self.counts[word] + 1))


@dataclass(frozen=True)
class Wording:
    """Name, description and rationale of one persona."""

    name: str
    description: str
    preference_rationale: str


def candidate_phrases(group: Group, statistics: PhraseStatistics, title: str, domain: Domain) -> list[str]:
    """The phrases of a group that could name it, best first by frequency in the group times rarity elsewhere.

    Names of people and places and the words of the title are left out: a persona is a kind of person, not a fan of Darcy.
    """
    excluded = statistics.names | set(words(title))
    counts = Counter(phrase for sentence in group.evidence for phrase in set(phrases(sentence.text, domain, excluded)))

    def value(phrase: str) -> float:
        parts = phrase.split()
        spoken_by = 1 + math.log(counts[phrase])
        # Two words say more than one; runs of verbs and adverbs ("finally learned") say little.
        shape = 1.25 if len(parts) == 2 else 0.8
        shape *= 0.6 if _VERBISH.search(parts[-1]) else 1.0
        # What one reviewer in the whole catalogue says is a slip of the pen more often than a taste.
        shape *= 1.0 if all(statistics.counts[part] > 1 for part in parts) else 0.3
        rarity = sum(statistics.rarity(part) for part in parts) / len(parts)
        return spoken_by * shape * min(rarity, 5.0)

    # A persona is not named after the opposite of what it feels.
    side = {"appreciative": 1, "critical": -1, "mixed": 0}[group.polarity]
    fitting = [phrase for phrase in counts if sentence_stance(phrase) * side >= 0] or list(counts)
    return sorted(fitting, key=lambda phrase: (-value(phrase), phrase))[:CANDIDATES]


def choose_phrases(candidates: Sequence[str], vectors: np.ndarray, centre: np.ndarray, most: int = 3) -> list[str]:
    """Of the candidates (vectors: (n, d), unit), those closest in meaning to the group's centre, no word twice."""
    closeness = vectors @ centre if len(candidates) else np.zeros(0)
    order = sorted(
        range(len(candidates)),
        key=lambda row: (-(closeness[row] + (0.04 if " " in candidates[row] else 0.0)), candidates[row]),
    )
    chosen: list[str] = []
    used: set[str] = set()
    for row in order:
        parts = {stem(part) for part in candidates[row].split()}
        if not parts & used:
            chosen.append(candidates[row])
            used |= parts
        if len(chosen) == most:
            break
    return chosen


def write_persona(group: Group, chosen: Sequence[str], title: str, domain: Domain, taken_names: set[str]) -> Wording:
    """The extractive persona of a group, in the third person and the present tense, with its most telling quotes.

    chosen: phrases of the group, best first; the name is that of its taste, or of the first phrase where it has none.
    `taken_names` (lower-cased) are names already given to this item's personas; the name returned is not among them.
    """
    quotes = [tidy(sentence.text, 200) for sentence in group.evidence[:2]]
    chosen = list(chosen) or [_topic(group, domain)]
    names = [group.taste.who] if group.taste else []
    names += [_name(subject, group.polarity, domain) for subject in map(_noun(domain), chosen)]
    if group.polarity == "mixed":
        names = [f"Half-convinced {name[:1].lower()}{name[1:]}" for name in names]
    name = next((name for name in names if name.lower() not in taken_names), None)
    if name is None:
        name = next(f"{names[0]} {n}" for n in range(2, 100) if f"{names[0]} {n}".lower() not in taken_names)
    topics = join_words(chosen[:2])
    person = domain.person
    reason = group.taste.meaning if group.taste else topics
    if group.polarity == "critical":
        looks = f"is put off by {reason}"
        rationale = f"They do not take to {title} because of {reason}"
    elif group.polarity == "mixed":
        looks = f"looks for {reason}" if group.taste else f"cares about {topics}"
        rationale = f"They are of two minds about {title} when it comes to {reason}"
    else:
        looks = f"looks for {reason}" if group.taste else f"is drawn to {topics}"
        rationale = f"They take to {title} for {reason}"
    description = f"This {person} {looks}."
    shared = [phrase for phrase in chosen if _speakers(phrase, group) > 1][:2]
    if group.taste and shared:
        description += f" They speak of {join_words(shared)}."
    description += f" What they say: {' '.join(f'“{quote}”' for quote in quotes)}"
    return Wording(name, description, f"{rationale}: “{tidy(group.evidence[0].text, 140)}”")


def _speakers(phrase: str, group: Group) -> int:
    """Reviewers of the group who use the phrase: what one alone says is no trait of them all."""
    return len({sentence.review_id for sentence in group.evidence if phrase in sentence.text.lower()})


def claim(name: str, description: str) -> str:
    """What a persona says of people, without the quotes that back it: the name and the first sentence."""
    first = next(iter(sentences(description.split("“")[0])), None)
    return f"{name}. {first.text}" if first else name


def summary_wording(title: str, summary: str, categories: Sequence[str], domain: Domain) -> Wording:
    """The persona of an item that nobody has praised yet: whoever looks for what its summary tells."""
    kind = next((c for c in reversed(categories) if not set(words(c)) <= domain.generic_words and words(c)), "")
    name = f"{kind[:40].strip().capitalize()} {domain.person}" if kind else f"Curious {domain.person}"
    # Two sentences of the summary, without the categories that may stand behind it in brackets.
    told = [piece.text for piece in sentences(summary) if not piece.text.startswith("(")][:2]
    looks_for = f"a {domain.item} in {kind}" if kind else f"a {domain.item} such as this"
    return Wording(
        name,
        f"This {domain.person} looks for {looks_for}. {' '.join(told)}",
        f"They may take to {title} for what it is; no reviewer has told why yet.",
    )


def join_words(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _name(subject: str, polarity: Polarity, domain: Domain) -> str:
    return f"{subject[:1].upper()}{subject[1:]} {'critic' if polarity == 'critical' else domain.person}"


def _noun(domain: Domain) -> Callable[[str], str]:
    """Adjectives become a thing: "creepy" is no taste, "creepy book" is."""
    return lambda phrase: f"{phrase} {domain.item}" if _ADJECTIVE.search(phrase) else phrase


def _topic(group: Group, domain: Domain) -> str:
    counts = Counter(word for sentence in group.evidence for word in content_words(sentence.text, domain))
    return min(counts, key=lambda word: (-counts[word], word)) if counts else "what it is"
