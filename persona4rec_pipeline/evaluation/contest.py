"""Whether a new encoder is better than the one in use: both order the candidates of the held-out panel.

Belongs here: the comparison. Does not belong here: training, the registry, and what becomes of the winner (`assets.py`).

The users' validation targets decide, so that the figures of the report, on their test targets, stay those of a choice
that never saw them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.candidates import read_main_generator
from persona4rec_pipeline.evaluation.panel import (
    TextEncoder,
    history_texts,
    keys_of,
    persona_texts,
    profiles,
    read_candidates,
    read_history,
    read_personas,
    read_targets,
    reranked,
)
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_pipeline.warehouse import Database

SPLIT = "valid"
METRIC = "ndcg_at_10"


@dataclass(frozen=True)
class Contest:
    """Mean NDCG@10 of both encoders over the same users, and how sure the difference is.

    gain: challenger less champion; low, high: its 95 % bootstrap interval, paired by user.
    """

    users: int
    champion: float
    challenger: float
    gain: float
    low: float
    high: float

    @property
    def is_won(self) -> bool:
        """Whether the challenger is better; a tie keeps the champion, as changing it costs every vector."""
        return self.gain > 0

    def __str__(self) -> str:
        return (
            f"NDCG@10 {self.challenger:.4f} against {self.champion:.4f} for {self.users} users of the panel, "
            f"{self.gain:+.4f} ({self.low:+.4f} to {self.high:+.4f})"
        )


def hold_contest(
    database: Database,
    challenger: TextEncoder,
    champion: TextEncoder,
    recency_decay: float,
    max_history: int,
    evaluation: EvaluationSettings,
) -> Contest | None:
    """Let both encoders order the candidates of every panel user, as many of the main generator as are reranked; None
    when nobody has a validation target.

    Encoded are the interactions of these users and the personas of the items among their candidates, by both. What the
    warehouse holds of vectors is not read: they may be of an earlier state.
    """
    targets = read_targets(database, SPLIT)
    if not targets:
        return None
    generator = read_main_generator(database, evaluation)
    candidates = {SPLIT: keys_of(read_candidates(database, SPLIT, generator, evaluation.candidates))}
    history = read_history(database, sorted(targets), max_history)
    personas = read_personas(database, sorted({key for found in candidates[SPLIT].values() for key in found}))

    def ndcg(encoder: TextEncoder) -> np.ndarray:
        made = profiles(history, encoder.encode(history_texts(history)), recency_decay)
        ordered = reranked(candidates, made, personas, encoder.encode(persona_texts(personas)))
        return metrics.per_user(metrics.target_ranks(ordered[SPLIT], targets))[METRIC]

    theirs, new = ndcg(champion), ndcg(challenger)
    low, high = metrics.bootstrap_interval(new - theirs)
    return Contest(len(targets), float(theirs.mean()), float(new.mean()), float((new - theirs).mean()), low, high)
