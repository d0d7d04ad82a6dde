"""What more training pairs bring, and what the seed does: the same candidates, ordered by encoders trained for that alone.

Belongs here: samples of pairs, the points of the curve, trainings with other seeds. Does not belong here: training
(`encoder/`), whether an encoder is put in use (`contest.py`), drawing (`curves.py`).

A sample holds all pairs of some users, by hash, and a larger one all of a smaller one: a point differs from the one before
by what was added. Nothing is registered, and the encoder of all pairs is the one that is there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from persona4rec_pipeline.encoder.pairs import MIN_PAIRS, TrainingPair, read_training_pairs, training_key
from persona4rec_pipeline.encoder.stored import StoredEncoder
from persona4rec_pipeline.encoder.trials import trial_encoder
from persona4rec_pipeline.evaluation.contest import Arena
from persona4rec_pipeline.evaluation.panel import TextEncoder
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

# Of the users with pairs; none and all are encoders that are there.
SHARES = (0.1, 0.3)


@dataclass(frozen=True)
class LearningPoint:
    """An encoder of this share of the users with pairs. gain_over_untrained: paired by user of the panel."""

    share: float
    pairs: int
    ndcg_at_10: Estimate
    gain_over_untrained: Estimate


@dataclass(frozen=True)
class SeedPoint:
    """An encoder of all pairs, trained with this seed. gain_over_untrained: paired by user of the panel."""

    seed: int
    ndcg_at_10: Estimate
    gain_over_untrained: Estimate


def sample_pairs(pairs: Sequence[TrainingPair], share: float) -> list[TrainingPair]:
    """The pairs of about this share of the users, by hash; a larger share holds all pairs of a smaller one."""

    def place(user_id: str) -> float:
        return int(hashlib.sha256(f"learning/{user_id}".encode()).hexdigest()[:8], 16) / 2**32

    chosen = {user for user in {pair.user_id for pair in pairs} if place(user) < share}
    return [pair for pair in pairs if pair.user_id in chosen]


def learning_curve(
    warehouse: Database,
    settings: Settings,
    base: TextEncoder,
    newest: TextEncoder | None,
    split: str,
    on_log: Callable[[str], None] | None = None,
) -> list[LearningPoint]:
    """NDCG@10 on the panel's targets of `split` of the untrained encoder, of encoders of a part of the pairs, and of the
    newest one; empty where none was trained or nobody is in the panel.

    Encoders are trained only for the method `head`, where the base encoder's vectors are kept, and with
    `evaluation.learning_curve`. A sample of too few pairs is left out.
    """
    if newest is None or newest.fingerprint == base.fingerprint:
        return []
    arena = Arena.read(warehouse, settings, split)
    if not arena.slate.users:
        return []
    pairs = read_training_pairs(warehouse, settings.encoder, settings.alignment)
    found = [(0.0, 0, arena.ndcg(base))]
    if settings.evaluation.learning_curve and _trains_in_seconds(base, settings):
        found += _partly_trained(warehouse, settings, base, pairs, arena, on_log)
    found.append((1.0, len(pairs), arena.ndcg(newest)))
    return [
        LearningPoint(share, count, Estimate.of(ndcg), Estimate.of(ndcg - found[0][2])) for share, count, ndcg in found
    ]


def repeated_seeds(
    warehouse: Database,
    settings: Settings,
    base: TextEncoder,
    newest: TextEncoder | None,
    split: str,
    on_log: Callable[[str], None] | None = None,
) -> list[SeedPoint]:
    """NDCG@10 on the panel's targets of `split` of the newest encoder, and of `evaluation.training_seeds` - 1 others that are
    trained on the same pairs with the seeds that follow; empty where that was not asked for, for other methods than `head`,
    where none was trained, or nobody is in the panel."""
    seeds = range(settings.encoder.seed, settings.encoder.seed + settings.evaluation.training_seeds)
    if newest is None or newest.fingerprint == base.fingerprint or len(seeds) < 2:
        return []
    arena = Arena.read(warehouse, settings, split)
    if not _trains_in_seconds(base, settings) or not arena.slate.users:
        return []
    pairs = read_training_pairs(warehouse, settings.encoder, settings.alignment)
    untrained = arena.ndcg(base)
    folder = settings.home / "staging" / "seeds"
    found = [arena.ndcg(newest)]
    for seed in seeds[1:]:
        chosen = settings.encoder.model_copy(update={"seed": seed})
        scratch = folder / training_key(base.fingerprint, pairs, chosen)
        with trial_encoder(warehouse, base, pairs, chosen, scratch, on_log) as encoder:
            found.append(arena.ndcg(encoder))
    # With what a kill left behind, of pairs that have changed since.
    shutil.rmtree(folder, ignore_errors=True)
    return [
        SeedPoint(seed, Estimate.of(ndcg), Estimate.of(ndcg - untrained))
        for seed, ndcg in zip(seeds, found, strict=True)
    ]


def _trains_in_seconds(base: TextEncoder, settings: Settings) -> TypeGuard[StoredEncoder]:
    return settings.encoder.method == "head" and isinstance(base, StoredEncoder)


def _partly_trained(
    warehouse: Database,
    settings: Settings,
    base: StoredEncoder,
    pairs: Sequence[TrainingPair],
    arena: Arena,
    on_log: Callable[[str], None] | None,
) -> list[tuple[float, int, np.ndarray]]:
    """Share, pairs, and NDCG@10 per user of an encoder of each sample; a training that was killed goes on."""
    folder = settings.home / "staging" / "learning-curve"
    found = []
    for share in SHARES:
        sample = sample_pairs(pairs, share)
        if not MIN_PAIRS <= len(sample) < len(pairs):
            continue
        scratch = folder / training_key(base.fingerprint, sample, settings.encoder)
        with trial_encoder(warehouse, base, sample, settings.encoder, scratch, on_log) as encoder:
            found.append((share, len(sample), arena.ndcg(encoder)))
    # With what a kill left behind, of pairs that have changed since.
    shutil.rmtree(folder, ignore_errors=True)
    return found
