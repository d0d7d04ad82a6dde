"""Training pairs out of the warehouse, with their texts.

Belongs here: which alignment pairs are trained on, and what identifies a training. Does not belong here: judging
(`alignment/`), wording (`texts.py`), the training itself (`training.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text
from persona4rec_pipeline.encoder.training import TrainingPair
from persona4rec_pipeline.settings import AlignmentSettings, EncoderSettings
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the same pairs and settings would now give another model.
TRAINING_VERSION = "1"
# Settings that do not change the trained model.
_NOT_OF_TRAINING = {"max_history", "encode_batch_size"}
# Entropy from which a pair is left out. A weight of 0, or nearly, would be a division by nothing where all are flat.
_FLAT_FROM = {"keep": 2.0, "weigh": 0.999}

_PAIRS = """
SELECT pairs.user_id, pairs.item_id, pairs.probability, coalesce(pairs.entropy, 0) AS entropy,
       pairs.history_review_ids[1:$history] AS history,
       personas.name, personas.description, personas.preference_rationale
FROM alignment_pairs AS pairs JOIN personas USING (catalog, item_id, persona_id)
WHERE len(pairs.history_review_ids) > 0 AND coalesce(pairs.entropy, 0) < $flat_from
ORDER BY pairs.reviewed_at DESC, pairs.catalog, pairs.review_id
LIMIT $pairs
"""

# Train interactions alone: whatever a pair's history says, a held-out review never reaches the encoder.
_TEXTS = f"""
SELECT reviews.review_id, coalesce(item_summaries.title, ''), coalesce(item_summaries.summary, ''),
       {", ".join(f"review_aspects.{slot}" for slot in ASPECT_SLOTS)}
FROM reviews
JOIN splits ON splits.catalog = reviews.catalog AND splits.review_id = reviews.review_id AND splits.split = 'train'
LEFT JOIN review_aspects ON review_aspects.catalog = reviews.catalog AND review_aspects.review_id = reviews.review_id
LEFT JOIN item_summaries ON item_summaries.catalog = reviews.catalog AND item_summaries.item_id = reviews.item_id
WHERE reviews.review_id IN (SELECT unnest(history) FROM ({_PAIRS}))
"""


def read_training_pairs(
    warehouse: Database, settings: EncoderSettings, alignment: AlignmentSettings
) -> list[TrainingPair]:
    """The most recent `settings.max_training_pairs` alignment pairs of all catalogues, most recent first.

    A profile holds at most `settings.training_history` interactions. Pairs whose persona no longer exists, and pairs
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
        text_rows = connection.execute(_TEXTS, limits).fetchall()
    text_of = {
        review_id: interaction_text(title, summary, dict(zip(ASPECT_SLOTS, slots, strict=True)))
        for review_id, title, summary, *slots in text_rows
    }
    pairs = []
    for user_id, item_id, probability, entropy, history, name, description, rationale in pair_rows:
        texts = tuple(text_of[review_id] for review_id in history if text_of.get(review_id))
        if texts:
            persona = persona_text(name, description, rationale)
            weight = 1 - entropy if alignment.flat_pairs == "weigh" else 1.0
            pairs.append(TrainingPair(user_id, item_id, texts, persona, probability, weight))
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
