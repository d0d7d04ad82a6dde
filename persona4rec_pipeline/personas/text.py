"""Small text tools with exact positions: sentences, clauses, words. No model, no language model, no I/O.

Belongs here: splitting and judging pieces of review text. Does not belong here: making text safe for a prompt
(`generation.delimit`), telling texts written for a
machine (`hostile.py`), and what the pieces mean (aspects, grouping).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from persona4rec_pipeline.generation.scrub import find_personal_data
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.hostile import is_hostile, is_suspicious

# Function words and the words that every review uses, whatever it is about.
STOP_WORDS = frozenset(
    """
    a about above after again all almost along already also although always am an and another any anyone anything
    are aren't around as at away back be became because become been before being best better between big bit both
    but by came can can't cannot come comes could couldn't did didn't do does doesn't doing don't done down each
    either else end ends enough especially even ever every everyone everything exactly far few first for found from
    full fully gave get gets getting give given gives go goes going gone got great had has hasn't have haven't
    having he her here hers herself him himself his how however i i'd i'll i'm i've if in instead into is isn't it
    it's its itself just keep keeps kind know knows last least less let like liked likes little long lot lots made
    make makes making man many may maybe me mean might mine more most much must my myself need never new next no
    nobody none nor not nothing now of off often oh ok on once one only onto or other others our out over own part
    people perhaps point pretty put quite rather real really right said same say says see seem seems seen several
    she should shouldn't since so some someone something sometimes somewhat soon still such sure take takes taking
    tell tells than that that's the their them themselves then there there's these they they're thing things think
    this those though thought through time times to too took toward towards tried try trying turn two under until up
    upon us very want wanted wants was wasn't way ways we well went were weren't what what's when where whether
    which while who whole whom whose why will with within without won't would wouldn't yes yet you you'd you'll
    you're you've your yours yourself love loved loves loving enjoy enjoyed enjoying enjoys good nice excellent
    amazing awesome wonderful fantastic perfect favorite favourite recommend recommended highly star stars review
    reviews year years day days old young feel feels felt find finds finding look looks looking makes bad worst
    terrible awful boring hard easy couple half entire definitely absolutely truly simply actually probably
    certainly finally totally one's bought buy purchase purchased ordered order gets expected expect expecting worth
    money price
    """.split()
)

# Longer ones are no sentences.
MAX_SENTENCE_CHARACTERS = 600
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr st vs etc e.g i.e jr sr prof no vol ch pp fig
    """.split()
)
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？]|\n+")
_CLAUSE_BREAK = re.compile(
    r"\s*(?:[;:—–]|\s-\s|,\s+(?=(?:but|and|yet|though|although|because|so|while|which)\b)|\.{3}|…)\s*"
)
_WORD = re.compile(r"[^\W\d_]\w*(?:['’-]\w+)*", re.UNICODE)
_SENTENCE_STARTERS = frozenset({".", "!", "?", '"', "“"})
_HTML = re.compile(r"<br\s*/?>|</?[a-z][^>]{0,80}>|&(?:nbsp|amp|quot|#\d+);", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """A piece of a review: characters [start, end) of its text, and that text."""

    start: int
    end: int
    text: str


def sentences(text: str) -> list[Piece]:
    """The sentences of `text` in order, with their positions; leading and trailing white space is not part of them."""
    pieces: list[Piece] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.start()].split()
        last_word = before[-1].lower().strip("(\"'“") if before else ""
        if match.group().startswith(".") and (
            last_word in _ABBREVIATIONS or (len(last_word) == 1 and last_word.isalpha())
        ):
            continue
        pieces += _trimmed(text, start, match.end())
        start = match.end()
    pieces += _trimmed(text, start, len(text))
    return pieces


def clauses(text: str, sentence: Piece) -> list[Piece]:
    """The clauses of one sentence of `text`, with positions in `text`."""
    pieces: list[Piece] = []
    start = sentence.start
    for match in _CLAUSE_BREAK.finditer(sentence.text):
        pieces += _trimmed(text, start, sentence.start + match.start())
        start = sentence.start + match.end()
    pieces += _trimmed(text, start, sentence.end)
    return pieces


def words(text: str) -> list[str]:
    """Lower-cased words, apostrophes straightened, no digits."""
    return [match.group().lower().replace("’", "'") for match in _WORD.finditer(text)]


def content_words(text: str, domain: Domain | None = None) -> list[str]:
    """Words that can carry meaning: no function words, no words of praise, none that the domain says of everything."""
    generic = domain.generic_words if domain else frozenset()
    return [word for word in words(text) if len(word) > 2 and word not in STOP_WORDS and word not in generic]


def is_safe(sentence: str, domain: Domain) -> bool:
    """Whether a sentence is about the item and speaks to people: no personal data, no links, nothing about the shop, no
    order to whoever reads it."""
    if len(sentence) > MAX_SENTENCE_CHARACTERS or find_personal_data(sentence) or is_suspicious(sentence):
        return False
    return not domain.off_topic_words.intersection(words(sentence))


def safe_sentences(text: str, domain: Domain) -> list[Piece]:
    """The safe sentences of one review; none at all of a review that was written for a machine (`hostile.py`)."""
    if is_hostile(text):
        return []
    return [sentence for sentence in sentences(text) if is_safe(sentence.text, domain)]


def is_usable(sentence: str, domain: Domain) -> bool:
    """Whether a sentence may be evidence: it is safe, and says something that not every review says."""
    if not is_safe(sentence, domain):
        return False
    if not words(sentence):
        return False
    if not sentence.isascii() and len(words(sentence)) <= 2:
        # Scripts without spaces between words still say something.
        return sum(character.isalpha() for character in sentence) >= 6
    return len(set(content_words(sentence, domain))) >= 2


def repeats_itself(text: str) -> bool:
    """Whether a text goes round in circles, as small models do: few distinct words, or the same three words twice."""
    found = content_words(text)
    runs = [tuple(words(text)[start : start + 3]) for start in range(len(words(text)) - 2)]
    return len(set(found)) < 0.75 * len(found) or len(set(runs)) < len(runs)


def shares_words(text: str, source: str) -> float:
    """Share (0-1) of the distinct content words of `text` that stand in `source`, endings ignored; 1 if it has none."""
    said = {stem(word) for word in content_words(text)}
    known = {stem(word) for word in words(source)}
    return len(said & known) / len(said) if said else 1.0


def stem(word: str) -> str:
    """A word without its most common English endings; for comparing, not for showing."""
    return re.sub(r"(?:'s|ies|es|s|ing|ed|ly|y|e)$", "", word)


def tidy(text: str, max_characters: int) -> str:
    """One line of plain text for people: no HTML, single spaces, cut at a word with an ellipsis."""
    line = " ".join(_HTML.sub(" ", text).split())
    if len(line) <= max_characters:
        return line
    cut = line[: max_characters - 1].rsplit(" ", 1)[0].rstrip(",;:- ")
    return f"{cut}…"


class CapitalCounts:
    """Counts words written with a capital inside sentences: people and places, no good as kinds of taste."""

    def __init__(self) -> None:
        self._capital: Counter[str] = Counter()
        self._small: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count the words of one text."""
        for position, match in enumerate(_WORD.finditer(text)):
            word = match.group()
            if position == 0 or text[max(0, match.start() - 4) : match.start()].rstrip()[-1:] in _SENTENCE_STARTERS:
                continue
            counts = self._capital if word[0].isupper() and not word.isupper() else self._small
            counts[word.lower().replace("’", "'")] += 1

    def names(self) -> set[str]:
        """Lower-cased words that are written with a capital more often than without."""
        return {word for word, count in self._capital.items() if count > self._small[word]}


def phrases(text: str, domain: Domain, excluded: set[str], max_words: int = 2) -> Iterator[str]:
    """Runs of one to `max_words` neighbouring content words, as candidates for a name."""
    run: list[str] = []
    for word in [*words(text), ""]:
        usable = (
            len(word) > 2
            and word not in STOP_WORDS
            and word not in domain.generic_words
            and word not in excluded
            and word.removesuffix("'s") not in excluded
            and not word.endswith("n't")
        )
        if usable:
            run.append(word.removesuffix("'s"))
            continue
        for length in range(1, max_words + 1):
            for start in range(len(run) - length + 1):
                yield " ".join(run[start : start + length])
        run = []


def _trimmed(text: str, start: int, end: int) -> list[Piece]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    stripped = piece.strip()
    return [Piece(start, start + len(stripped), stripped)] if stripped else []
