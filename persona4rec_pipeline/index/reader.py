"""Open the published index and ask it: recommend, search, rerank, explain.

Belongs here: ids in, recommendations with their reasons out. Does not belong here: arithmetic (`kernels`, `scoring`), the files
(`files`, `segments`, `people`), HTTP. Imports numpy, numba, pyarrow and pydantic, nothing of the machinery that built the index.

Which item is meant. Items are known by (catalogue, item_id). Wherever an item is asked for, either that pair or a bare
item_id may be given; a bare item_id means the item of the first catalogue, in alphabetical order, that has it.

Who is asking. A profile is float32 (d,) of unit length, or (t, d): several tastes, of which the best counts for each persona.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from persona4rec_pipeline.index import files, kernels, scoring
from persona4rec_pipeline.index.answers import (
    NO_FAVOURABLE_PERSONA,
    NO_POSITIVE_HISTORY,
    NO_PROFILE,
    UNKNOWN_ITEM,
    UNKNOWN_USER,
    Explanation,
    Item,
    PastInteraction,
    PersonaMatch,
    Recommendation,
    UnknownItem,
)
from persona4rec_pipeline.index.files import IndexCorrupt, Manifest
from persona4rec_pipeline.index.filters import Filters, ItemFilter
from persona4rec_pipeline.index.people import People
from persona4rec_pipeline.index.persona_map import PersonaMap, draw_map
from persona4rec_pipeline.index.scoring import Blend
from persona4rec_pipeline.index.segments import Segment, open_segment

# Scores of candidates, either way: the squares of larger ones are no numbers any more.
MAX_SCORE = 1e100
# Where no blend was learned.
_PERSONAS_ALONE, _PERSONAS_ALONE_BY_PLACE = Blend("score", 1.0), Blend("rank", 1.0)
# Answers whose words are kept at hand, about 1 KB each.
KEPT_WORDS = 16_384
# Interactions that are recent taste.
RECENT = 3
# How often opening is tried when a newer generation was published, and the older one pruned, in the meantime.
OPENING_TRIES = 3

# Several profiles: of so many groups of alike interactions, or of the recent ones beside all.
Tastes = int | Literal["recent"]
# One profile or several, or the items of a session, most recent first.
Profile = np.ndarray | Sequence[Item]


@dataclass(frozen=True, slots=True)
class Ranking:
    """An order of candidates without its words; `PersonaIndex.entry` gives these for one position.

    names: the candidates, each once, in candidate order. rows: int64 (n,), of the index, -1 for unknown ones. order: int64
    (m,), positions in `names`, best first. scores: float32 (n,), NaN for unknown ones, -inf without favourable persona.
    winners: int64 (n,), the winning persona's row within its segment, -1 where there is none. fallback: why the order does not
    come from personas; then there are no scores.
    """

    names: list[Item]
    rows: np.ndarray
    order: np.ndarray
    scores: np.ndarray | None
    winners: np.ndarray | None
    fallback: str | None


class PersonaIndex:
    """One generation of the index, read-only; safe to share between threads, never changes under its user's feet."""

    def __init__(self, path: Path, manifest: Manifest, threads: int | None = None) -> None:
        """Use `PersonaIndex.open`."""
        self.path = path
        self.manifest = manifest
        # Items are numbered through all segments, by catalogue; the rows of those that are dead are never answered with.
        self.segments: list[Segment] = []
        for catalog in sorted(manifest.catalogs):
            for name, counts in manifest.catalogs[catalog].segments.items():
                first = self.segments[-1].rows.stop if self.segments else 0
                folder = files.segment_folder(path, catalog, name)
                self.segments.append(open_segment(folder, catalog, first, counts, manifest.dimension))
        self._ends = np.array([segment.rows.stop for segment in self.segments], np.int64)
        self._dead = np.concatenate([np.empty(0, bool), *(segment.dead for segment in self.segments)])
        self._rows: dict[tuple[str, str], int] = {}
        self._bare_rows: dict[str, int] = {}
        # All rows of an item_id that several catalogues share; kept for those alone.
        self._shared_rows: dict[str, list[int]] = {}
        for segment in self.segments:
            dead = segment.dead.tolist()
            for local, item_id in enumerate(segment.items.column("item_id").to_pylist()):
                if dead[local]:
                    continue
                row = segment.first + local
                self._rows[segment.catalog, item_id] = row
                if self._bare_rows.setdefault(item_id, row) != row:
                    self._shared_rows.setdefault(item_id, [self._bare_rows[item_id]]).append(row)
        promised = {name: shard.items for name, shard in manifest.catalogs.items()}
        alive_in = dict.fromkeys(promised, 0)
        for segment in self.segments:
            alive_in[segment.catalog] += int((~segment.dead).sum())
        if alive_in != promised or len(self._rows) != sum(promised.values()):
            raise IndexCorrupt(f"Items of {path} are alive twice, or not counted. {files.MEND}")
        self._places = self._order_of_rows()
        self._rows_are_ordered = len(self.segments) == len(manifest.catalogs)
        self._scans = [
            kernels.Scan(
                segment.vectors,
                segment.offsets,
                segment.polarity,
                segment.codes,
                segment.scales,
                segment.errors,
                threads,
            )
            for segment in self.segments
        ]
        popularity = np.concatenate([np.empty(0, np.int64), *(segment.popularity for segment in self.segments)])
        alive = np.flatnonzero(~self._dead)
        self._by_popularity = alive[np.lexsort((self._places[alive], -popularity[alive]))]
        self._people = People(path, manifest, self.segments)
        # Reading the cells of one answer costs more than finding it; the same items are asked for again and again.
        self._words = lru_cache(KEPT_WORDS)(self._read_words)
        self._filter = ItemFilter(self.segments, self._all_rows)

    @classmethod
    def open(
        cls,
        index_path: str | Path,
        verify: bool = True,
        generation: int | None = None,
        threads: int | None = None,
    ) -> PersonaIndex:
        """Open a generation at `index_path` (`<home>/index`): the current one, or the one of that number.

        threads: how many search the whole catalogue for one call; default: the cores there are, up to eight.

        `verify` compares every file with its sha256, about a second per GB; without it only presence, shape and dtype
        are checked. Raises IndexMissing when nothing was published there, or that generation is gone, IndexCorrupt, naming the
        file, when something is wrong with it; both messages say how to mend it.
        """
        index_path = Path(index_path)
        for attempt in range(1, OPENING_TRIES + 1):
            link = None if generation is not None else files.current_link(index_path)
            try:
                folder = (
                    files.current_generation(index_path)
                    if generation is None
                    else files.generation_folder(index_path, generation)
                )
                manifest = files.read_manifest(folder)
                files.verify(folder, manifest, checksums=verify)
                return cls(folder, manifest, threads)
            except IndexCorrupt:
                # Not damage, if the generation was replaced and pruned while it was being read.
                if attempt == OPENING_TRIES or link is None or files.current_link(index_path) == link:
                    raise
        raise AssertionError("unreachable")

    @property
    def generation(self) -> int:
        """Number of the generation."""
        return self.manifest.generation

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of the encoder of all vectors; a profile made elsewhere must come from the same."""
        return self.manifest.encoder.fingerprint

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return self.manifest.dimension

    @property
    def users(self) -> Sequence[str]:
        """Ids of the users with a profile, in alphabetical order."""
        return self._people.ids

    @property
    def catalogs(self) -> Sequence[str]:
        """Names of the catalogues, in alphabetical order."""
        return tuple(sorted(self.manifest.catalogs))

    # Who is asking.

    def profile_of(self, user_id: str) -> np.ndarray | None:
        """The unit profile, float32 (d,), of a user; None for a user without positive train interactions."""
        return self._people.profile(user_id)

    def interactions_of(self, user_id: str) -> int:
        """Positive train interactions of a user; 0 for a user without profile."""
        return self._people.interactions(user_id)

    def history_of(self, user_id: str) -> list[PastInteraction]:
        """The interactions that the user's profile is made of, most recent first; none for a user without profile."""
        return [
            PastInteraction(
                item_id, catalog, None if (row := self._row((catalog, item_id))) < 0 else self._title(row), at
            )
            for catalog, item_id, at in self._people.past(user_id)
        ]

    def history_vectors(self, user_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Their unit vectors, float32 (l, d), and times in days since 1970 (UTC), float64 (l,); most recent first."""
        return self._people.vectors(user_id)

    def fallback_for(self, user_id: str) -> str | None:
        """None if this user's answers come from personas, else why not: `unknown_user` or `no_positive_history`."""
        if user_id in self._people:
            return None
        return NO_POSITIVE_HISTORY if self._people.has_seen(user_id) else UNKNOWN_USER

    def item_vector(self, item: Item) -> np.ndarray:
        """What an interaction with the item counts for in a profile if nothing is said about it: float32 (d,), of unit length.

        Raises UnknownItem, also for an item that has no text.
        """
        segment, local = self._locate(self._known(item))
        vector = np.asarray(segment.item_vectors[local], np.float32)
        if not vector.any():
            raise UnknownItem(f"Item {_named(item)} has neither title nor summary to go by.")
        return vector

    def profile_from_items(self, items: Sequence[Item], days_ago: Sequence[float] | None = None) -> np.ndarray:
        """The unit profile, float32 (d,), of a session: items seen now, most recent first, nothing said about them.

        days_ago: one number each, for an index with a half-life. Raises UnknownItem, and ValueError as
        `profile_from_vectors` does.
        """
        vectors = [self.item_vector(item) for item in items[: self.manifest.max_history]]
        days = None if days_ago is None else -np.asarray(days_ago, np.float64)
        return self.profile_from_vectors(np.array(vectors, np.float32).reshape(-1, self.dimension), days)

    def profile_from_vectors(self, vectors: np.ndarray, days: np.ndarray | None = None) -> np.ndarray:
        """The unit profile, float32 (d,), of interactions, (l, d) of unit length, most recent first, as all profiles of the index
        were made: the first `max_history` of them, with its decay and, where `days` (times in days, float64 (l,)) are given, its
        half-life. Raises ValueError without interactions, and for other shapes."""
        vectors, days = self._recent(vectors, days)
        return scoring.user_profile(vectors, self.manifest.recency_decay, days, self._half_life(days))

    def tastes_from_vectors(
        self, vectors: np.ndarray, days: np.ndarray | None = None, tastes: Tastes = 3
    ) -> np.ndarray:
        """Several profiles, float32 (t, d), of interactions given as for `profile_from_vectors`.

        tastes: at most so many, one per group of alike interactions; `recent`: one of the last RECENT interactions beside one of
        all. Whether that ranks better than one profile is a question to the data: `benchmarks/tastes.py`.
        """
        vectors, days = self._recent(vectors, days)
        offsets = np.array([0, len(vectors)])
        weights = scoring.history_weights(offsets, self.manifest.recency_decay, days, self._half_life(days))
        if tastes != "recent":
            return scoring.taste_profiles(vectors, weights, tastes)
        parts = dict.fromkeys((min(RECENT, len(vectors)), len(vectors)))
        return np.concatenate([scoring.taste_profiles(vectors[:part], weights[:part], 1) for part in parts])

    # Answers.

    def recommend(
        self, user_id: str, k: int, exclude: Iterable[Item] = (), filters: Filters | None = None
    ) -> list[Recommendation]:
        """The k best items of all catalogues for a user, without those seen in train and those in `exclude`.

        As `search`; a user without profile gets the items most popular in train instead, stated as `fallback`.
        """
        profile = self.profile_of(user_id)
        if profile is None:
            return self.popular(
                k, exclude=exclude, filters=filters, seen_by=user_id, fallback=self.fallback_for(user_id)
            )
        return self.search(profile, k, exclude=exclude, filters=filters, seen_by=user_id)

    def search(
        self,
        profile: Profile,
        k: int,
        *,
        exclude: Iterable[Item] = (),
        filters: Filters | None = None,
        seen_by: str | None = None,
    ) -> list[Recommendation]:
        """The k best items of all catalogues for a profile that fit the filters, best first; exact.

        Equal scores by catalogue and item_id. Items without appreciative or mixed persona are never among them. Left out are
        the items of `exclude`, where a bare item_id stands for that item of every catalogue and unknown ones are no error, and
        what the user `seen_by` has seen in train. Fewer than k come back where there are no more, none for k <= 0. Raises
        UnknownItem for a session of unknown items, ValueError for a profile of another shape or not finite.
        """
        if k <= 0:
            return []
        barred = self._barred(exclude, filters, seen_by)
        return self._answers(self._best(self._checked(profile)[None], k, barred)[0])

    def search_many(
        self, profiles: np.ndarray, k: int, *, filters: Filters | None = None
    ) -> list[list[Recommendation]]:
        """`search` for each of many profiles, (n, d), in one pass over the index."""
        profiles = np.asarray(profiles, np.float32)
        if profiles.ndim != 2 or profiles.shape[1] != self.dimension or not np.isfinite(profiles).all():
            raise ValueError(f"Profiles are (n, {self.dimension}) finite numbers, these have shape {profiles.shape}.")
        if k <= 0 or not len(profiles):
            return [[] for _ in profiles]
        return [self._answers(top) for top in self._best(profiles, k, self._barred((), filters, None))]

    def popular(
        self,
        k: int,
        *,
        exclude: Iterable[Item] = (),
        filters: Filters | None = None,
        seen_by: str | None = None,
        fallback: str | None = None,
    ) -> list[Recommendation]:
        """The k items with the most positive train interactions that fit; arguments as for `search`, `fallback` is handed on."""
        barred = self._barred(exclude, filters, seen_by)
        rows = self._by_popularity[~barred[self._by_popularity]][: max(k, 0)]
        return [self._popular(int(row), fallback) for row in rows]

    def similar(
        self, item: Item, k: int, *, exclude: Iterable[Item] = (), filters: Filters | None = None
    ) -> list[Recommendation]:
        """The k items of which a persona is nearest to one of this item's appreciative or mixed personas, as `search`.

        None for an item without such personas. Raises UnknownItem.
        """
        row = self._known(item)
        segment, local = self._locate(row)
        own = np.arange(segment.offsets[local], segment.offsets[local + 1])
        tastes = np.asarray(segment.vectors[own[segment.polarity[own] >= 0]], np.float32)
        if k <= 0 or not len(tastes):
            return []
        barred = self._barred(exclude, filters, None)
        barred[row] = True
        return self._answers(self._best(tastes[None], k, barred)[0])

    def persona_weight(self, interactions: int | None = None, with_scores: bool = True) -> float:
        """How much `rerank` lets the personas count, 0 (candidate order) to 1 (personas alone), if it is not told.

        As learned on validation targets for users with so many positive interactions (None: of all users), for candidates
        that come with scores or in an order alone; 1 where nothing was learned.
        """
        blend = self._blend(with_scores)
        return blend.weight if interactions is None else blend.weight_for(interactions)

    def rerank(
        self,
        profile: Profile | None,
        candidates: Iterable[Item],
        k: int | None = None,
        *,
        scores: Sequence[float] | None = None,
        interactions: int | None = None,
        weight: float | None = None,
        exclude: Iterable[Item] = (),
        filters: Filters | None = None,
    ) -> list[Recommendation]:
        """Order candidates, best first, for a profile; no candidate is dropped that `exclude` and `filters` leave.

        The order blends that of the candidates with that of the personas (`scoring.combine`). scores: of the candidates,
        one each; where they are given they decide the candidate order, equal ones in the order given. weight: of the
        personas, 0 to 1; default: `persona_weight` for `interactions`, the user's positive interactions.

        An item that the index does not know keeps its place in the candidate order and is flagged `unknown_item`; the
        known ones share the remaining places, equal ones in candidate order. One without appreciative or mixed persona
        counts as the least similar, at weight 1 it comes last; it is flagged `no_favourable_persona`. An item named more
        than once is answered once, at its first mention. Without a profile the order is that of the candidates, with the
        fallback `no_profile`. `k` cuts the ordered list: None keeps all, k <= 0 none. `exclude` takes out known and unknown
        items by their names; a filter that asks for something only the index knows takes out the unknown ones, too.

        Raises ValueError when the profile is not of shape (d,) or (t, d) or not finite, when scores are no numbers up to
        MAX_SCORE or not one each, and for a weight beyond 0 to 1; UnknownItem for a session of unknown items.
        """
        ranking = self.rank(
            profile,
            candidates,
            scores=scores,
            interactions=interactions,
            weight=weight,
            exclude=exclude,
            filters=filters,
        )
        order = ranking.order if k is None else ranking.order[: max(k, 0)]
        return [self.entry(ranking, position) for position in order.tolist()]

    def rank(
        self,
        profile: Profile | None,
        candidates: Iterable[Item],
        *,
        scores: Sequence[float] | None = None,
        interactions: int | None = None,
        weight: float | None = None,
        exclude: Iterable[Item] = (),
        filters: Filters | None = None,
    ) -> Ranking:
        """What `rerank` says, before it is put into words; arguments and errors as there."""
        names = list(candidates)
        own_scores = _checked_scores(scores, len(names))
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"The weight of the personas is a number from 0 to 1, not {weight}.")
        bare = self._bare_rows
        found_rows = [bare.get(name, -1) if isinstance(name, str) else self._row(name) for name in names]
        kept = _first_mentions(names, found_rows)
        if exclude or filters is not None:
            kept = self._admitted(names, found_rows, kept, exclude, filters)
        if own_scores is not None:
            kept = sorted(kept, key=(-own_scores).tolist().__getitem__)
            own_scores = own_scores[kept]
        if own_scores is not None or len(kept) < len(names):
            names, found_rows = [names[place] for place in kept], [found_rows[place] for place in kept]
        rows = np.array(found_rows, np.int64)
        if profile is None:
            return Ranking(names, rows, np.arange(len(names)), None, None, NO_PROFILE)
        if weight is None:
            weight = self.persona_weight(interactions, own_scores is not None)
        found, winners = self._score(self._checked(profile), rows)
        normalisation = self._blend(own_scores is not None).normalisation
        order = kernels.order_candidates(own_scores, found, weight, normalisation)
        return Ranking(names, rows, order, found, winners, None)

    def entry(self, ranking: Ranking, position: int) -> Recommendation:
        """What is to be said of the candidate at a position of `ranking.names`."""
        row = int(ranking.rows[position])
        if ranking.scores is None or ranking.winners is None:
            return self._unscored(ranking.names[position], row, ranking.fallback, position + 1)
        winner = int(ranking.winners[position])
        if winner < 0:
            return self._unscored(ranking.names[position], row, None, position + 1)
        return self._scored(row, float(ranking.scores[position]), winner, position + 1)

    def explain(self, profile: Profile, item: Item) -> Explanation:
        """The personas of one item that matter for a profile.

        `winner` and `runner_up` are its nearest appreciative or mixed personas (None where there are not that many),
        `nearest_critical` is what speaks against it. Raises UnknownItem, and ValueError as `rerank` does.
        """
        segment, local = self._locate(self._known(item))
        rows = np.arange(segment.offsets[local], segment.offsets[local + 1])
        tastes = np.atleast_2d(self._checked(profile))
        cosines = np.stack([scoring.similarities(taste, segment.vectors[rows]) for taste in tastes]).max(axis=0)
        ranked = [(int(rows[i]), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")]
        favourable = [self._match(segment, row, score) for row, score in ranked if segment.polarity[row] >= 0]
        critical = [self._match(segment, row, score) for row, score in ranked if segment.polarity[row] < 0]
        return Explanation(
            item_id=segment.item_columns["item_id"][local],
            catalog=segment.catalog,
            title=segment.item_columns["title"][local],
            winner=favourable[0] if favourable else None,
            runner_up=favourable[1] if len(favourable) > 1 else None,
            nearest_critical=critical[0] if critical else None,
        )

    # What there is.

    def item(self, item: Item) -> dict[str, Any]:
        """item_id, catalog, title, summary, categories, attributes and train_popularity of an item. Raises UnknownItem."""
        segment, local = self._locate(self._known(item))
        columns = segment.item_columns
        return {
            "catalog": segment.catalog,
            **{name: columns[name][local] for name in ("item_id", "title", "summary", "categories")},
            "attributes": json.loads(columns["attributes"][local]),
            "train_popularity": int(segment.popularity[local]),
        }

    def personas_of(self, item: Item) -> list[PersonaMatch]:
        """All personas of an item, by persona_id, without scores. Raises UnknownItem."""
        segment, local = self._locate(self._known(item))
        return [self._match(segment, row, None) for row in range(segment.offsets[local], segment.offsets[local + 1])]

    def find_items(self, text: str, limit: int = 20) -> list[dict[str, str]]:
        """item_id, catalog and title of the items whose title or id holds `text`, whatever its case.

        First those whose title begins with it, then those with a word that does, then the others; the more popular first.
        """
        wanted = text.casefold().strip()
        if not wanted or limit <= 0:
            return []
        ranks: list[list[int]] = [[], [], []]
        for row, title in self._titles:
            place = title.find(wanted)
            if place >= 0:
                ranks[0 if place == 0 else 1 if not title[place - 1].isalnum() else 2].append(row)
                if len(ranks[0]) >= limit:
                    break
        return [self._named_item(row) for row in (ranks[0] + ranks[1] + ranks[2])[:limit]]

    def find_users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """The first users with a profile whose id begins with `prefix`, in alphabetical order."""
        return self._people.starting_with(prefix, limit)

    def persona_map(self, limit: int = 2_000) -> PersonaMap:
        """The personas, or a sample of `limit` of them, in two dimensions; the same ones for as long as the index is open."""
        if limit not in self._maps:
            self._maps = {limit: draw_map(self.segments, limit)}
        return self._maps[limit]

    # Inside.

    @cached_property
    def _maps(self) -> dict[int, PersonaMap]:
        return {}

    @cached_property
    def _titles(self) -> list[tuple[int, str]]:
        """(row, casefolded title and id) of every item, the most popular first."""
        found: dict[int, str] = {}
        for segment in self.segments:
            columns = (segment.items.column(name).to_pylist() for name in ("title", "item_id"))
            for row, (title, item_id) in enumerate(zip(*columns, strict=True), start=segment.first):
                found[row] = f"{title}\n{item_id}".casefold()
        return [(int(row), found[int(row)]) for row in self._by_popularity]

    def _order_of_rows(self) -> np.ndarray:
        """Place, int64 (rows,), of each row in the order of catalogue and item_id, by which ties fall."""
        places = np.arange(len(self._dead))
        if len(self.segments) > len(self.manifest.catalogs):
            names = [
                (segment.catalog, item_id.encode())
                for segment in self.segments
                for item_id in segment.items.column("item_id").to_pylist()
            ]
            places[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        return places

    def _barred(self, exclude: Iterable[Item], filters: Filters | None, seen_by: str | None) -> np.ndarray:
        """bool (rows,): what cannot be in an answer; the caller's own to change."""
        barred = self._dead.copy()
        if filters is not None:
            barred |= self._filter.barred(filters)
        if seen_by is not None:
            barred[self._people.seen(seen_by)] = True
        for item in exclude:
            barred[self._all_rows(item)] = True
        return barred

    def _admitted(
        self,
        names: Sequence[Item],
        rows: Sequence[int],
        kept: Sequence[int],
        exclude: Iterable[Item],
        filters: Filters | None,
    ) -> list[int]:
        """Of the positions that are kept those that may be answered with."""
        filters = filters or Filters()
        excluded = {*exclude, *filters.deny}
        allowed = None if filters.allow is None else set(filters.allow)
        barred = self._barred(excluded, filters, None)

        def is_admitted(place: int) -> bool:
            row, name = rows[place], names[place]
            if row >= 0:
                return not barred[row]
            both = {name, name if isinstance(name, str) else name[1]}
            return not (filters.describes() or both & excluded or (allowed is not None and not both & allowed))

        return [place for place in kept if is_admitted(place)]

    def _best(self, profiles: np.ndarray, k: int, barred: np.ndarray) -> list[kernels.Top]:
        """The k best rows that are not barred, for each of the profiles, (n, d) or (n, t, d)."""
        if self._rows_are_ordered:
            return kernels.top_many_of(self._scans, profiles, k, barred)
        # Ties fall by catalogue and item_id, which is the order of the rows within a segment alone.
        parts = [
            kernels.top_many_of([scan], profiles, k, barred[segment.rows])
            for scan, segment in zip(self._scans, self.segments, strict=True)
        ]
        found = []
        for tops in zip(*parts, strict=True):
            rows = np.concatenate([top.items + segment.first for top, segment in zip(tops, self.segments, strict=True)])
            scores = np.concatenate([top.scores for top in tops])
            winners = np.concatenate([top.winners for top in tops])
            order = np.lexsort((self._places[rows], -scores))[:k]
            found.append(kernels.Top(rows[order], scores[order], winners[order]))
        return found

    def _answers(self, top: kernels.Top) -> list[Recommendation]:
        return [
            self._scored(row, score, winner)
            for row, score, winner in zip(top.items.tolist(), top.scores.tolist(), top.winners.tolist(), strict=True)
        ]

    def _row(self, item: Item) -> int:
        if isinstance(item, str):
            return self._bare_rows.get(item, -1)
        return self._rows.get((item[0], item[1]), -1)

    def _all_rows(self, item: Item) -> list[int]:
        if isinstance(item, str) and item in self._shared_rows:
            return self._shared_rows[item]
        row = self._row(item)
        return [row] if row >= 0 else []

    def _known(self, item: Item) -> int:
        row = self._row(item)
        if row < 0:
            raise UnknownItem(f"The index (generation {self.generation}) has no item {_named(item)}.")
        return row

    def _locate(self, row: int) -> tuple[Segment, int]:
        if len(self.segments) == 1:
            return self.segments[0], row
        segment = self.segments[int(np.searchsorted(self._ends, row, side="right"))]
        return segment, row - segment.first

    def _title(self, row: int) -> str:
        segment, local = self._locate(row)
        return str(segment.item_columns["title"][local])

    def _named_item(self, row: int) -> dict[str, str]:
        segment, local = self._locate(row)
        columns = segment.item_columns
        return {"item_id": columns["item_id"][local], "catalog": segment.catalog, "title": columns["title"][local]}

    def _blend(self, with_scores: bool) -> Blend:
        blends = self.manifest.blends
        if blends is None:
            return _PERSONAS_ALONE if with_scores else _PERSONAS_ALONE_BY_PLACE
        return blends.of_scores if with_scores else blends.of_places

    def _half_life(self, days: np.ndarray | None) -> float | None:
        return None if days is None else self.manifest.half_life_days

    def _recent(self, vectors: np.ndarray, days: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        vectors = np.asarray(vectors, np.float32)
        days = None if days is None else np.asarray(days, np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension or not len(vectors):
            raise ValueError(
                f"A profile is made of at least one vector of {self.dimension} numbers, not of shape {vectors.shape}."
            )
        if days is not None and days.shape != (len(vectors),):
            raise ValueError(
                f"There is one time for each of the {len(vectors)} interactions; these have shape {days.shape}."
            )
        most = self.manifest.max_history
        return vectors[:most], None if days is None else days[:most]

    def _checked(self, profile: Profile) -> np.ndarray:
        if not isinstance(profile, np.ndarray):
            return self.profile_from_items(profile)
        profile = np.ascontiguousarray(profile, np.float32)
        # A number that is not finite, or the square of an absurdly large one, makes the sum of squares something else.
        if (
            profile.shape[-1:] != (self.dimension,)
            or profile.ndim > 2
            or not profile.size
            or not math.isfinite(np.vdot(profile, profile))
        ):
            raise ValueError(
                f"A profile is {self.dimension} finite numbers, or several of them in rows; this one has shape {profile.shape}."
            )
        return profile

    def _score(self, profile: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(self.segments) == 1:
            return self._scans[0].score(profile, rows)
        scores = np.full(len(rows), np.nan, np.float32)
        winners = np.full(len(rows), scoring.NO_PERSONA, np.int64)
        for segment, scan in zip(self.segments, self._scans, strict=True):
            own = np.flatnonzero((rows >= segment.first) & (rows < segment.rows.stop))
            if len(own):
                scores[own], winners[own] = scan.score(profile, rows[own] - segment.first)
        return scores, winners

    def _scored(self, row: int, score: float, winner: int, candidate_place: int | None = None) -> Recommendation:
        item_id, catalog, title, persona_id, name, why, quotes = self._words(row, winner)
        return Recommendation(
            item_id, catalog, title, score, persona_id, name, why, quotes, candidate_place=candidate_place
        )

    def _read_words(self, row: int, winner: int) -> tuple[str, str, str, str, str, str, tuple[str, ...]]:
        """What is said of an item and one of its personas."""
        segment, local = self._locate(row)
        items, personas = segment.item_columns, segment.persona_columns
        return (
            items["item_id"][local],
            segment.catalog,
            items["title"][local],
            personas["persona_id"][winner],
            personas["name"][winner],
            personas["preference_rationale"][winner],
            tuple(personas["quotes"][winner]),
        )

    def _popular(self, row: int, fallback: str | None) -> Recommendation:
        segment, local = self._locate(row)
        count = int(segment.popularity[local])
        return Recommendation(
            item_id=segment.item_columns["item_id"][local],
            catalog=segment.catalog,
            title=segment.item_columns["title"][local],
            score=None,
            persona_id=None,
            persona_name=None,
            why=f"Popular: {count} positive {'interaction' if count == 1 else 'interactions'} in the training data.",
            fallback=fallback,
        )

    def _unscored(self, name: Item, row: int, fallback: str | None, candidate_place: int) -> Recommendation:
        catalog: str | None
        title: str | None = None
        if row >= 0:
            segment, local = self._locate(row)
            item_id, catalog = segment.item_columns["item_id"][local], segment.catalog
            title = segment.item_columns["title"][local]
            flags: tuple[str, ...] = () if fallback else (NO_FAVOURABLE_PERSONA,)
            why = (
                "No persona speaks for this item."
                if flags
                else "The place is the candidate's own: there is no profile."
            )
        else:
            item_id, catalog = (name, None) if isinstance(name, str) else (name[1], name[0])
            flags, why = (UNKNOWN_ITEM,), "The index does not know this item; it kept its place."
        return Recommendation(
            item_id=item_id,
            catalog=catalog,
            title=title,
            score=None,
            persona_id=None,
            persona_name=None,
            why=why,
            flags=flags,
            fallback=fallback,
            candidate_place=candidate_place,
        )

    @staticmethod
    def _match(segment: Segment, row: int, score: float | None) -> PersonaMatch:
        columns = segment.persona_columns
        return PersonaMatch(
            persona_id=columns["persona_id"][row],
            name=columns["name"][row],
            description=columns["description"][row],
            why=columns["preference_rationale"][row],
            polarity=columns["polarity"][row],
            quotes=tuple(columns["quotes"][row]),
            evidence_review_ids=tuple(columns["evidence_review_ids"][row]),
            source=columns["source"][row],
            score=score,
        )


def _named(item: Item) -> str:
    return item if isinstance(item, str) else f"{item[1]} of catalogue {item[0]}"


def _first_mentions(names: Sequence[Item], rows: Sequence[int]) -> list[int]:
    """Positions that stay: an item may be named more than once, both bare and with its catalogue."""
    if len(set(rows)) == len(rows) and -1 not in rows:
        return list(range(len(rows)))
    first: dict[Item | int, int] = {}
    named = (row if row >= 0 else name for name, row in zip(names, rows, strict=True))
    return [place for place, key in enumerate(named) if first.setdefault(key, place) == place]


def _checked_scores(scores: Sequence[float] | None, candidates: int) -> np.ndarray | None:
    if scores is None:
        return None
    found = np.asarray(scores, np.float64)
    if found.shape != (candidates,) or not (np.abs(found) <= MAX_SCORE).all():
        raise ValueError(
            f"Scores are one number of at most {MAX_SCORE:g} for each of the {candidates} candidates; these have shape "
            f"{found.shape}."
        )
    return found
