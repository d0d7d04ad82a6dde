"""Whether several profiles per user rank better than one: the panel's targets, ordered by one to three tastes and by recent ones.

    PERSONA4REC_HOME=/tmp/demo python -m benchmarks.tastes

The home must hold a finished run, or be the home of a backtest (`<home>/backtests/...`). Its candidates are ordered by the
encoder that was trained last, for each user with (1) the one profile that is served by default, (2) and (3) the profiles of two and
of three groups of alike interactions (`scoring.taste_profiles`), (4) the profile of the last three interactions, (5) that and the
whole one together. Printed is NDCG@10 with the difference to one profile and its 95 % bootstrap interval, paired by user, on
validation and on test targets: an interval that holds 0 is no difference. `tastes` of a request asks for
(2), (3) or (5). Nothing is changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from persona4rec_pipeline.encoder.stored import registered_encoder
from persona4rec_pipeline.evaluation.candidates import read_main_generator
from persona4rec_pipeline.evaluation.metrics import ndcg
from persona4rec_pipeline.evaluation.panel import (
    profile_scores,
    read_history,
    read_personas,
    read_slate,
    target_ranks,
)
from persona4rec_pipeline.evaluation.significance import bootstrap_interval
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.reader import RECENT
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.tracking import CHALLENGER, Tracking
from persona4rec_pipeline.warehouse import open_warehouse

# Vectors (l, d) and weights (l,) of one user, most recent first, to profiles (t, d).
Profiles = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    settings = load_settings()
    warehouse = open_warehouse(settings)
    tracking = Tracking(settings.mlflow_path)
    registered = tracking.encoder(CHALLENGER) or tracking.champion()
    if registered is None:
        raise SystemExit(f"{settings.home} has no encoder; run `persona4rec run` there first.")
    encoder = registered_encoder(warehouse, settings.encoder, registered)
    generator = read_main_generator(warehouse, settings.evaluation)
    ways: dict[str, Profiles] = {
        "one profile": lambda vectors, weights: scoring.taste_profiles(vectors, weights, 1),
        "two tastes": lambda vectors, weights: scoring.taste_profiles(vectors, weights, 2),
        "three tastes": lambda vectors, weights: scoring.taste_profiles(vectors, weights, 3),
        "recent alone": lambda vectors, weights: scoring.taste_profiles(vectors[:RECENT], weights[:RECENT], 1),
        "recent and whole": lambda vectors, weights: np.concatenate(
            [scoring.taste_profiles(vectors[:n], weights[:n], 1) for n in (RECENT, len(vectors))]
        ),
    }
    for split in ("valid", "test"):
        slate = read_slate(warehouse, split, generator, settings.evaluation.candidates)
        personas = read_personas(warehouse, [key for keys in slate.keys for key in keys])
        vectors = encoder.encode(personas.texts)
        history = read_history(warehouse, slate.users, settings.encoder.max_history)
        said = encoder.encode(history.texts)
        rows = {user: np.flatnonzero(history.users == user) for user in dict.fromkeys(history.users)}
        several = sum(len(own) > 1 for own in rows.values())
        print(
            f"{split}: {len(slate.users):,} users, {len(rows):,} with a profile, {several:,} of several interactions; {generator}"
        )
        kept: np.ndarray | None = None
        for name, way in ways.items():
            profiles = {}
            for user, own in rows.items():
                offsets = np.array([0, len(own)])
                weights = scoring.history_weights(
                    offsets, settings.encoder.recency_decay, history.days[own], settings.encoder.half_life_days
                )
                profiles[user] = way(said[own], weights)
            found = ndcg(target_ranks(slate, profile_scores(slate, profiles, personas, vectors)), 10)
            kept = found if kept is None else kept
            low, high = bootstrap_interval(found - kept)
            print(
                f"{name:>18}: NDCG@10 {found.mean():.4f}, {(found - kept).mean():+.4f} ({low:+.4f} to {high:+.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
