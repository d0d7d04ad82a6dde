"""Open the published index and ask it: recommend, rerank, explain.

Belongs here: ids in, recommendations with their reasons out. Does not belong here: arithmetic (`scoring`), the layout
of the files (`files`), HTTP. Imports numpy, pyarrow and pydantic, nothing of the machinery that built the index.

Which item is meant. Items are known by (catalogue, item_id). Wherever an item is asked for, either that pair or a bare
item_id may be given; a bare item_id means the item of the first catalogue, in alphabetical order, that has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona4rec_pipeline.index import files, scoring
from persona4rec_pipeline.index.files import IndexCorrupt, IndexMissing, IndexProblem, Manifest
from persona4rec_pipeline.index.scoring import Blend

Item = str | tuple[str, str]

# Flags of one recommendation.
UNKNOWN_ITEM = "unknown_item"  # not in the index; it kept its place among the candidates
NO_FAVOURABLE_PERSONA = "no_favourable_persona"  # only critical personas, or none: no score, after the scored ones
# Fallbacks: why the order does not come from personas.
UNKNOWN_USER = "unknown_user"  # no train interaction at all
NO_POSITIVE_HISTORY = "no_positive_history"  # train interactions, but none that is positive
NO_PROFILE = "no_profile"  # `rerank` was given no profile

# Scores of candidates, either way: the squares of larger ones are no numbers any more.
MAX_SCORE = 1e100
# Where no blend was learned.
_PERSONAS_ALONE, _PERSONAS_ALONE_BY_PLACE = Blend("score", 1.0), Blend("rank", 1.0)
# How often opening is tried when a newer generation was published, and the older one pruned, in the meantime.
OPENING_TRIES = 3


class UnknownItem(KeyError):
    """The index has no such item."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Recommendation:
    """One item of an answer; `score` is a cosine (-1 to 1), None where there is none: `flags` and `fallback` say why.

    `persona_id`, `persona_name`, `why` (one sentence) and `quotes` are those of the winning persona; without one, `why`
    says where the item comes from. `catalog` is None for an unknown item that was named without its catalogue.
    `candidate_place` is its place, from 1, in the candidate order that was reranked; None where there was none.
    """

    item_id: str
    catalog: str | None
    title: str | None
    score: float | None
    persona_id: str | None
    persona_name: str | None
    why: str
    quotes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    fallback: str | None = None
    candidate_place: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"quotes": list(self.quotes), "flags": list(self.flags)}


@dataclass(frozen=True)
class PersonaMatch:
    """A persona of an item; `score` is its cosine (-1 to 1) with the profile, None where no profile was compared."""

    persona_id: str
    name: str
    description: str
    why: str
    polarity: str
    quotes: tuple[str, ...]
    evidence_review_ids: tuple[str, ...]
    source: str
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"quotes": list(self.quotes), "evidence_review_ids": list(self.evidence_review_ids)}


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score: the winning persona, the runner-up, and the nearest critical one, against it."""

    item_id: str
    catalog: str
    title: str
    winner: PersonaMatch | None
    runner_up: PersonaMatch | None
    nearest_critical: PersonaMatch | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        parts = {name: getattr(self, name) for name in ("winner", "runner_up", "nearest_critical")}
        matches = {name: match.to_dict() if match else None for name, match in parts.items()}
        return {"item_id": self.item_id, "catalog": self.catalog, "title": self.title, **matches}


@dataclass(frozen=True)
class _Shard:
    """One catalogue: arrays mapped from disk, tables in memory; its items are the index's rows from `first` on."""

    catalog: str
    first: int
    vectors: np.ndarray
    offsets: np.ndarray
    polarity: np.ndarray
    items: pa.Table
    personas: pa.Table
    # One array per column: reading a cell through the table costs ten times as much.
    item_columns: dict[str, pa.Array]
    persona_columns: dict[str, pa.Array]


class PersonaIndex:
    """One generation of the index, read-only; safe to share between threads, never changes under its user's feet."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `PersonaIndex.open`."""
        self.path = path
        self.manifest = manifest
        names = sorted(manifest.catalogs)
        # Items are numbered through all shards: the items of shard s are the rows _firsts[s] to _firsts[s + 1].
        self._firsts = np.cumsum([0] + [manifest.catalogs[name].items for name in names])
        self._shards = [
            self._open_shard(name, int(first)) for name, first in zip(names, self._firsts[:-1], strict=True)
        ]
        self._rows: dict[tuple[str, str], int] = {}
        self._bare_rows: dict[str, int] = {}
        # All rows of an item_id that several catalogues share; kept for those alone.
        self._shared_rows: dict[str, list[int]] = {}
        for shard in self._shards:
            for row, item_id in enumerate(shard.items.column("item_id").to_pylist(), start=shard.first):
                self._rows[shard.catalog, item_id] = row
                if self._bare_rows.setdefault(item_id, row) != row:
                    self._shared_rows.setdefault(item_id, [self._bare_rows[item_id]]).append(row)
        popularity = [shard.items.column("train_popularity").to_numpy() for shard in self._shards]
        self._by_popularity = np.argsort(-np.concatenate([*popularity, np.empty(0, np.int64)]), kind="stable")
        self._open_users()

    @classmethod
    def open(cls, index_path: str | Path, verify: bool = True) -> PersonaIndex:
        """Open the current generation at `index_path` (`<home>/index`).

        `verify` compares every file with its sha256, about a second per GB; without it only presence, shape and dtype
        are checked. Raises IndexMissing when nothing was published there, IndexCorrupt, naming the file, when something
        is wrong with it; both messages say how to mend it.
        """
        index_path = Path(index_path)
        for attempt in range(1, OPENING_TRIES + 1):
            link = files.current_link(index_path)
            try:
                generation = files.current_generation(index_path)
                manifest = files.read_manifest(generation)
                files.verify(generation, manifest, checksums=verify)
                return cls(generation, manifest)
            except IndexCorrupt:
                # Not damage, if the generation was replaced and pruned while it was being read.
                if attempt == OPENING_TRIES or files.current_link(index_path) == link:
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
        return tuple(self._users)

    @property
    def catalogs(self) -> Sequence[str]:
        """Names of the catalogues, in alphabetical order."""
        return tuple(shard.catalog for shard in self._shards)

    def profile_of(self, user_id: str) -> np.ndarray | None:
        """The unit profile, float32 (d,), of a user; None for a user without positive train interactions."""
        row = self._users.get(user_id)
        return None if row is None else np.asarray(self._profiles[row], np.float32)

    def fallback_for(self, user_id: str) -> str | None:
        """None if this user's answers come from personas, else why not: `unknown_user` or `no_positive_history`."""
        if user_id in self._users:
            return None
        return NO_POSITIVE_HISTORY if user_id in self._seen_of else UNKNOWN_USER

    def recommend(self, user_id: str, k: int, exclude: Iterable[Item] = ()) -> list[Recommendation]:
        """The k best items of all catalogues for a user, without those seen in train and those in `exclude`.

        Best score first; equal scores by catalogue and item_id. Items without appreciative or mixed persona are never
        recommended. A user without profile gets the items most popular in train instead, stated as `fallback`. Fewer
        than k come back where there are no more, none for k <= 0. A bare item_id in `exclude` excludes it in every
        catalogue; unknown items in `exclude` are no error.
        """
        if k <= 0:
            return []
        barred = np.zeros(self._firsts[-1], bool)
        start, stop = self._seen_of.get(user_id, (0, 0))
        barred[self._seen[start:stop]] = True
        for item in exclude:
            barred[self._all_rows(item)] = True
        profile = self.profile_of(user_id)
        if profile is None:
            rows = self._by_popularity[~barred[self._by_popularity]][:k]
            return [self._popular(int(row), self.fallback_for(user_id)) for row in rows]
        scores = np.empty(self._firsts[-1], np.float32)
        winners = np.empty(self._firsts[-1], np.int64)
        for shard in self._shards:
            own = slice(shard.first, shard.first + shard.items.num_rows)
            scores[own], winners[own] = scoring.score_items(profile, shard.vectors, shard.offsets, shard.polarity)
        scores[barred] = scoring.NO_SCORE
        eligible = np.flatnonzero(scores > scoring.NO_SCORE)
        if len(eligible) > k:
            # Everything that ties with the k-th stays in, so that ties are cut by the stable sort and not by chance.
            threshold = np.partition(scores[eligible], len(eligible) - k)[len(eligible) - k]
            eligible = eligible[scores[eligible] >= threshold]
        best = eligible[np.argsort(-scores[eligible], kind="stable")][:k]
        return [self._scored(int(row), float(scores[row]), int(winners[row])) for row in best]

    def interactions_of(self, user_id: str) -> int:
        """Positive train interactions of a user; 0 for a user without profile."""
        row = self._users.get(user_id)
        return 0 if row is None else int(self._interactions[row])

    def persona_weight(self, interactions: int | None = None, with_scores: bool = True) -> float:
        """How much `rerank` lets the personas count, 0 (candidate order) to 1 (personas alone), if it is not told.

        As learned on validation targets for users with so many positive interactions (None: of all users), for candidates
        that come with scores or in an order alone; 1 where nothing was learned.
        """
        blend = self._blend(with_scores)
        return blend.weight if interactions is None else blend.weight_for(interactions)

    def rerank(
        self,
        profile: np.ndarray | None,
        candidates: Iterable[Item],
        k: int | None = None,
        *,
        scores: Sequence[float] | None = None,
        interactions: int | None = None,
        weight: float | None = None,
    ) -> list[Recommendation]:
        """Order candidates, best first, for a profile, float32 (d,) and of unit length; no candidate is ever dropped.

        The order blends that of the candidates with that of the personas (`scoring.combine`). scores: of the candidates,
        one each; where they are given they decide the candidate order, equal ones in the order given. weight: of the
        personas, 0 to 1; default: `persona_weight` for `interactions`, the user's positive interactions.

        An item that the index does not know keeps its place in the candidate order and is flagged `unknown_item`; the
        known ones share the remaining places, equal ones in candidate order. One without appreciative or mixed persona
        counts as the least similar, at weight 1 it comes last; it is flagged `no_favourable_persona`. An item named more
        than once is answered once, at its first mention. Without a profile the order is that of the candidates, with the
        fallback `no_profile`. `k` cuts the ordered list: None keeps all, k <= 0 none. Raises ValueError when the profile
        is not of shape (d,) or not finite, when scores are no numbers up to MAX_SCORE or not one each, and for a weight beyond
        0 to 1.
        """
        names = list(candidates)
        own_scores = _checked_scores(scores, len(names))
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"The weight of the personas is a number from 0 to 1, not {weight}.")
        rows = np.array([self._row(name) for name in names], np.int64)
        kept = np.array(_first_mentions(names, rows), np.int64)
        if own_scores is not None:
            kept = kept[np.argsort(-own_scores[kept], kind="stable")]
            own_scores = own_scores[kept]
        names, rows = [names[place] for place in kept], rows[kept]
        if k is not None and k <= 0:
            return []
        if profile is None:
            return [
                replace(self._unscored(name, int(row), NO_PROFILE), candidate_place=place)
                for place, (name, row) in enumerate(zip(names[:k], rows[:k], strict=True), start=1)
            ]
        if weight is None:
            weight = self.persona_weight(interactions, own_scores is not None)
        found, winners = self._score(self._checked(profile), rows)
        # Places alone: their descending numbers stand for scores, and only a blend by rank makes sense of them.
        ordered_by = scoring.combine(
            -np.arange(len(names), dtype=np.float64) if own_scores is None else own_scores,
            found,
            weight,
            self._blend(own_scores is not None).normalisation,
        )
        answers: list[Recommendation] = []
        for position in scoring.order_candidates(ordered_by)[:k]:
            row, score, winner = int(rows[position]), float(found[position]), int(winners[position])
            entry = self._unscored(names[position], row, None) if winner < 0 else self._scored(row, score, winner)
            answers.append(replace(entry, candidate_place=int(position) + 1))
        return answers

    def explain(self, profile: np.ndarray, item: Item) -> Explanation:
        """The personas of one item that matter for a profile, float32 (d,).

        `winner` and `runner_up` are its nearest appreciative or mixed personas (None where there are not that many),
        `nearest_critical` is what speaks against it. Raises UnknownItem, and ValueError as `rerank` does.
        """
        shard, local = self._locate(self._known(item))
        rows = np.arange(shard.offsets[local], shard.offsets[local + 1])
        cosines = scoring.similarities(self._checked(profile), shard.vectors[rows])
        ranked = [(int(rows[i]), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")]
        favourable = [self._match(shard, row, score) for row, score in ranked if shard.polarity[row] >= 0]
        critical = [self._match(shard, row, score) for row, score in ranked if shard.polarity[row] < 0]
        return Explanation(
            item_id=shard.item_columns["item_id"][local].as_py(),
            catalog=shard.catalog,
            title=shard.item_columns["title"][local].as_py(),
            winner=favourable[0] if favourable else None,
            runner_up=favourable[1] if len(favourable) > 1 else None,
            nearest_critical=critical[0] if critical else None,
        )

    def item(self, item: Item) -> dict[str, Any]:
        """item_id, catalog, title, summary and train_popularity of an item. Raises UnknownItem."""
        shard, local = self._locate(self._known(item))
        return {"catalog": shard.catalog} | shard.items.slice(local, 1).to_pylist()[0]

    def personas_of(self, item: Item) -> list[PersonaMatch]:
        """All personas of an item, by persona_id, without scores. Raises UnknownItem."""
        shard, local = self._locate(self._known(item))
        return [self._match(shard, row, None) for row in range(shard.offsets[local], shard.offsets[local + 1])]

    def _open_shard(self, catalog: str, first: int) -> _Shard:
        folder = files.shard_folder(self.path, catalog)
        counts = self.manifest.catalogs[catalog]
        items = files.read_table(folder / "items.parquet", files.ITEMS)
        personas = files.read_table(folder / "personas.parquet", files.PERSONAS)
        shard = _Shard(
            catalog=catalog,
            first=first,
            vectors=files.read_array(folder / "vectors.npy", (counts.personas, self.dimension), "float16"),
            offsets=files.read_array(folder / "offsets.npy", (counts.items + 1,), "int64"),
            polarity=files.read_array(folder / "polarity.npy", (counts.personas,), "int8"),
            items=items,
            personas=personas,
            item_columns=_columns(items),
            persona_columns=_columns(personas),
        )
        fits = (
            shard.items.num_rows == counts.items
            and shard.personas.num_rows == counts.personas
            and shard.offsets[0] == 0
            and shard.offsets[-1] == counts.personas
            and (np.diff(shard.offsets) >= 0).all()
        )
        if not fits:
            raise IndexCorrupt(
                f"The files of {folder} do not fit each other. Publish again: materialise the asset persona_index."
            )
        return shard

    def _open_users(self) -> None:
        users = files.read_table(self.path / "users.parquet", files.USERS)
        ids = users.column("user_id").to_pylist()
        self._interactions = users.column("interactions").to_numpy()
        self._users = {user_id: row for row, user_id in enumerate(ids)}
        self._profiles = files.read_array(self.path / "profiles.npy", (len(ids), self.dimension), "float16")
        seen = files.read_table(self.path / "seen.parquet", files.SEEN)
        rows = np.full(seen.num_rows, -1, np.int64)
        for shard in self._shards:
            own = np.flatnonzero(pc.equal(seen.column("catalog"), shard.catalog).to_numpy())
            found = pc.index_in(seen.column("item_id").take(own), value_set=shard.items.column("item_id"))
            rows[own] = pc.add(pc.fill_null(found, -1 - shard.first).cast(pa.int64()), shard.first).to_numpy()
        encoded = _columns(seen)["user_id"].dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)[rows >= 0]
        bounds = np.searchsorted(codes, np.arange(len(encoded.dictionary) + 1))
        # A user whose items are all gone has an empty range, and is still no stranger.
        self._seen_of = {
            user_id: (int(bounds[code]), int(bounds[code + 1]))
            for code, user_id in enumerate(encoded.dictionary.to_pylist())
        }
        self._seen = rows[rows >= 0]

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
            name = item if isinstance(item, str) else f"{item[1]} of catalogue {item[0]}"
            raise UnknownItem(f"The index (generation {self.generation}) has no item {name}.")
        return row

    def _locate(self, row: int) -> tuple[_Shard, int]:
        shard = self._shards[int(np.searchsorted(self._firsts, row, side="right")) - 1]
        return shard, row - shard.first

    def _blend(self, with_scores: bool) -> Blend:
        blends = self.manifest.blends
        if blends is None:
            return _PERSONAS_ALONE if with_scores else _PERSONAS_ALONE_BY_PLACE
        return blends.of_scores if with_scores else blends.of_places

    def _checked(self, profile: np.ndarray) -> np.ndarray:
        profile = np.asarray(profile, np.float32)
        if profile.shape != (self.dimension,) or not np.isfinite(profile).all():
            raise ValueError(f"A profile is {self.dimension} finite numbers, this one has shape {profile.shape}.")
        return profile

    def _score(self, profile: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = np.full(len(rows), np.nan, np.float32)
        winners = np.full(len(rows), scoring.NO_PERSONA, np.int64)
        for shard in self._shards:
            own = np.flatnonzero((rows >= shard.first) & (rows < shard.first + shard.items.num_rows))
            if len(own):
                scores[own], winners[own] = scoring.score_candidates(
                    profile, rows[own] - shard.first, shard.vectors, shard.offsets, shard.polarity
                )
        return scores, winners

    def _scored(self, row: int, score: float, winner: int) -> Recommendation:
        shard, local = self._locate(row)
        personas = shard.persona_columns
        return Recommendation(
            item_id=shard.item_columns["item_id"][local].as_py(),
            catalog=shard.catalog,
            title=shard.item_columns["title"][local].as_py(),
            score=score,
            persona_id=personas["persona_id"][winner].as_py(),
            persona_name=personas["name"][winner].as_py(),
            why=personas["preference_rationale"][winner].as_py(),
            quotes=tuple(personas["quotes"][winner].as_py()),
        )

    def _popular(self, row: int, fallback: str | None) -> Recommendation:
        shard, local = self._locate(row)
        count = shard.item_columns["train_popularity"][local].as_py()
        return Recommendation(
            item_id=shard.item_columns["item_id"][local].as_py(),
            catalog=shard.catalog,
            title=shard.item_columns["title"][local].as_py(),
            score=None,
            persona_id=None,
            persona_name=None,
            why=f"Popular: {count} positive {'interaction' if count == 1 else 'interactions'} in the training data.",
            fallback=fallback,
        )

    def _unscored(self, name: Item, row: int, fallback: str | None) -> Recommendation:
        catalog: str | None
        title: str | None = None
        if row >= 0:
            shard, local = self._locate(row)
            item_id, catalog = shard.item_columns["item_id"][local].as_py(), shard.catalog
            title = shard.item_columns["title"][local].as_py()
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
        )

    @staticmethod
    def _match(shard: _Shard, row: int, score: float | None) -> PersonaMatch:
        persona = shard.personas.slice(row, 1).to_pylist()[0]
        return PersonaMatch(
            persona_id=persona["persona_id"],
            name=persona["name"],
            description=persona["description"],
            why=persona["preference_rationale"],
            polarity=persona["polarity"],
            quotes=tuple(persona["quotes"]),
            evidence_review_ids=tuple(persona["evidence_review_ids"]),
            source=persona["source"],
            score=score,
        )


def _first_mentions(names: Sequence[Item], rows: np.ndarray) -> list[int]:
    """Positions that stay: an item may be named more than once, both bare and with its catalogue."""
    first: dict[Item | int, int] = {}
    named = (row if row >= 0 else name for name, row in zip(names, rows.tolist(), strict=True))
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


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    return {
        name: pa.concat_arrays(table.column(name).chunks or [pa.array([], table.schema.field(name).type)])
        for name in table.schema.names
    }


__all__ = [
    "Explanation",
    "IndexCorrupt",
    "IndexMissing",
    "IndexProblem",
    "Item",
    "PersonaIndex",
    "PersonaMatch",
    "Recommendation",
    "UnknownItem",
]
