"""The held-out panel: what its users chose, what they were proposed, and how vectors order that.

Belongs here: slates, histories and personas read from the warehouse, their scores, and the ranks that follow. Does not
belong here: figures from ranks (`metrics.py`), which rows are compared (`report.py`, `contest.py`), profile and score
themselves (`index/scoring.py`), the wording of texts (`encoder/texts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text, summary_text
from persona4rec_pipeline.evaluation.candidates import CandidateList
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.build import HISTORIES, POSITIVE_TRAIN
from persona4rec_pipeline.index.files import POLARITY
from persona4rec_pipeline.personas.persona import Persona
from persona4rec_pipeline.settings import EncoderSettings
from persona4rec_pipeline.warehouse.database import Database


class TextEncoder(Protocol):
    """What is needed of an encoder: unit vectors float32 (n, d) of n texts, and which encoder it is."""

    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Slate:
    """What is ordered: the candidates of one generator for n users with one target each.

    users, targets: n ids and item keys. keys: n lists of item keys, best first, at most `depth` long. scores: float64
    (n, depth), the generator's, -inf behind the end of a shorter list. interactions: int64 (n,), positive train
    interactions of each user.
    """

    users: Sequence[str]
    targets: Sequence[str]
    keys: Sequence[Sequence[str]]
    scores: np.ndarray
    interactions: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Candidates of each user, int64 (n,)."""
        return np.array([len(found) for found in self.keys], np.int64)

    @cached_property
    def places(self) -> np.ndarray:
        """Place of each target among its user's candidates, int64 (n,), from 0; -1 where it is not among them."""
        return np.array(
            [
                found.index(target) if target in found else -1
                for found, target in zip(self.keys, self.targets, strict=True)
            ],
            np.int64,
        )

    def first(self, depth: int) -> Slate:
        """The same with the first `depth` candidates alone."""
        return replace(self, keys=[found[:depth] for found in self.keys], scores=self.scores[:, :depth])


def target_ranks(slate: Slate, scores: np.ndarray) -> np.ndarray:
    """Rank of each user's target, int64 (n,), when candidates are ordered by `scores` (n, depth); 0 for a miss.

    Higher is better, equal ones stay in the order given, and NaN keeps its place, all as in `scoring.order_candidates`.
    """
    ranks = np.zeros(len(slate.users), np.int64)
    hits = np.flatnonzero(slate.places >= 0)
    found, places = scores[hits], slate.places[hits]
    own = found[np.arange(len(hits)), places][:, None]
    earlier = np.arange(scores.shape[1]) < places[:, None]
    ranks[hits] = 1 + (found > own).sum(axis=1) + ((found == own) & earlier).sum(axis=1)
    for row in hits[np.isnan(found).any(axis=1)]:
        order = scoring.order_candidates(scores[row, : slate.lengths[row]])
        ranks[row] = 1 + np.flatnonzero(order == slate.places[row])[0]
    return ranks


def top_keys(slate: Slate, scores: np.ndarray, k: int) -> list[list[str]]:
    """The first k keys of each user, ordered by `scores` (n, depth)."""
    return [
        [found[place] for place in scoring.order_candidates(row[: len(found)])[:k]]
        for found, row in zip(slate.keys, scores, strict=True)
    ]


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


def read_slate(database: Database, split: str, generator: str, depth: int) -> Slate:
    """The slate of every user with a target in this split; one whom the generator has nothing for has an empty list."""
    targets = read_targets(database, split)
    candidates = read_candidates(database, split, generator, depth)
    counts = dict(database.rows(f"SELECT user_id, count(*) FROM ({POSITIVE_TRAIN}) GROUP BY 1"))
    scores = np.full((len(targets), depth), scoring.NO_SCORE)
    for row, user in enumerate(targets):
        if user in candidates:
            scores[row, : len(candidates[user].keys)] = candidates[user].scores
    return Slate(
        users=list(targets),
        targets=list(targets.values()),
        keys=[candidates[user].keys if user in candidates else [] for user in targets],
        scores=scores,
        interactions=np.array([counts.get(user, 0) for user in targets], np.int64),
    )


@dataclass(frozen=True)
class History:
    """Interactions that make profiles, those of one user together, most recent first: texts, and times in days."""

    users: np.ndarray
    texts: list[str]
    days: np.ndarray


@dataclass(frozen=True)
class Described:
    """What items are compared by: rows of texts, those of one item together, with its key and the text's polarity."""

    keys: np.ndarray
    texts: list[str]
    polarity: np.ndarray

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Number of each item, in the order of its rows."""
        return {key: row for row, key in enumerate(dict.fromkeys(self.keys))}

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 (items + 1,): item i has the rows offsets[i] to offsets[i + 1]."""
        _, firsts = np.unique(self.keys, return_index=True)
        return np.append(np.sort(firsts), len(self.keys)).astype(np.int64)


def read_history(database: Database, users: Sequence[str], max_history: int) -> History:
    """The interactions that make the profiles of these users; those that say nothing are left out."""
    with database.read() as connection:
        connection.register("panel", pd.DataFrame({"user_id": pd.Series(users, dtype=str)}))
        rows = connection.execute(
            f"""
            SELECT histories.user_id, epoch(reviewed_at) / 86400 AS days, item_summaries.title, summary,
                   {", ".join(ASPECT_SLOTS)}
            FROM ({HISTORIES}) AS histories SEMI JOIN panel USING (user_id)
            JOIN reviews USING (catalog, review_id)
            LEFT JOIN item_summaries ON item_summaries.catalog = histories.catalog
                AND item_summaries.item_id = histories.item_id
            LEFT JOIN review_aspects USING (catalog, review_id)
            ORDER BY histories.user_id, age
            """,
            {"max_history": max_history},
        ).df()
    texts = []
    for row in records(rows):
        title, summary = (row[name] if isinstance(row[name], str) else "" for name in ("title", "summary"))
        aspects = {slot: row[slot] if isinstance(row[slot], str) else None for slot in ASPECT_SLOTS}
        texts.append(interaction_text(title, summary, aspects))
    readable = np.array([bool(text) for text in texts], bool)
    return History(
        users=rows["user_id"].to_numpy(dtype=object)[readable],
        texts=[text for text in texts if text],
        days=rows["days"].to_numpy(np.float64)[readable],
    )


def read_personas(database: Database, keys: Sequence[str], most: int | None = None) -> Described:
    """Appreciative and mixed personas of these items, those that most reviews speak for first; a critical one never makes
    a score.

    An item that has only critical ones is there with one of them, as critical: it is known, and has no score. most: at
    most so many of an item, None for all.
    """
    rows = _of_items(
        database,
        keys,
        """
        SELECT key, name, description, preference_rationale, polarity,
               row_number() OVER (
                   PARTITION BY key ORDER BY polarity = 'critical', len(evidence_review_ids) DESC, persona_id
               ) AS place
        FROM personas JOIN wanted ON wanted.key = catalog || '/' || item_id
        QUALIFY polarity <> 'critical' OR place = 1 ORDER BY key, place
        """,
    )
    if most is not None:
        rows = rows[rows["place"] <= most]
    return Described(
        keys=rows["key"].to_numpy(dtype=object),
        texts=[persona_text(row["name"], row["description"], row["preference_rationale"]) for row in records(rows)],
        polarity=rows["polarity"].map(POLARITY).to_numpy(np.int8),
    )


def describe(personas: Mapping[str, Sequence[Persona]]) -> Described:
    """Personas of items, by key, as `read_personas` has those of the warehouse."""
    rows: list[tuple[str, str, str]] = []
    for key, found in sorted(personas.items()):
        favourable = [persona for persona in found if persona.polarity != "critical"]
        rows += [
            (key, persona_text(persona.name, persona.description, persona.preference_rationale), persona.polarity)
            for persona in favourable or found[:1]
        ]
    return Described(
        keys=np.array([key for key, _, _ in rows], dtype=object),
        texts=[text for _, text, _ in rows],
        polarity=np.array([POLARITY[polarity] for _, _, polarity in rows], np.int8),
    )


def read_summaries(database: Database, keys: Sequence[str]) -> Described:
    """The summaries of these items."""
    rows = _of_items(
        database,
        keys,
        "SELECT key, title, summary FROM item_summaries JOIN wanted ON wanted.key = catalog || '/' || item_id ORDER BY key",
    )
    return Described(
        keys=rows["key"].to_numpy(dtype=object),
        texts=[summary_text(row["title"], row["summary"]) for row in records(rows)],
        polarity=np.ones(len(rows), np.int8),
    )


def profiles(history: History, encoder: TextEncoder, settings: EncoderSettings) -> dict[str, np.ndarray]:
    """User -> profile, float32 (d,), of the users of `history`."""
    if not len(history.users):
        return {}
    users, firsts = np.unique(history.users, return_index=True)
    order = np.argsort(firsts)
    offsets = np.append(firsts[order], len(history.users))
    vectors = encoder.encode(history.texts)
    made = scoring.user_profiles(vectors, offsets, settings.recency_decay, history.days, settings.half_life_days)
    return dict(zip(users[order], made, strict=True))


def profile_scores(
    slate: Slate, profiles: Mapping[str, np.ndarray], described: Described, vectors: np.ndarray
) -> np.ndarray:
    """Scores of a slate's candidates for its users' profiles, float64 (n, depth), -inf behind the end of a list.

    A user without a profile keeps the candidate order: their scores are those of the generator. vectors: float32 (rows of
    `described`, d).
    """
    scores = np.full(slate.scores.shape, scoring.NO_SCORE)
    for row, (user, keys) in enumerate(zip(slate.users, slate.keys, strict=True)):
        profile = profiles.get(user)
        if profile is None:
            scores[row] = slate.scores[row]
        elif len(keys):
            rows = np.array([described.row_of.get(key, -1) for key in keys], np.int64)
            found, _ = scoring.score_candidates(profile, rows, vectors, described.offsets, described.polarity)
            scores[row, : len(keys)] = found
    return scores


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame."""
    return frame.to_dict("records")


def _of_items(database: Database, keys: Sequence[str], query: str) -> pd.DataFrame:
    """Rows of a query over `wanted`, a table of these item keys."""
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(sorted(set(keys)), dtype=str)}))
        return connection.execute(query).df()
