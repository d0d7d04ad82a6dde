"""In which language a review is written.

Belongs here: asking the detector, and when not to believe it. Does not belong here: what is done about it.
"""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# Letters below which a text is too short to tell; names and one-word reviews look like any language.
MIN_LETTERS = 40
# Probability that the detector must give.
MIN_PROBABILITY = 0.9


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language, None where it is too short or the detector is not sure. Deterministic."""
    if sum(character.isalpha() for character in text) < MIN_LETTERS:
        return None
    language, probability = _detector().classify(text[:2000])
    return str(language) if probability >= MIN_PROBABILITY else None


@cache
def _detector() -> LanguageIdentifier:
    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Languages without a two-letter code are pidgins and dialects that sloppy English is easily taken for.
    detector.set_languages([code for code in detector.labels if len(code) == 2])
    return detector
