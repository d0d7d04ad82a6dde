"""The last question before a model's words are shown: is there anything in them that their evidence does not hold?

Belongs here: refusing a generated text for what it carries (markup, links, personal data, orders, advertising) or brings
in (names and numbers from nowhere). Does not belong here: whether it is a good persona (`persona.py`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.hostile import foreign_names, is_suspicious
from persona4rec_pipeline.personas.text import STOP_WORDS, sentences, words

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def refusal(texts: Sequence[str], material: str, vocabulary: Container[str] = ()) -> str | None:
    """Why the texts of one generated persona must not be published, or None.

    texts: name, description, rationale. material: all that the model was shown of the item (title, summary, evidence).
    vocabulary: lower-cased words that reviews of the catalogue use; the first word of a sentence has a capital whether
    it is a name or not, so it is a name from nowhere if neither material nor vocabulary knows it.
    """
    known = set(words(material))
    for text in texts:
        if publishable(text) != " ".join(text.split()):
            return "it carries markup, a link or personal data"
        for sentence in [text, *(piece.text for piece in sentences(text))]:
            if reason := is_suspicious(sentence):
                return reason
        for name in foreign_names(text, material):
            return f"it names {name!r}, which its evidence does not"
        for number in _NUMBER.findall(text):
            if number not in material:
                return f"it names {number!r}, which its evidence does not"
        for piece in sentences(text):
            first = next(iter(words(piece.text)), "")
            if first not in known and first not in STOP_WORDS and first not in vocabulary:
                return f"it begins with {first!r}, a word that no review uses"
    return None
