"""The held-out panel: what its users chose, what they were proposed, and how vectors reorder that.

Belongs here: targets, candidates, histories and personas read from the warehouse, and the lists in the order of a
profile. Does not belong here: figures from ranks (`metrics.py`), which vectors are compared (`report.py`,
`contest.py`), profile and score themselves (`index/scoring.py`), the wording of texts (`encoder/texts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text
from persona4rec_pipeline.evaluation.candidates import CandidateList
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.build import HISTORIES
from persona4rec_pipeline.index.files import POLARITY
from persona4rec_pipeline.warehouse.database import Database


class TextEncoder(Protocol):
    """What is needed of an encoder: unit vectors float32 (n, d) of n texts, and which encoder it is."""

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


def read_targets(database: Database, split: str) -> dict[str, str]:
    """The one target of each user of the panel; the most recent one, should there be several."""
    rows = database.rows(
        """
        SELECT user_id, arg_max(catalog || '/' || item_id, (reviewed_at, catalog, review_id))
        FROM splits JOIN reviews USING (catalog, review_id) WHERE is_target AND split = ? GROUP BY 1 ORDER BY 1
        """,
        [split],
    )
    return dict(rows)


def read_candidates(database: Database, split: str, generator: str, depth: int) -> dict[str, CandidateList]:
    """The first `depth` candidates of each user, best first, as this generator proposed them."""
    rows = database.frame(
        "SELECT user_id, item_id, score FROM candidates WHERE split = ? AND generator = ? AND rank <= ? "
        "ORDER BY user_id, rank",
        [split, generator, depth],
    )
    users, firsts = np.unique(rows["user_id"].to_numpy(dtype=object), return_index=True)
    keys, scores = rows["item_id"].to_list(), rows["score"].to_numpy(np.float64)
    ends = np.append(firsts, len(rows))[1:]
    return {
        user: CandidateList(keys[start:end], scores[start:end])
        for user, start, end in zip(users, firsts, ends, strict=True)
    }


def keys_of(candidates: Mapping[str, CandidateList]) -> dict[str, list[str]]:
    """The keys alone of each user's candidates."""
    return {user: found.keys for user, found in candidates.items()}


def read_history(database: Database, users: Sequence[str], max_history: int) -> pd.DataFrame:
    """The interactions that make the profiles of these users, most recent first: what their texts are made of, and
    their vectors, NULL where there are none yet."""
    with database.read() as connection:
        connection.register("panel", pd.DataFrame({"user_id": pd.Series(users, dtype=str)}))
        return connection.execute(
            f"""
            SELECT histories.user_id, title, summary, {", ".join(ASPECT_SLOTS)}, vector
            FROM ({HISTORIES}) AS histories SEMI JOIN panel USING (user_id)
            LEFT JOIN item_summaries USING (catalog, item_id)
            LEFT JOIN review_aspects USING (catalog, review_id)
            LEFT JOIN interaction_vectors USING (catalog, review_id)
            ORDER BY histories.user_id, age
            """,
            {"max_history": max_history},
        ).df()


def read_personas(database: Database, keys: Sequence[str]) -> pd.DataFrame:
    """Appreciative and mixed personas of these items, and their vectors, NULL where there are none yet; a critical one
    never makes a score.

    An item that has only critical ones is there with a row of its own, whose polarity is critical: it is known.
    """
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(keys, dtype=str)}))
        return connection.execute(
            """
            SELECT catalog || '/' || item_id AS key, name, description, preference_rationale, polarity, vector
            FROM personas LEFT JOIN persona_vectors USING (catalog, item_id, persona_id)
            JOIN wanted ON wanted.key = catalog || '/' || item_id
            QUALIFY polarity <> 'critical' OR row_number() OVER (
                PARTITION BY catalog, item_id ORDER BY polarity = 'critical', persona_id
            ) = 1
            ORDER BY 1, persona_id
            """
        ).df()


def read_summaries(database: Database, keys: Sequence[str]) -> pd.DataFrame:
    """The summaries of these items, in the columns that `reranked` wants."""
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(keys, dtype=str)}))
        return connection.execute(
            """
            SELECT key, title, summary, 'appreciative' AS polarity
            FROM item_summaries JOIN wanted ON wanted.key = catalog || '/' || item_id ORDER BY key
            """
        ).df()


def history_texts(history: pd.DataFrame) -> list[str]:
    """The text of each interaction of `read_history`."""
    texts = []
    for row in records(history):
        title, summary = (row[name] if isinstance(row[name], str) else "" for name in ("title", "summary"))
        aspects = {slot: row[slot] if isinstance(row[slot], str) else None for slot in ASPECT_SLOTS}
        texts.append(interaction_text(title, summary, aspects))
    return texts


def persona_texts(personas: pd.DataFrame) -> list[str]:
    """The text of each persona of `read_personas`."""
    return [persona_text(row["name"], row["description"], row["preference_rationale"]) for row in records(personas)]


def profiles(history: pd.DataFrame, vectors: np.ndarray, recency_decay: float) -> dict[str, np.ndarray]:
    """User -> profile, float32 (d,), of the users of `history`, whose rows of one user stand together, most recent first.

    vectors: float32 (rows of `history`, d), unit length.
    """
    if not len(history):
        return {}
    users, firsts = np.unique(history["user_id"].to_numpy(dtype=object), return_index=True)
    order = np.argsort(firsts)
    offsets = np.append(firsts[order], len(history))
    return dict(zip(users[order], scoring.user_profiles(vectors, offsets, recency_decay), strict=True))


def reranked(
    candidates: Mapping[str, Mapping[str, Sequence[str]]],
    profiles: Mapping[str, np.ndarray],
    described: pd.DataFrame,
    vectors: np.ndarray,
) -> dict[str, dict[str, list[str]]]:
    """Split -> user -> candidates in the order of the user's profile; without a profile they keep their order.

    described: rows with the columns key and polarity, sorted by key; vectors: float32 (rows, d) of these rows.
    """
    keys, firsts = np.unique(described["key"].to_numpy(dtype=object), return_index=True)
    offsets = np.append(firsts, len(described)).astype(np.int64)
    polarity = described["polarity"].map(POLARITY).to_numpy(np.int8)
    row_of = {key: row for row, key in enumerate(keys)}
    ordered: dict[str, dict[str, list[str]]] = {}
    for split, lists in candidates.items():
        ordered[split] = {}
        for user, ranking in lists.items():
            profile = profiles.get(user)
            if profile is None:
                ordered[split][user] = list(ranking)
                continue
            rows = np.array([row_of.get(key, -1) for key in ranking], np.int64)
            places = scoring.rerank(profile, rows, vectors, offsets, polarity).order
            ordered[split][user] = [ranking[place] for place in places]
    return ordered


def stack(vectors: pd.Series) -> np.ndarray:
    """A column of n vectors as float32 (n, d); (0, 0) for none."""
    return np.stack(vectors.to_list()).astype(np.float32) if len(vectors) else np.empty((0, 0), np.float32)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame."""
    return frame.to_dict("records")
