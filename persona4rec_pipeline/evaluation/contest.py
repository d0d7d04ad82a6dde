"""Whether a new encoder is better than the one in use: both order the candidates of the held-out panel.

Belongs here: the comparison. Does not belong here: training, the registry, and what becomes of the winner (`assets.py`).

The users' validation targets decide, so that the figures of the report, on their test targets, stay those of a choice
that never saw them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.blending import learn_blends
from persona4rec_pipeline.evaluation.candidates import read_main_generator
from persona4rec_pipeline.evaluation.panel import (
    Described,
    History,
    Slate,
    TextEncoder,
    profile_scores,
    profiles,
    read_history,
    read_personas,
    read_slate,
    target_ranks,
)
from persona4rec_pipeline.evaluation.significance import bootstrap_interval
from persona4rec_pipeline.index.scoring import Blends
from persona4rec_pipeline.settings import Settings
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
        """Whether the challenger is better beyond noise; else the champion stays, as changing it costs every vector."""
        return self.low > 0

    def __str__(self) -> str:
        return (
            f"NDCG@10 {self.challenger:.4f} against {self.champion:.4f} for {self.users} users of the panel, "
            f"{self.gain:+.4f} ({self.low:+.4f} to {self.high:+.4f})"
        )


@dataclass(frozen=True)
class Arena:
    """What encoders are compared on: targets, the main generator's candidates, histories and personas."""

    slate: Slate
    history: History
    personas: Described
    settings: Settings

    @classmethod
    def read(cls, database: Database, settings: Settings, split: str = SPLIT) -> Arena:
        """Of the panel of the warehouse; without users where nobody has a target in this split."""
        generator = read_main_generator(database, settings.evaluation)
        slate = read_slate(database, split, generator, settings.evaluation.candidates)
        return cls(
            slate,
            read_history(database, slate.users, settings.encoder.max_history),
            read_personas(database, sorted({key for found in slate.keys for key in found})),
            settings,
        )

    def scores(self, encoder: TextEncoder) -> np.ndarray:
        """The candidates' scores by this encoder, float64 (users, candidates)."""
        made = profiles(self.history, encoder, self.settings.encoder)
        return profile_scores(self.slate, made, self.personas, encoder.encode(self.personas.texts))

    def ndcg(self, encoder: TextEncoder) -> np.ndarray:
        """NDCG@10 per user, float64 (users,), of the candidates in the order of this encoder."""
        return metrics.per_user(target_ranks(self.slate, self.scores(encoder)))[METRIC]

    def blends(self, encoder: TextEncoder) -> Blends | None:
        """How candidate order and this encoder's order are best blended; None where nobody can tell."""
        return learn_blends(self.slate, self.scores(encoder)) if self.slate.users else None


def hold_contest(arena: Arena, challenger: TextEncoder, champion: TextEncoder) -> Contest | None:
    """Let both encoders order the candidates of every panel user; None when nobody has a validation target."""
    if not arena.slate.users:
        return None
    theirs, new = arena.ndcg(champion), arena.ndcg(challenger)
    low, high = bootstrap_interval(new - theirs)
    return Contest(len(theirs), float(theirs.mean()), float(new.mean()), float((new - theirs).mean()), low, high)
