"""Four rankings of the same candidates, compared on the held-out panel.

Belongs here: which vectors go into which ranking, the table, the JSON and the markdown of the report. Does not belong
here: profile and score (`index/scoring.py`), the wording of texts (`encoder/texts.py`), Dagster, MLflow.

The rows, each on the candidates of the main generator:
- `candidate_order`: as the generator proposed them;
- `item_summary`: profile against the encoded item summary, untrained base encoder: what personas must beat;
- `personas_untrained`: profile against personas, untrained base encoder;
- `personas_trained`: profile against personas, the vectors of the warehouse, made by the champion encoder.
A profile comes from the user's most recent positive train interactions alone. A user without any keeps the candidate
order in every row. Items are named by their keys, `catalog || '/' || item_id`, as in `candidates`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from persona4rec_pipeline.encoder.texts import summary_text
from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.candidates import SPLITS, read_main_generator
from persona4rec_pipeline.evaluation.panel import (
    TextEncoder,
    history_texts,
    keys_of,
    persona_texts,
    profiles,
    read_candidates,
    read_history,
    read_personas,
    read_summaries,
    read_targets,
    records,
    reranked,
    stack,
)
from persona4rec_pipeline.evaluation.significance import bootstrap_interval
from persona4rec_pipeline.index.build import uniform_fingerprint
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_pipeline.warehouse.database import Database

CANDIDATE_ORDER = "candidate_order"
ITEM_SUMMARY = "item_summary"
PERSONAS_UNTRAINED = "personas_untrained"
PERSONAS_TRAINED = "personas_trained"
# The metric by which rankings are compared and drawn.
HEADLINE = "ndcg_at_10"
REPORTED_SPLIT = "test"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        low, high = bootstrap_interval(values)
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
    database: Database,
    base_encoder: Callable[[], TextEncoder],
    recency_decay: float,
    max_history: int,
    evaluation: EvaluationSettings,
) -> Report:
    """Rank the candidates of the main generator, as many as are reranked, in four ways and compare.

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
    generator = read_main_generator(database, evaluation)
    candidates = {
        split: keys_of(read_candidates(database, split, generator, evaluation.candidates)) for split in SPLITS
    }
    keys = sorted({key for lists in candidates.values() for ranking in lists.values() for key in ranking})
    panel = sorted(set().union(*targets.values()))
    with database.read() as connection:
        champion = uniform_fingerprint(connection, max_history)
    history = read_history(database, panel, max_history).dropna(subset=["vector"])
    personas = read_personas(database, keys).dropna(subset=["vector"])
    summaries = read_summaries(database, keys)
    base = base_encoder()

    trained_profiles = profiles(history, stack(history["vector"]), recency_decay)
    if base.fingerprint == champion:
        # Equal fingerprints mean equal vectors for equal texts: what is stored need not be encoded again.
        base_profiles, base_personas = trained_profiles, stack(personas["vector"])
    else:
        base_profiles = profiles(history, base.encode(history_texts(history)), recency_decay)
        base_personas = base.encode(persona_texts(personas))
    base_summaries = base.encode([summary_text(row["title"], row["summary"]) for row in records(summaries)])
    rankings = [
        (CANDIDATE_ORDER, None, candidates),
        (ITEM_SUMMARY, base.fingerprint, reranked(candidates, base_profiles, summaries, base_summaries)),
        (PERSONAS_UNTRAINED, base.fingerprint, reranked(candidates, base_profiles, personas, base_personas)),
        (PERSONAS_TRAINED, champion, reranked(candidates, trained_profiles, personas, stack(personas["vector"]))),
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
