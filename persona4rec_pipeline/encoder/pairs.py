"""Training pairs out of the warehouse, with their texts.

Belongs here: what a pair is, which alignment pairs are trained on, and what identifies a training. Does not belong here:
judging (`alignment/`), wording (`texts.py`), the training itself (`training.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text
from persona4rec_pipeline.settings import AlignmentSettings, EncoderSettings
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the same pairs and settings would now give another model.
TRAINING_VERSION = "2"
# With fewer pairs a fine-tuned encoder would only know its few users by heart.
MIN_PAIRS = 8
# Settings that do not change the trained model.
_NOT_OF_TRAINING = {"max_history", "encode_batch_size"}
# Entropy from which a pair is left out. A weight of 0, or nearly, would be a division by nothing where all are flat.
_FLAT_FROM = {"keep": 2.0, "weigh": 0.999}

_PAIRS = """
SELECT user_id, catalog, item_id, coalesce(entropy, 0) AS entropy, option_ids, option_probabilities,
       history_review_ids[1:$history] AS history
FROM alignment_pairs
WHERE len(history_review_ids) > 0 AND coalesce(entropy, 0) < $flat_from
ORDER BY reviewed_at DESC, catalog, review_id
LIMIT $pairs
"""

_PERSONAS = f"""
SELECT catalog, item_id, persona_id, polarity, name, description, preference_rationale
FROM personas SEMI JOIN ({_PAIRS}) USING (catalog, item_id) ORDER BY catalog, item_id, persona_id
"""

# Train interactions alone: whatever a pair's history says, a held-out review never reaches the encoder.
_TEXTS = f"""
SELECT reviews.review_id, reviews.catalog || '/' || reviews.item_id, epoch(reviews.reviewed_at) / 86400,
       coalesce(item_summaries.title, ''), coalesce(item_summaries.summary, ''),
       {", ".join(f"review_aspects.{slot}" for slot in ASPECT_SLOTS)}
FROM reviews
JOIN splits ON splits.catalog = reviews.catalog AND splits.review_id = reviews.review_id AND splits.split = 'train'
LEFT JOIN review_aspects ON review_aspects.catalog = reviews.catalog AND review_aspects.review_id = reviews.review_id
LEFT JOIN item_summaries ON item_summaries.catalog = reviews.catalog AND item_summaries.item_id = reviews.item_id
WHERE reviews.review_id IN (SELECT unnest(history) FROM ({_PAIRS}))
"""


@dataclass(frozen=True)
class TrainingPair:
    """One past choice: who chose what, after which interactions, and the personas that may explain it.

    item: `catalog/item_id`. history_texts: of `texts.interaction_text`, most recent first, at least one; history_items
    and history_days, their items and times (days since 1970), may be left out. options: of `texts.persona_text`, at least
    one; probabilities: the judge's, of each option. critical: texts of the item's critical personas. weight: how much the
    pair counts in the loss, relative to the others; above 0.
    """

    user_id: str
    item: str
    history_texts: tuple[str, ...]
    options: tuple[str, ...]
    probabilities: tuple[float, ...]
    history_items: tuple[str, ...] = ()
    history_days: tuple[float, ...] = ()
    critical: tuple[str, ...] = ()
    weight: float = 1.0


def read_training_pairs(
    warehouse: Database, settings: EncoderSettings, alignment: AlignmentSettings
) -> list[TrainingPair]:
    """The most recent `settings.max_training_pairs` alignment pairs of all catalogues, most recent first.

    A profile holds at most `settings.training_history` interactions. Pairs without a persona that still exists, and pairs
    without a readable train interaction in their history, are left out; so are those that `alignment.flat_pairs` drops
    or would give no weight.
    """
    limits = {
        "history": settings.training_history,
        "pairs": settings.max_training_pairs,
        "flat_from": _FLAT_FROM.get(alignment.flat_pairs, alignment.flat_entropy),
    }
    with warehouse.read() as connection:
        pair_rows = connection.execute(_PAIRS, limits).fetchall()
        persona_rows = connection.execute(_PERSONAS, limits).fetchall()
        text_rows = connection.execute(_TEXTS, limits).fetchall()
    persona_of: dict[tuple[str, str, str], str] = {}
    critical: dict[tuple[str, str], list[str]] = {}
    for catalog, item_id, persona_id, polarity, *words in persona_rows:
        if polarity == "critical":
            critical.setdefault((catalog, item_id), []).append(persona_text(*words))
        else:
            persona_of[catalog, item_id, persona_id] = persona_text(*words)
    past = {
        review_id: (interaction_text(title, summary, dict(zip(ASPECT_SLOTS, slots, strict=True))), item, days)
        for review_id, item, days, title, summary, *slots in text_rows
    }
    pairs = []
    for user_id, catalog, item_id, entropy, option_ids, probabilities, history in pair_rows:
        read = [past[review_id] for review_id in history if review_id in past and past[review_id][0]]
        options = [
            (persona_of[catalog, item_id, option], probability)
            for option, probability in zip(option_ids, probabilities, strict=True)
            if (catalog, item_id, option) in persona_of
        ]
        if read and options:
            texts, items, days = zip(*read, strict=True)
            option_texts, option_probabilities = zip(*options, strict=True)
            pairs.append(
                TrainingPair(
                    user_id,
                    f"{catalog}/{item_id}",
                    texts,
                    option_texts,
                    option_probabilities,
                    items,
                    days,
                    tuple(critical.get((catalog, item_id), ())),
                    1 - entropy if alignment.flat_pairs == "weigh" else 1.0,
                )
            )
    return pairs


def pairs_fingerprint(pairs: Sequence[TrainingPair]) -> str:
    """16 hexadecimal digits that change with any pair or with their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(astuple(pair)).encode())
    return digest.hexdigest()[:16]


def training_key(base_fingerprint: str, pairs: Sequence[TrainingPair], settings: EncoderSettings) -> str:
    """16 hexadecimal digits of all that decides the trained model: base, pairs, settings and `TRAINING_VERSION`."""
    parts = [TRAINING_VERSION, base_fingerprint, pairs_fingerprint(pairs), training_settings(settings)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def training_settings(settings: EncoderSettings) -> dict[str, str | int | float]:
    """The settings that decide the trained model."""
    return settings.model_dump(exclude=_NOT_OF_TRAINING)
