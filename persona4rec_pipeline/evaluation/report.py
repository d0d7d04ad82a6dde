"""Four rankings of the same candidates, compared on the held-out panel.

Belongs here: which vectors go into which ranking, the table, the JSON and the markdown of the report. Does not belong
here: profile and score (`index/scoring.py`), the wording of texts (`encoder/texts.py`), Dagster, MLflow.

The rows, each on the candidates of the collaborative filter:
- `candidate_order`: as the filter proposed them;
- `item_summary`: profile against the encoded item summary, untrained base encoder: what personas must beat;
- `personas_untrained`: profile against personas, untrained base encoder;
- `personas_trained`: profile against personas, the vectors of the warehouse, made by the champion encoder.
A profile comes from the user's most recent positive train interactions alone. A user without any keeps the candidate
order in every row. Items are named by their keys, `catalog || '/' || item_id`, as in `candidates`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text, summary_text
from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.candidates import SPLITS
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.build import HISTORIES, uniform_fingerprint
from persona4rec_pipeline.index.files import POLARITY
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.warehouse.database import Database

CANDIDATE_ORDER = "candidate_order"
ITEM_SUMMARY = "item_summary"
PERSONAS_UNTRAINED = "personas_untrained"
PERSONAS_TRAINED = "personas_trained"
# The metric by which rankings are compared and drawn.
HEADLINE = "ndcg_at_10"
REPORTED_SPLIT = "test"

logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What is needed of an encoder: unit vectors float32 (n, d) of n texts, and which encoder it is."""

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        low, high = metrics.bootstrap_interval(values)
        return cls(float(values.mean()) if len(values) else 0.0, low, high)

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class RankingResult:
    """One ranking: the rank of each user's target (0: missed) by split; `encoder` is a fingerprint or None."""

    name: str
    encoder: str | None
    ranks: dict[str, np.ndarray] = field(default_factory=dict)

    def estimates(self, split: str) -> dict[str, Estimate]:
        """Every metric of `metrics.per_user` with its interval."""
        return {name: Estimate.of(values) for name, values in metrics.per_user(self.ranks[split]).items()}

    def gain_over(self, other: RankingResult, split: str, metric: str = HEADLINE) -> Estimate:
        """Mean difference to another ranking of the same users, paired by user, so the interval is that of the gain."""
        mine, theirs = metrics.per_user(self.ranks[split]), metrics.per_user(other.ranks[split])
        return Estimate.of(mine[metric] - theirs[metric])


@dataclass(frozen=True)
class Report:
    """All rankings; `users` is the number of users with a target, by split. Without users there are no rankings."""

    rankings: list[RankingResult]
    users: dict[str, int]

    def table(self, split: str = REPORTED_SPLIT) -> pd.DataFrame:
        """The rows of the table `evaluation_report`; empty when nobody has a target in this split."""
        rows = [
            (ranking.name, metric, estimate.value, self.users[split], ranking.encoder)
            for ranking in self.rankings
            if self.users[split]
            for metric, estimate in ranking.estimates(split).items()
        ]
        return pd.DataFrame(rows, columns=["ranking", "metric", "value", "users", "encoder"])

    def markdown(self, split: str = REPORTED_SPLIT, cutoffs: Sequence[int] = (10,)) -> str:
        """A table of the means, the interval of the headline metric, and the gain over the candidate order."""
        if not self.users[split] or not self.rankings:
            return f"No user of the panel has a target in the split {split}."
        shown = [f"{name}_at_{k}" for k in cutoffs for name in metrics.METRICS]
        header = ["ranking", *shown, f"{HEADLINE}, 95 % interval", "gain over candidate order"]
        lines = []
        for ranking in self.rankings:
            estimates = ranking.estimates(split)
            gain = ranking.gain_over(self.rankings[0], split)
            interval = f"{estimates[HEADLINE].low:.4f} to {estimates[HEADLINE].high:.4f}"
            difference = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
            lines.append([ranking.name, *(estimates[name].value for name in shown), interval, difference])
        return f"{markdown_table(header, lines)}\n\n{self.users[split]} users, split {split}."

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: split -> users and rankings -> metric -> value, low, high."""
        return {
            split: {
                "users": self.users[split],
                "rankings": {
                    ranking.name: {
                        "encoder": ranking.encoder,
                        "metrics": {name: vars(estimate) for name, estimate in ranking.estimates(split).items()},
                        f"gain_over_{CANDIDATE_ORDER}": vars(ranking.gain_over(self.rankings[0], split)),
                    }
                    for ranking in self.rankings
                    if self.users[split]
                },
            }
            for split in SPLITS
        }

    def save(self, path: Path) -> None:
        """Write `to_dict` as JSON; a reader sees the old file or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.aside")
        aside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        aside.replace(path)


def evaluate(
    database: Database, base_encoder: Callable[[], TextEncoder], recency_decay: float, max_history: int
) -> Report:
    """Rank the candidates of the warehouse in four ways and compare.

    `base_encoder` loads the untrained encoder; it is called only if there is somebody to evaluate. Encoded with it are
    only the interactions of the panel's users and the items among their candidates. Without panel users the report is
    empty and a warning is logged. Raises IndexNotBuildable when the vectors of the warehouse come from more than one
    encoder.
    """
    targets = {split: read_targets(database, split) for split in SPLITS}
    users = {split: len(found) for split, found in targets.items()}
    if not any(users.values()):
        logger.warning("Nobody is in the evaluation panel, so there is nothing to report; see splits.panel_fraction.")
        return Report([], users)
    candidates = {split: read_candidates(database, split) for split in SPLITS}
    keys = sorted({key for lists in candidates.values() for ranking in lists.values() for key in ranking})
    panel = sorted(set().union(*targets.values()))
    with database.read() as connection:
        champion = uniform_fingerprint(connection, max_history)
    history = _read_history(database, panel, max_history)
    personas = _read_personas(database, keys)
    summaries = _read_summaries(database, keys)
    base = base_encoder()

    trained_profiles = _profiles(history, _stack(history["vector"]), recency_decay)
    if base.fingerprint == champion:
        # Equal fingerprints mean equal vectors for equal texts: what is stored need not be encoded again.
        base_profiles, base_personas = trained_profiles, _stack(personas["vector"])
    else:
        base_profiles = _profiles(
            history, base.encode([_interaction_text(row) for row in _records(history)]), recency_decay
        )
        base_personas = base.encode(
            [persona_text(r["name"], r["description"], r["preference_rationale"]) for r in _records(personas)]
        )
    base_summaries = base.encode([summary_text(row["title"], row["summary"]) for row in _records(summaries)])
    rankings = [
        (CANDIDATE_ORDER, None, candidates),
        (ITEM_SUMMARY, base.fingerprint, _reranked(candidates, base_profiles, summaries, base_summaries)),
        (PERSONAS_UNTRAINED, base.fingerprint, _reranked(candidates, base_profiles, personas, base_personas)),
        (PERSONAS_TRAINED, champion, _reranked(candidates, trained_profiles, personas, _stack(personas["vector"]))),
    ]
    return Report(
        [
            RankingResult(
                name, encoder, {split: metrics.target_ranks(lists[split], targets[split]) for split in SPLITS}
            )
            for name, encoder, lists in rankings
        ],
        users,
    )


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


def read_candidates(database: Database, split: str) -> dict[str, list[str]]:
    """The candidates of each user, best first."""
    lists: dict[str, list[str]] = {}
    for user, key in database.rows(
        "SELECT user_id, item_id FROM candidates WHERE split = ? ORDER BY user_id, rank", [split]
    ):
        lists.setdefault(user, []).append(key)
    return lists


def _read_history(database: Database, users: Sequence[str], max_history: int) -> pd.DataFrame:
    """The interactions that make the profiles of these users, with their texts and vectors, most recent first."""
    with database.read() as connection:
        connection.register("panel", pd.DataFrame({"user_id": pd.Series(users, dtype=str)}))
        return connection.execute(
            f"""
            SELECT histories.user_id, title, summary, {", ".join(ASPECT_SLOTS)}, vector
            FROM ({HISTORIES}) AS histories SEMI JOIN panel USING (user_id)
            LEFT JOIN item_summaries USING (catalog, item_id)
            LEFT JOIN review_aspects USING (catalog, review_id)
            JOIN interaction_vectors USING (catalog, review_id)
            ORDER BY histories.user_id, age
            """,
            {"max_history": max_history},
        ).df()


def _read_personas(database: Database, keys: Sequence[str]) -> pd.DataFrame:
    """Appreciative and mixed personas of these items with their vectors; a critical one never makes a score.

    An item that has only critical ones is there with a row of its own, whose polarity is critical: it is known.
    """
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(keys, dtype=str)}))
        return connection.execute(
            """
            SELECT catalog || '/' || item_id AS key, name, description, preference_rationale, polarity, vector
            FROM personas JOIN persona_vectors USING (catalog, item_id, persona_id)
            JOIN wanted ON wanted.key = catalog || '/' || item_id
            QUALIFY polarity <> 'critical' OR row_number() OVER (
                PARTITION BY catalog, item_id ORDER BY polarity = 'critical', persona_id
            ) = 1
            ORDER BY 1, persona_id
            """
        ).df()


def _read_summaries(database: Database, keys: Sequence[str]) -> pd.DataFrame:
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(keys, dtype=str)}))
        return connection.execute(
            """
            SELECT key, title, summary, 'appreciative' AS polarity
            FROM item_summaries JOIN wanted ON wanted.key = catalog || '/' || item_id ORDER BY key
            """
        ).df()


def _interaction_text(row: Mapping[str, Any]) -> str:
    aspects = {slot: row[slot] if isinstance(row[slot], str) else None for slot in ASPECT_SLOTS}
    title, summary = (row[name] if isinstance(row[name], str) else "" for name in ("title", "summary"))
    return interaction_text(title, summary, aspects)


def _profiles(history: pd.DataFrame, vectors: np.ndarray, recency_decay: float) -> dict[str, np.ndarray]:
    """Profiles of the users of `history`, whose rows of one user stand together, most recent first."""
    if not len(history):
        return {}
    users, firsts = np.unique(history["user_id"].to_numpy(dtype=object), return_index=True)
    order = np.argsort(firsts)
    offsets = np.append(firsts[order], len(history))
    return dict(zip(users[order], scoring.user_profiles(vectors, offsets, recency_decay), strict=True))


def _reranked(
    candidates: Mapping[str, Mapping[str, Sequence[str]]],
    profiles: Mapping[str, np.ndarray],
    described: pd.DataFrame,
    vectors: np.ndarray,
) -> dict[str, dict[str, list[str]]]:
    """Every list of candidates in the order of its user's profile; `described` has the columns key and polarity."""
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


def _stack(vectors: pd.Series) -> np.ndarray:
    return np.stack(vectors.to_list()).astype(np.float32) if len(vectors) else np.empty((0, 0), np.float32)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")
