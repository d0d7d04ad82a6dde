"""Which persona of an item explains a user's choice, measured without a language model.

Belongs here: the judge by vectors. Does not belong here: which choices it is asked about (`assets.py`), the judge that
reads (`judge.py`), and the profile and score that are served (`index/scoring.py`): a judge must not be the thing it
teaches.

A user is what their earlier reviews say; a persona is what its other reviewers say, and its own first words. Compared are
reviews with reviews, sentence by sentence, because the words of one reader are closer to the words of another than to
those of a description. Where a user's earlier review speaks for a persona of that item, what its other readers say
stands in for half of it: one review is few words, and its neighbours make them clear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from persona4rec_pipeline.alignment.judge import Choice, Option, PastInteraction, Verdict
from persona4rec_pipeline.encoder.texts import interaction_text
from persona4rec_pipeline.index.scoring import history_weights
from persona4rec_pipeline.personas.text import sentences
from persona4rec_pipeline.personas.wording import claim

Embed = Callable[[Sequence[str]], np.ndarray]

# Similarities of a general encoder lie close together; divided by this they make a usable distribution.
SIMILARITY_TEMPERATURE = 0.08
# Sentences of one review, and reviews of one persona, that are read.
MAX_SENTENCES = 12
MAX_VOICES = 32
# How much of an earlier review is replaced by those that speak for the same persona.
KIN_SHARE = 0.5
# How much a persona's own words count beside its reviewers'.
TEXT_WEIGHT = 0.25
# How much it counts that an earlier review speaks for a persona that says the same.
CLAIM_WEIGHT = 0.15
# Exponent of the number of reviewers who speak for a persona: a taste that many share is likelier, a little.
VOICES_EXPONENT = 0.25
# Voices that every persona is taken to have, so that one without others can still be chosen.
VOICES_AT_LEAST = 0.5
# Vectors all point somewhat the same way, and that way tells nothing. With fewer texts than this it is not known well.
TEXTS_FOR_MEAN = 10


def judge_by_similarity(
    choices: Sequence[Choice], reviews: Mapping[str, str], embed: Embed, recency_decay: float
) -> list[Verdict]:
    """A verdict on each choice, in order: softmax of the similarity of the history and each option.

    reviews: texts of the reviews that histories, their kin and the options' voices name (`reviews_to_read`); one that is
        missing is not read. An earlier interaction whose review says nothing is read as the text of its aspects and item.
    embed: texts -> float32 (n, d), unit length.
    """
    if not choices:
        return []
    vector_of = _review_vectors(choices, reviews, embed)
    claims = {_option_text(option) for choice in choices for option in choice.options}
    claims |= {text for choice in choices for entry in choice.history for text in entry.claims}
    row_of_claim = {text: row for row, text in enumerate(sorted(claims))}
    claim_vectors = _directions(embed(sorted(claims)))
    verdicts = []
    for choice in choices:
        weights = history_weights(np.array([0, len(choice.history)]), recency_decay)
        weights /= weights.sum()
        taste = sum(
            weight * _past_vector(entry, vector_of) for weight, entry in zip(weights, choice.history, strict=True)
        )
        logits = []
        for option in choice.options:
            voices = [vector_of[review_id] for review_id in option.voices[:MAX_VOICES] if review_id in vector_of]
            own = claim_vectors[row_of_claim[_option_text(option)]]
            vector = TEXT_WEIGHT * own
            if voices:
                vector = vector + np.mean(voices, axis=0)
            likelihood = VOICES_EXPONENT * np.log(VOICES_AT_LEAST + len(option.voices))
            said_before = sum(
                weight * max((float(claim_vectors[row_of_claim[text]] @ own) for text in entry.claims), default=0.0)
                for weight, entry in zip(weights, choice.history, strict=True)
            )
            similarity = float(vector @ taste) + CLAIM_WEIGHT * said_before
            logits.append(similarity / SIMILARITY_TEMPERATURE + likelihood)
        exponents = np.exp(np.array(logits) - max(logits))
        verdicts.append(Verdict(choice, tuple(map(float, exponents / exponents.sum())), "similarity"))
    return verdicts


def reviews_to_read(choices: Iterable[Choice]) -> set[str]:
    """Ids of the reviews whose texts `judge_by_similarity` reads."""
    found: set[str] = set()
    for choice in choices:
        for entry in choice.history:
            found.update((entry.review_id, *entry.kin[:MAX_VOICES]))
        for option in choice.options:
            found.update(option.voices[:MAX_VOICES])
    return found


def _review_vectors(choices: Sequence[Choice], reviews: Mapping[str, str], embed: Embed) -> dict[str, np.ndarray]:
    said = {review_id: [piece.text for piece in sentences(text)][:MAX_SENTENCES] for review_id, text in reviews.items()}
    for choice in choices:
        for entry in choice.history:
            if not said.get(entry.review_id):
                said[entry.review_id] = [interaction_text(entry.title, entry.summary, entry.aspects)]
    ids = sorted(review_id for review_id, found in said.items() if found)
    counts = [len(said[review_id]) for review_id in ids]
    vectors = embed([sentence for review_id in ids for sentence in said[review_id]])
    means = np.add.reduceat(vectors, np.cumsum([0, *counts[:-1]]), axis=0) / np.array(counts)[:, None]
    return dict(zip(ids, _directions(means), strict=True))


def _past_vector(entry: PastInteraction, vector_of: Mapping[str, np.ndarray]) -> np.ndarray:
    own = vector_of[entry.review_id]
    kin = [vector_of[review_id] for review_id in entry.kin[:MAX_VOICES] if review_id in vector_of]
    if not kin:
        return own
    return (1 - KIN_SHARE) * own + KIN_SHARE * _unit(np.mean(kin, axis=0)[None])[0]


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors, (n, d), of what sets each apart from the mean of all."""
    return _unit(vectors - vectors.sum(axis=0) / (len(vectors) + TEXTS_FOR_MEAN))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _option_text(option: Option) -> str:
    """Its name and what it looks for. What follows are quotes, and one may be the user's own."""
    return claim(option.name, option.description)
