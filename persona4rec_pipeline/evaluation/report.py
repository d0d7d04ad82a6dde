"""Rankings of the same candidates, compared on the held-out panel.

Belongs here: which scores go into which row, the tables, the JSON and the markdown of the report. Does not belong here:
profile, score and blend (`index/scoring.py`), the wording of texts (`encoder/texts.py`), pictures, Dagster, MLflow.

The rows, each on the candidates of one generator:
- `candidate_order`: as the generator proposed them; `random`: in an order drawn by user and item;
- `item_summary`: profile against the item's summary, base encoder: what personas must beat;
- `single_persona`: profile against the one persona that most reviews speak for, newest encoder;
- `personas_untrained`, `personas_trained`: profile against personas, base encoder and the one trained last;
- `blend`: candidate order and personas of the encoder in use; its weights are learned on validation targets.
- `extractive_personas`, where asked for and a model writes the served ones: those of the rules, newest encoder;
- `llm_...`, where asked for, on a sample of the users and in a table of their own: language-model rerankers (`peers.py`).
A profile comes from the user's most recent positive train interactions alone. A user without any keeps the candidate
order in every row but `random`. Items are named by their keys, `catalog || '/' || item_id`, as in `candidates`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.ablations import HistoryBin, PersonaLimits, gains_by_history, limit_personas
from persona4rec_pipeline.evaluation.blending import blend_scores, learn_blend
from persona4rec_pipeline.evaluation.candidates import GENERATORS, SPLITS, read_main_generator
from persona4rec_pipeline.evaluation.exposure import PADDING, Exposure, exposure
from persona4rec_pipeline.evaluation.learning import LearningPoint, SeedPoint
from persona4rec_pipeline.evaluation.panel import (
    Described,
    Slate,
    TextEncoder,
    profile_scores,
    profiles,
    read_history,
    read_personas,
    read_slate,
    read_summaries,
    target_ranks,
    top_keys,
)
from persona4rec_pipeline.evaluation.peers import Cost, Peer, sample_users
from persona4rec_pipeline.evaluation.segments import segments
from persona4rec_pipeline.evaluation.significance import Estimate, holm, permutation_test
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.build import POSITIVE_TRAIN
from persona4rec_pipeline.index.scoring import Blend
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse.database import Database

CANDIDATE_ORDER = "candidate_order"
RANDOM = "random"
ITEM_SUMMARY = "item_summary"
SINGLE_PERSONA = "single_persona"
EXTRACTIVE_PERSONAS = "extractive_personas"
PERSONAS_UNTRAINED = "personas_untrained"
PERSONAS_TRAINED = "personas_trained"
BLEND = "blend"
# Each is held against the one before it, besides the candidate order: what each step of the method adds.
STEPS = (CANDIDATE_ORDER, ITEM_SUMMARY, PERSONAS_UNTRAINED, PERSONAS_TRAINED, BLEND)
# The metric by which rankings are compared and drawn.
HEADLINE = "ndcg_at_10"
REPORTED_SPLIT = "test"
# Places of a list that count for exposure.
SHOWN = 10
# Requests of which the time is taken.
TIMED_REQUESTS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankingResult:
    """One ranking: the rank of each user's target (0: missed) by split, what it exposes (test targets), and which encoder
    made it, None for none."""

    name: str
    encoder: str | None
    ranks: Mapping[str, np.ndarray]
    exposure: Exposure | None = None

    def estimates(self, split: str) -> dict[str, Estimate]:
        """Every metric of `metrics.per_user` with its interval."""
        return {name: Estimate.of(values) for name, values in metrics.per_user(self.ranks[split]).items()}

    def headline(self, split: str) -> np.ndarray:
        """The headline metric per user, float64 (users,)."""
        return metrics.per_user(self.ranks[split])[HEADLINE]

    def gain_over(self, other: RankingResult, split: str, users: np.ndarray | None = None) -> Estimate:
        """Mean difference of the headline metric to another ranking of the same users, paired by user, so the interval is
        that of the gain. users: bool (users,), those that count; default: all."""
        gains = self.headline(split) - other.headline(split)
        return Estimate.of(gains if users is None else gains[users])


@dataclass(frozen=True)
class Table:
    """The rankings of one generator's first `depth` candidates.

    users: users with a target, by split. recall: share of targets among the candidates, by split. blend: the learned
    weights. segments: name -> bool (users,), of the reported split.
    """

    generator: str
    depth: int
    users: Mapping[str, int]
    recall: Mapping[str, float]
    rankings: Sequence[RankingResult]
    blend: Blend
    segments: Mapping[str, np.ndarray]

    @cached_property
    def of(self) -> dict[str, RankingResult]:
        """The rankings by name."""
        return {ranking.name: ranking for ranking in self.rankings}

    def p_values(self, split: str = REPORTED_SPLIT) -> dict[str, float]:
        """Ranking -> p of a gain or loss over the candidate order as large as this by chance: paired permutation test,
        corrected for the number of rankings (Holm)."""
        first, *others = self.rankings
        found = [permutation_test(other.headline(split) - first.headline(split)) for other in others]
        return dict(zip([other.name for other in others], map(float, holm(np.array(found))), strict=True))

    def steps(self, split: str = REPORTED_SPLIT) -> dict[str, Estimate]:
        """What each step of the method adds to the one before it: `personas_trained over personas_untrained` -> gain."""
        names = [name for name in STEPS if name in self.of]
        return {
            f"{later} over {earlier}": self.of[later].gain_over(self.of[earlier], split)
            for earlier, later in itertools.pairwise(names)
        }

    def markdown(self, split: str = REPORTED_SPLIT, cutoffs: Sequence[int] = (10,)) -> str:
        """The means, the interval of the headline metric, the gain over the candidate order and its p."""
        shown = [f"{name}_at_{k}" for k in cutoffs for name in metrics.METRICS]
        header = ["ranking", *shown, f"{HEADLINE}, 95 % interval", "gain over candidate order", "p"]
        p_values = self.p_values(split)
        lines: list[list[Any]] = []
        for ranking in self.rankings:
            estimates = ranking.estimates(split)
            gain = ranking.gain_over(self.rankings[0], split)
            interval = f"{estimates[HEADLINE].low:.4f} to {estimates[HEADLINE].high:.4f}"
            difference = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
            p = p_values.get(ranking.name)
            lines.append(
                [
                    ranking.name,
                    *(estimates[name].value for name in shown),
                    interval,
                    difference,
                    "" if p is None else round(p, 4),
                ]
            )
        users, recall = self.users[split], self.recall[split]
        told = f"{users} users, split {split}; {self.generator}, {self.depth} candidates, {recall:.3f} of the targets among them."
        return f"{markdown_table(header, lines)}\n\n{told}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        split = REPORTED_SPLIT
        p_values = self.p_values()
        return {
            "generator": self.generator,
            "depth": self.depth,
            "users": dict(self.users),
            "recall": dict(self.recall),
            "blend": asdict(self.blend),
            "rankings": {
                ranking.name: {
                    "encoder": ranking.encoder,
                    "metrics": {
                        where: {name: vars(estimate) for name, estimate in ranking.estimates(where).items()}
                        for where in ranking.ranks
                    },
                    "gain_over_candidate_order": vars(ranking.gain_over(self.rankings[0], split)),
                    "p": p_values.get(ranking.name),
                    "exposure": None if ranking.exposure is None else asdict(ranking.exposure),
                    "segments": {
                        name: {
                            "users": int(users.sum()),
                            HEADLINE: vars(Estimate.of(ranking.headline(split)[users])),
                            "gain_over_candidate_order": vars(ranking.gain_over(self.rankings[0], split, users)),
                        }
                        for name, users in self.segments.items()
                    },
                }
                for ranking in self.rankings
            },
            "steps": {name: vars(estimate) for name, estimate in self.steps().items()},
        }


@dataclass(frozen=True)
class Report:
    """All tables, that of the main generator and the usual depth first; without a panel there are none.

    users: users with a target, by split. costs: what a request takes with a row of the first table, or of `peers`. peers:
    all rows of the first table and the language-model rerankers on a sample of its users; None where none was asked.
    model: the one that they ran on. history, personas_per_item, learning: curves of the first table (`ablations.py`,
    `learning.py`), seeds: the same training with other seeds (`learning.py`); None and empty where there is none.
    """

    tables: Sequence[Table]
    users: Mapping[str, int]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    peers: Table | None = None
    model: str | None = None
    history: Sequence[HistoryBin] = ()
    personas_per_item: PersonaLimits | None = None
    learning: Sequence[LearningPoint] = ()
    seeds: Sequence[SeedPoint] = ()

    def seed_spread(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1) of the NDCG@10 of `seeds`, of which there are at least two."""
        found = [point.ndcg_at_10.value for point in self.seeds]
        return float(np.mean(found)), float(np.std(found, ddof=1))

    def rows(self) -> pd.DataFrame:
        """The rows of the table `evaluation_report`."""
        rows = [
            (table.generator, table.depth, ranking.name, metric, *vars(estimate).values(), users, ranking.encoder)
            for table in self.tables
            for users in [table.users[REPORTED_SPLIT]]
            for ranking in table.rankings
            for metric, estimate in ranking.estimates(REPORTED_SPLIT).items()
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def markdown(self, split: str = REPORTED_SPLIT, cutoffs: Sequence[int] = (10,)) -> str:
        """The first table, or why there is none."""
        if not self.tables or not self.users[split]:
            return f"No user of the panel has a target in the split {split}."
        return self.tables[0].markdown(split, cutoffs)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "users": dict(self.users),
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "tables": [table.to_dict() for table in self.tables],
            "rerankers": None if self.peers is None else {"model": self.model, **self.peers.to_dict()},
            "gain_by_history": [asdict(found) for found in self.history],
            "personas_per_item": None if self.personas_per_item is None else asdict(self.personas_per_item),
            "learning_curve": [asdict(point) for point in self.learning],
            "training_seeds": [asdict(point) for point in self.seeds],
        }

    def save(self, path: Path) -> None:
        """Write `to_dict` as JSON; a reader sees the old file or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.aside")
        aside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        aside.replace(path)


COLUMNS = ["generator", "depth", "ranking", "metric", "value", "low", "high", "users", "encoder"]


@dataclass(frozen=True)
class Encoders:
    """base: untrained. newest: trained last, None if none was. used: the champion."""

    base: TextEncoder
    newest: TextEncoder | None
    used: TextEncoder


AskPeers = Callable[[Slate], Sequence[Peer]]


def evaluate(
    database: Database,
    encoders: Encoders,
    settings: Settings,
    extractive: Callable[[Sequence[str]], Described] | None = None,
    ask_peers: AskPeers | None = None,
) -> Report:
    """Rank the candidates of the warehouse in every way and compare.

    extractive: makes the extractive personas of items, given by their keys. ask_peers: lets language models rerank a slate.

    Every generator with candidates gets a table for the first `evaluation.candidates` and one for `evaluation.depth`.
    Encoded are only the interactions of the panel's users and the items among their candidates. Without panel users the
    report is empty and a warning is logged.
    """
    generators = [name for (name,) in database.rows("SELECT DISTINCT generator FROM candidates")]
    depths = sorted({settings.evaluation.candidates, settings.evaluation.depth})
    users = dict(database.rows("SELECT split, count(DISTINCT user_id) FROM candidates GROUP BY 1"))
    users = {split: users.get(split, 0) for split in SPLITS}
    if not all(users.values()):
        logger.warning("Nobody is in the evaluation panel, so there is nothing to report; see splits.panel_fraction.")
        return Report([], users)
    slates = {
        (name, split): read_slate(database, split, name, depths[-1])
        for name in sorted(generators, key=[*GENERATORS, *generators].index)
        for split in SPLITS
    }
    main = read_main_generator(database, settings.evaluation)
    rows = _rows(database, encoders, settings, list(slates.values()))
    if extractive is not None:
        of_main = {key for split in SPLITS for found in slates[main, split].keys for key in found}
        personas, like = extractive(sorted(of_main)), rows[SINGLE_PERSONA]
        rows[EXTRACTIVE_PERSONAS] = replace(like, described=personas, vectors=like.encoder.encode(personas.texts))
    popularity = _popularity(database)
    tables = [
        _table(name, depth, {split: slates[name, split].first(depth) for split in SPLITS}, rows, encoders, popularity)
        for name in sorted({name for name, _ in slates}, key=lambda name: (name != main, name))
        for depth in depths
    ]
    first = slates[main, REPORTED_SPLIT].first(settings.evaluation.candidates)
    [table] = [found for found in tables if (found.generator, found.depth) == (main, settings.evaluation.candidates)]
    costs = {
        name: Cost(_milliseconds(first, row, table.blend if name == BLEND else None)) for name, row in rows.items()
    }
    report = Report(tables, users, costs, **_curves(database, table, first, rows[SINGLE_PERSONA]))
    if ask_peers is None:
        return report
    sampled = sample_users(first, settings.evaluation.reranked_users)
    peers = ask_peers(_of_users(first, sampled))
    costs |= {peer.name: peer.cost for peer in peers}
    peer_table = _peer_table(table, sampled, peers)
    return replace(report, costs=costs, peers=peer_table, model=settings.generation.model)


@dataclass(frozen=True)
class _Row:
    """What a row is scored by; `vectors` float32 (rows of `described`, d)."""

    encoder: TextEncoder
    profiles: Mapping[str, np.ndarray]
    described: Described
    vectors: np.ndarray

    def scores(self, slate: Slate) -> np.ndarray:
        return profile_scores(slate, self.profiles, self.described, self.vectors)


def _rows(database: Database, encoders: Encoders, settings: Settings, slates: Sequence[Slate]) -> dict[str, _Row]:
    keys = sorted({key for slate in slates for found in slate.keys for key in found})
    panel = sorted({user for slate in slates for user in slate.users})
    history = read_history(database, panel, settings.encoder.max_history)
    personas = read_personas(database, keys)
    newest = encoders.newest or encoders.base
    made = {
        encoder.fingerprint: (encoder, profiles(history, encoder, settings.encoder))
        for encoder in (encoders.base, newest, encoders.used)
    }
    described = {
        ITEM_SUMMARY: (encoders.base, read_summaries(database, keys)),
        SINGLE_PERSONA: (newest, read_personas(database, keys, most=1)),
        PERSONAS_UNTRAINED: (encoders.base, personas),
        PERSONAS_TRAINED: (newest, personas),
        BLEND: (encoders.used, personas),
    }
    if encoders.newest is None:
        del described[PERSONAS_TRAINED]
    return {
        name: _Row(encoder, made[encoder.fingerprint][1], items, encoder.encode(items.texts))
        for name, (encoder, items) in described.items()
    }


def _curves(database: Database, table: Table, slate: Slate, row: _Row) -> dict[str, Any]:
    """The curves of a report that need no training; `slate` is the one of the table, `row` that of single personas."""
    before = table.of[CANDIDATE_ORDER].headline(REPORTED_SPLIT)
    names = [name for name in (BLEND, PERSONAS_TRAINED) if name in table.of]
    gains = {name: table.of[name].headline(REPORTED_SPLIT) - before for name in names}
    return {
        "history": gains_by_history(slate.interactions, gains),
        "personas_per_item": limit_personas(database, slate, row.profiles, row.encoder),
    }


def _table(
    generator: str,
    depth: int,
    slates: Mapping[str, Slate],
    rows: Mapping[str, _Row],
    encoders: Encoders,
    popularity: pd.Series,
) -> Table:
    scores: dict[str, dict[str, np.ndarray]] = {
        CANDIDATE_ORDER: {split: slate.scores for split, slate in slates.items()},
        RANDOM: {split: _random_scores(slate) for split, slate in slates.items()},
        **{name: {split: row.scores(slate) for split, slate in slates.items()} for name, row in rows.items()},
    }
    blend = learn_blend(slates["valid"], scores[BLEND]["valid"])
    scores[BLEND] = {split: blend_scores(blend, slate, scores[BLEND][split]) for split, slate in slates.items()}
    slate = slates[REPORTED_SPLIT]
    summaries = rows[ITEM_SUMMARY]
    rankings = [
        RankingResult(
            name,
            rows[name].encoder.fingerprint if name in rows else None,
            {split: target_ranks(slates[split], found[split]) for split in SPLITS},
            _exposure(slate, found[REPORTED_SPLIT], popularity, summaries),
        )
        for name, found in scores.items()
    ]
    of_targets = popularity.reindex(slate.targets).fillna(0).to_numpy(np.int64)
    return Table(
        generator,
        depth,
        {split: len(found.users) for split, found in slates.items()},
        {split: float((found.places >= 0).mean()) for split, found in slates.items()},
        rankings,
        blend,
        segments(slate.interactions, of_targets, popularity.to_numpy()),
    )


def _random_scores(slate: Slate) -> np.ndarray:
    """An order that is the same in every run."""
    scores = np.full(slate.scores.shape, scoring.NO_SCORE)
    for row, (user, keys) in enumerate(zip(slate.users, slate.keys, strict=True)):
        seed = int(hashlib.sha256(user.encode()).hexdigest()[:8], 16)
        scores[row, : len(keys)] = np.random.default_rng(seed).random(len(keys))
    return scores


def _popularity(database: Database) -> pd.Series:
    """Positive train interactions of every item of the catalogues, by key."""
    rows = database.rows(
        f"""
        WITH counts AS (SELECT catalog, item_id, count(*) AS found FROM ({POSITIVE_TRAIN}) GROUP BY ALL)
        SELECT catalog || '/' || item_id, coalesce(found, 0) FROM items FULL JOIN counts USING (catalog, item_id) ORDER BY 1
        """
    )
    return pd.Series(dict(rows), dtype=np.int64)


def _exposure(slate: Slate, scores: np.ndarray, popularity: pd.Series, summaries: _Row) -> Exposure:
    number = {key: place for place, key in enumerate(popularity.index)}
    lists = np.full((len(slate.users), SHOWN), PADDING, np.int64)
    for row, keys in enumerate(top_keys(slate, scores, SHOWN)):
        # Of a file from elsewhere, an item may be in no catalogue.
        known = [number[key] for key in keys if key in number]
        lists[row, : len(known)] = known
    vectors = np.zeros((len(number), summaries.vectors.shape[1]), np.float32)
    for key, row in summaries.described.row_of.items():
        if key in number:
            vectors[number[key]] = summaries.vectors[row]
    return exposure(lists, popularity.to_numpy(), vectors)


def _milliseconds(slate: Slate, row: _Row, blend: Blend | None) -> float | None:
    """Median time of one request: from the profile to the order of the candidates."""
    described, times = row.described, []
    for place, user in enumerate(slate.users[:TIMED_REQUESTS]):
        profile, keys = row.profiles.get(user), slate.keys[place]
        if profile is None or not keys:
            continue
        items = np.array([described.row_of.get(key, -1) for key in keys], np.int64)
        began = time.perf_counter()
        found, _ = scoring.score_candidates(profile, items, row.vectors, described.offsets, described.polarity)
        if blend is not None:
            weight = blend.weight_for(int(slate.interactions[place]))
            found = scoring.combine(slate.scores[place, : len(keys)], found, weight, blend.normalisation)
        scoring.order_candidates(found)
        times.append(time.perf_counter() - began)
    return float(np.median(times) * 1000) if times else None


def _of_users(slate: Slate, rows: np.ndarray) -> Slate:
    return Slate(
        users=[slate.users[row] for row in rows],
        targets=[slate.targets[row] for row in rows],
        keys=[slate.keys[row] for row in rows],
        scores=slate.scores[rows],
        interactions=slate.interactions[rows],
    )


def _peer_table(table: Table, sampled: np.ndarray, peers: Sequence[Peer]) -> Table:
    """The rankings of `table` on the sampled users alone, and those of the peers."""
    split = REPORTED_SPLIT
    known = [
        RankingResult(ranking.name, ranking.encoder, {split: ranking.ranks[split][sampled]})
        for ranking in table.rankings
    ]
    asked = [RankingResult(peer.name, None, {split: peer.ranks}) for peer in peers]
    found = table.of[RANDOM].ranks[split][sampled] > 0
    return replace(
        table,
        users={split: len(sampled)},
        recall={split: float(found.mean())},
        rankings=[*known, *asked],
        segments={},
    )
