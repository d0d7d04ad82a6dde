"""The tables of vectors: which texts are encoded, and which vectors are kept because their text is the same.

Belongs here: `persona_vectors`, `interaction_vectors` and `item_vectors` of one catalogue. Does not belong here: the wording
(`texts.py`), the model (`embedding.py`), profiles and scores (`index/scoring.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text, text_hash
from persona4rec_pipeline.reviews.posted import note_counted, vectors_may_count
from persona4rec_pipeline.warehouse import Database

# Texts in, float32 (n, d) of unit vectors out, in the same order.
Encode = Callable[[Sequence[str]], np.ndarray]

_PERSONAS = """
SELECT item_id, persona_id, name, description, preference_rationale
FROM personas WHERE catalog = $catalog ORDER BY item_id, persona_id
"""

_ITEMS = "SELECT item_id, title, summary FROM item_summaries WHERE catalog = $catalog ORDER BY item_id"

# A user's profile never needs more than the most recent ones; ties in time are broken as the index breaks them.
_INTERACTIONS = f"""
SELECT reviews.review_id, reviews.user_id, reviews.item_id, reviews.reviewed_at,
       item_summaries.title, item_summaries.summary, {", ".join(f"review_aspects.{slot}" for slot in ASPECT_SLOTS)}
FROM reviews
JOIN splits USING (catalog, review_id)
LEFT JOIN review_aspects USING (catalog, review_id)
LEFT JOIN item_summaries ON item_summaries.catalog = reviews.catalog AND item_summaries.item_id = reviews.item_id
WHERE reviews.catalog = $catalog AND reviews.is_positive AND splits.split = 'train'
QUALIFY row_number() OVER (
    PARTITION BY reviews.user_id ORDER BY reviews.reviewed_at DESC, reviews.item_id, reviews.review_id
) <= $max_history
ORDER BY reviews.review_id
"""


@dataclass(frozen=True)
class VectorCounts:
    """rows: vectors now stored. encoded: rows whose text had no vector yet. kept: rows whose vector was reused.
    removed: rows that were stored and are gone. without_text: rows left out because there is nothing to encode."""

    rows: int
    encoded: int
    kept: int
    removed: int
    without_text: int


def refresh_persona_vectors(warehouse: Database, catalog: str, encoder: str, encode: Encode) -> VectorCounts:
    """Make `persona_vectors` of a catalogue agree with its personas and the encoder of fingerprint `encoder`.

    `encode` is called with all texts, and only if something changed; it remembers those that it has read before
    (`stored.py`). Replaces the partition in one transaction.
    """
    rows = warehouse.frame(_PERSONAS, {"catalog": catalog})
    texts = [persona_text(*fields) for fields in _tuples(rows, ["name", "description", "preference_rationale"])]
    return _refresh(warehouse, "persona_vectors", catalog, rows[["item_id", "persona_id"]], texts, encoder, encode)


def refresh_interaction_vectors(
    warehouse: Database, catalog: str, max_history: int, encoder: str, encode: Encode
) -> VectorCounts:
    """Make `interaction_vectors` of a catalogue agree with its reviews, aspects, summaries, splits and the encoder.

    Only the `max_history` most recent positive train interactions of each user; otherwise as for personas. Then the
    interactions that came in while serving, as far as these rows hold them, are counted (`reviews/posted.py`).
    """
    with warehouse.read() as connection:
        rows = connection.execute(_INTERACTIONS, {"catalog": catalog, "max_history": max_history}).df()
        through = vectors_may_count(connection, catalog)
    texts = [
        interaction_text(title, summary, dict(zip(ASPECT_SLOTS, slots, strict=True)))
        for title, summary, *slots in _tuples(rows, ["title", "summary", *ASPECT_SLOTS])
    ]
    keys = rows[["review_id", "user_id", "item_id", "reviewed_at"]]
    counts = _refresh(warehouse, "interaction_vectors", catalog, keys, texts, encoder, encode)
    note_counted(warehouse, catalog, through)
    return counts


def refresh_item_vectors(warehouse: Database, catalog: str, encoder: str, encode: Encode) -> VectorCounts:
    """Make `item_vectors` of a catalogue agree with its summaries and the encoder: what an interaction with each item says if the
    user says nothing. Otherwise as for personas."""
    rows = warehouse.frame(_ITEMS, {"catalog": catalog})
    texts = [interaction_text(title, summary, {}) for title, summary in _tuples(rows, ["title", "summary"])]
    return _refresh(warehouse, "item_vectors", catalog, rows[["item_id"]], texts, encoder, encode)


def _refresh(
    warehouse: Database,
    table: str,
    catalog: str,
    keys: pd.DataFrame,
    texts: Sequence[str],
    encoder: str,
    encode: Encode,
) -> VectorCounts:
    readable = [row for row, text in enumerate(texts) if text]
    keys = keys.iloc[readable].reset_index(drop=True)
    rows = keys.assign(catalog=catalog, text_hash=[text_hash(texts[row]) for row in readable], encoder=encoder)
    text_of = {digest: texts[row] for digest, row in zip(rows["text_hash"], readable, strict=True)}
    identity = [*keys.columns, "text_hash", "encoder"]
    stored_rows = warehouse.frame(f"SELECT {', '.join(identity)} FROM {table} WHERE catalog = ?", [catalog])
    before, after = set(_tuples(stored_rows, identity)), set(_tuples(rows, identity))
    key_width = len(keys.columns)
    removed = len({row[:key_width] for row in before} - {row[:key_width] for row in after})
    without_text = len(texts) - len(readable)
    if before == after:
        return VectorCounts(len(rows), 0, len(rows), 0, without_text)

    stored = {row[-2] for row in before if row[-1] == encoder}
    missing = [digest for digest in text_of if digest not in stored]
    vectors = encode([texts[row] for row in readable])
    encoded = int(rows["text_hash"].isin(missing).sum())
    warehouse.replace(table, rows.assign(vector=list(vectors)), catalog)
    return VectorCounts(len(rows), encoded, len(rows) - encoded, removed, without_text)


def _tuples(frame: pd.DataFrame, columns: list[str]) -> list[tuple]:
    return list(frame[columns].itertuples(index=False, name=None))
