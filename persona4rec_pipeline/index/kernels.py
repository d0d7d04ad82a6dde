"""Scores as `scoring` has them, fast enough to serve: a request's candidates, and the exact best of a whole catalogue.

Belongs here: what serving asks of arrays, with its checks and its threads. Does not belong here: ids, files, texts; the
definition of profile and score (`scoring`, whose results these equal up to the rounding of float32); the loops themselves
(`compiled`). Arrays are those of `scoring`; a profile is float32 (d,), or (t, d) for t tastes of one user, of which the best
counts.

Starting. Importing this module is cheap. The first call imports numba, about a second, and on the first start on a machine
compiles the loops, some seconds more; `warm_up` does both ahead of the first request. There is no other way to the same result
that would be taken instead.

How the best of a whole catalogue are found. Beside the float16 vector v of a persona the index has a copy of one byte per
number, `quantise`: codes c and a scale s with v = s c + e, and the length |e| of what the rounding lost. A scan reads the codes
alone. The profile p is rounded likewise to 16 bits, p = r q + f. Since p·v = r s q·c + s f·c + p·e, Cauchy and Schwarz give

    |p·v - r s q·c|  <=  |p| |e|  +  |f| s |c|     with  |c| <= 127 sqrt(d),

and the rounding of float32, here and in the exact score, adds at most (d + 16) 2^-23 |p| |v|, |v| <= 127 s sqrt(d). This is a
bound, not an estimate: no assumption is made about lengths or distribution of the vectors. So each item has a lower and an upper
bound of its score. An item whose upper bound is below the k-th best lower bound cannot be among the best k; all others are scored
from the float16 vectors. For vectors of unit length with d = 384 the margin is about 0.007, and some two or three times k items are
scored again. Where very many items lie that near to each other (copies of one text, a zero profile), the scan gives up and every
item is scored from the float16 vectors, at twice the price.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from persona4rec_pipeline.index import scoring

# Rows that are quantised at a time.
QUANTISED_ROWS = 4096
LARGEST_CODE, LARGEST_QUERY = 127, 32767
# In a profile; beyond it float32 would not hold the bounds of all scores.
LARGEST_NUMBER = 1e15
# The memory of one machine is busy with fewer threads than it has cores.
MOST_THREADS = 8
# Comparisons of a persona and a profile that are worth a thread of their own.
PIECE = 16_384
# Pieces per thread, so that a thread that was held up does not hold up all.
PIECES_PER_THREAD = 8
# Candidates up to which a list is ordered by insertion.
MOST_INSERTED = 128
_NO_SCORES = np.empty(0, np.float64)
# Users whose notes are kept at the same time.
USERS_AT_ONCE = 64
# Users whose candidates are scored faster than threads are woken.
SETTLED_ALONE = 2
# Items noted per user and thread, per item wanted and at least, before a scan gives up.
NOTED_PER_ITEM, NOTED_AT_LEAST = 16, 4096
# With fewer items than this per item wanted, and for catalogues of fewer personas, a scan of codes saves nothing.
ITEMS_PER_WANTED, SCANNED_PERSONAS = 8, 10_000


@dataclass(frozen=True)
class Top:
    """The best items, best first, equal scores by row: rows int64 (m,), scores float32 (m,), winners int64 (m,)."""

    items: np.ndarray
    scores: np.ndarray
    winners: np.ndarray


_NOTHING_BARRED = np.empty((0, 0), bool)


def warm_up() -> None:
    """Import and, where that was not done on this machine before, compile what the first call would otherwise wait for."""
    _compiled()


def default_threads() -> int:
    """Threads of a scan where nobody says: the cores this process may use, at most MOST_THREADS."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_THREADS)


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """codes int8 (n, d), scales float32 (n,) and errors float32 (n,) of float16 vectors (n, d).

    vectors = codes * scales + what was lost; errors are lengths of what was lost, rounded up, so that they may serve as bounds.
    The scale is a row's largest magnitude / 127; a zero row has scale, codes and error 0. Raises ValueError for vectors that are
    not finite.
    """
    codes = np.empty(vectors.shape, np.int8)
    scales, errors = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), QUANTISED_ROWS):
        part = slice(start, start + QUANTISED_ROWS)
        exact = vectors[part].astype(np.float64)
        if not np.isfinite(exact).all():
            raise ValueError("Vectors with infinite or undefined numbers cannot be compared.")
        scale = (np.abs(exact).max(axis=1, initial=0.0) / LARGEST_CODE).astype(np.float32)
        steps = scale.astype(np.float64)[:, None]
        rounded = np.rint(np.divide(exact, steps, out=np.zeros_like(exact), where=steps > 0))
        codes[part] = np.clip(rounded, -LARGEST_CODE, LARGEST_CODE)
        scales[part] = scale
        lost = np.linalg.norm(exact - codes[part] * steps, axis=1)
        errors[part] = np.nextafter(
            lost.astype(np.float32), np.float32(np.inf), where=lost > 0, out=np.zeros_like(scale)
        )
    return codes, scales, errors


def user_profile(
    vectors: np.ndarray, decay: float, days: np.ndarray | None = None, half_life_days: float | None = None
) -> np.ndarray:
    """`scoring.user_profile`, float32 (d,), of vectors float32 or float16 (l, d), most recent first."""
    if not len(vectors):
        raise ValueError("A profile needs at least one interaction.")
    weights = scoring.history_weights(np.array([0, len(vectors)]), decay, days, half_life_days)
    total = weights.astype(np.float32) @ np.asarray(vectors, np.float32)
    norm = math.sqrt(float(total @ total))
    return total / np.float32(norm) if norm > 0 else total


def score_candidates(
    profile: np.ndarray, rows: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, polarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`scoring.score_candidates` for float16 vectors, for one profile (d,) or the best of several (t, d).

    Raises ValueError for profiles of another shape and rows that are not there. Offsets are trusted to be those of the vectors.
    """
    profiles = _checked_profiles(profile, vectors.shape[1])
    rows = np.ascontiguousarray(rows, np.int64)
    scores, winners = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
    if len(rows) and not (rows.min() >= -1 and rows.max() < len(offsets) - 1):
        raise ValueError(f"Item rows are -1 to {len(offsets) - 2}, these are {rows.min()} to {rows.max()}.")
    offsets, polarity = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(polarity, np.int8)
    _compiled().score_candidates(profiles, rows, _half(vectors), offsets, polarity, scores, winners)
    return scores, winners


def order_candidates(
    own: np.ndarray | None, persona: np.ndarray, weight: float, normalisation: str = "score"
) -> np.ndarray:
    """`scoring.order_candidates(scoring.combine(own, persona, weight, normalisation))` of one list, int64 (n,), in microseconds.

    own: float64 (n,), the candidates' scores; None where only their order is known, whose descending places then stand for
    scores. persona: float32 (n,), NaN for an unknown candidate, -inf for one without favourable persona.
    """
    if len(persona) > MOST_INSERTED:
        stated = -np.arange(len(persona), dtype=np.float64) if own is None else own
        return scoring.order_candidates(scoring.combine(stated, persona, weight, normalisation))
    order = np.empty(len(persona), np.int64)
    own = _NO_SCORES if own is None else np.ascontiguousarray(own, np.float64)
    _compiled().order_candidates(own, persona, weight, normalisation == "rank", order)
    return order


class Scan:
    """The best items of one catalogue, exactly; read-only, and safe to share between threads.

    vectors float16 (n, d), offsets int64 (items + 1,), polarity int8 (n,) as in `scoring`; codes int8 (n, d), scales and errors
    float32 (n,) of `quantise`, without which every item is compared exactly: fine for small catalogues, twice the price for
    large ones. threads: how many work on one call, and on all calls of this process with the same number together; default
    `default_threads()`; 1: the caller's own.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        offsets: np.ndarray,
        polarity: np.ndarray,
        codes: np.ndarray | None = None,
        scales: np.ndarray | None = None,
        errors: np.ndarray | None = None,
        threads: int | None = None,
    ) -> None:
        self.items, self.dimension = len(offsets) - 1, vectors.shape[1]
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"A scan takes at least one thread, not {threads}.")
        self._vectors = _half(vectors)
        self._offsets = np.ascontiguousarray(offsets, np.int64)
        self._polarity = np.ascontiguousarray(polarity, np.int8)
        self._cuts: dict[int, list[int]] = {}
        self._codes = self._scales = self._errors = None
        if codes is not None and scales is not None and errors is not None:
            if not (codes.shape == vectors.shape and len(scales) == len(errors) == len(vectors)):
                raise ValueError(
                    f"The codes, of shape {codes.shape}, are not those of vectors of shape {vectors.shape}."
                )
            self._codes = np.ascontiguousarray(codes, np.int8)
            self._scales = np.ascontiguousarray(scales, np.float32)
            self._errors = np.ascontiguousarray(errors, np.float32)
        # The compiled loops read wherever these point.
        ends = self._offsets[[0, -1]].tolist()
        if len(self._polarity) != len(vectors) or ends != [0, len(vectors)] or (np.diff(self._offsets) < 0).any():
            raise ValueError("Vectors, offsets and polarity do not fit each other.")

    def score(self, profile: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`score_candidates` of item rows, int64 (n,), that are known to be rows of this catalogue or -1, and of a profile that
        is known to be finite, float32 (d,) or (t, d)."""
        scores, winners = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
        profiles = profile if profile.ndim == 2 else profile[None]
        _compiled().score_candidates(profiles, rows, self._vectors, self._offsets, self._polarity, scores, winners)
        return scores, winners

    def top(self, profile: np.ndarray, k: int, barred: np.ndarray | None = None) -> Top:
        """The k best items for one user, profile (d,) or tastes (t, d); fewer where there are no more.

        barred: bool (items,), items that do not count, as if they were not there. Items without appreciative or mixed persona
        are never among the best. Raises ValueError when an argument has another shape, or a profile is not finite.
        """
        return top_of([self], profile, k, barred)

    def top_many(self, profiles: np.ndarray, k: int, barred: np.ndarray | None = None) -> list[Top]:
        """`top` of every profile, (n, d) or (n, t, d), in one pass; barred: (items,) for all of them or (n, items)."""
        return top_many_of([self], profiles, k, barred)

    def _cut(self, pieces: int) -> list[int]:
        """Item rows at which to cut into pieces of about as many personas."""
        if pieces not in self._cuts:
            places = np.linspace(0, self._offsets[-1], pieces + 1)[1:-1]
            self._cuts[pieces] = [0, *np.searchsorted(self._offsets, places).tolist(), self.items]
        return self._cuts[pieces]


def top_of(scans: Sequence[Scan], profile: np.ndarray, k: int, barred: np.ndarray | None = None) -> Top:
    """`Scan.top` over several catalogues together: items are numbered through them in the order given.

    winners are vector rows within the winning item's own catalogue. The threads are those of the first scan.
    """
    profile = np.asarray(profile, np.float32)
    return top_many_of(scans, profile[None], k, None if barred is None else np.asarray(barred)[None])[0]


def top_many_of(scans: Sequence[Scan], profiles: np.ndarray, k: int, barred: np.ndarray | None = None) -> list[Top]:
    """`Scan.top_many` over several catalogues together, as `top_of`."""
    items = sum(scan.items for scan in scans)
    profiles = np.ascontiguousarray(profiles, np.float32)
    if profiles.ndim == 2:
        profiles = profiles[:, None]
    if profiles.ndim != 3 or any(scan.dimension != profiles.shape[2] for scan in scans) or not profiles.shape[1]:
        raise ValueError(f"Profiles have the dimension of the vectors, these have shape {profiles.shape}.")
    if barred is not None:
        barred = np.atleast_2d(np.asarray(barred, bool))
        if barred.shape not in {(1, items), (len(profiles), items)}:
            raise ValueError(f"There are {items} items and {len(profiles)} profiles; barred has shape {barred.shape}.")
    k = min(k, items)
    if k <= 0:
        return [Top(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)) for _ in profiles]
    found: list[Top] = []
    for start in range(0, len(profiles), USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        for_these = barred if barred is None or len(barred) == 1 else barred[part]
        found.extend(_Search(scans, profiles[part], k, for_these).run())
    return found


@dataclass(frozen=True)
class _Piece:
    """Items start to stop of the catalogue at `place`, whose codes are to be scanned or whose vectors to be compared."""

    place: int
    start: int
    stop: int
    scanned: bool


class _Search:
    """One pass for some users, profiles (n, t, d), k > 0.

    Each thread has a heap of what it scored exactly, and notes of what it scanned, which are scored when all are done: see
    `compiled.exact_top` and `compiled.scan` for what these hold.
    """

    def __init__(self, scans: Sequence[Scan], profiles: np.ndarray, k: int, barred: np.ndarray | None) -> None:
        self.compiled = _compiled()
        self.users, self.tastes, dimension = profiles.shape
        self.queries = profiles.reshape(-1, dimension)
        self.rounded, self.weights = rounded_queries(self.queries)
        self.k, self.scans = k, scans
        # What to add to an item's row to have its number in all catalogues.
        self.numbers = list(itertools.accumulate((scan.items for scan in scans), initial=0))
        self.barred = [_NOTHING_BARRED] * len(scans)
        if barred is not None:
            self.barred = [
                np.ascontiguousarray(barred[:, first:last]) for first, last in itertools.pairwise(self.numbers)
            ]
        self.pieces = [piece for place in range(len(scans)) for piece in self._pieces(place)]
        comparisons = len(self.queries) * sum(len(scan._vectors) for scan in scans)
        self.threads = max(1, min(scans[0].threads, len(self.pieces), comparisons // PIECE)) if scans else 1
        shape = (self.threads, self.users)
        self.scores, self.winners = np.empty((*shape, k), np.float32), np.empty((*shape, k), np.int64)
        self.items, self.counts = np.empty((*shape, k), np.int64), np.zeros(shape, np.int64)
        if any(piece.scanned for piece in self.pieces):
            room = max(NOTED_AT_LEAST, NOTED_PER_ITEM * k)
            self.floors = np.full(self.users, -np.inf, np.float32)
            self.bounds, self.bound_counts = np.empty((*shape, k), np.float32), np.zeros(shape, np.int64)
            self.candidates, self.masks = np.empty((*shape, room), np.int64), np.empty((*shape, room), np.int64)
            self.uppers, self.noted = np.empty((*shape, room), np.float32), np.zeros(shape, np.int64)

    def run(self) -> list[Top]:
        self._work(self.pieces)
        scanned = [piece for piece in self.pieces if piece.scanned]
        if scanned and self._settle({piece.place for piece in scanned}):
            gave_up = self.noted.min(axis=0) < 0
            # All others are barred, and what was found before stays where it is.
            done = np.repeat(~gave_up[:, None], self.numbers[-1], axis=1)
            self.barred = [
                np.ascontiguousarray(done[:, first:last] | (barred if len(barred) else False))
                for barred, (first, last) in zip(self.barred, itertools.pairwise(self.numbers), strict=True)
            ]
            self._work([replace(piece, scanned=False) for piece in scanned])
        self.compiled.finish(self.scores, self.items, self.winners, self.counts)
        return [
            Top(
                self.items[0, user, :count].copy(),
                self.scores[0, user, :count].copy(),
                self.winners[0, user, :count].copy(),
            )
            for user, count in enumerate(self.counts[0].tolist())
        ]

    def _pieces(self, place: int) -> list[_Piece]:
        scan = self.scans[place]
        scanned = scan.items >= ITEMS_PER_WANTED * self.k and len(scan._vectors) >= SCANNED_PERSONAS
        pieces = len(scan._vectors) * len(self.queries) // PIECE
        pieces = max(1, min(scan.threads * PIECES_PER_THREAD, pieces)) if scan.threads > 1 else 1
        return [
            _Piece(place, start, stop, scanned and scan._codes is not None)
            for start, stop in itertools.pairwise(scan._cut(pieces))
            if stop > start
        ]

    def _work(self, pieces: Iterable[_Piece]) -> None:
        left = deque(pieces)

        def work(thread: int) -> None:
            while True:
                try:
                    piece = left.popleft()
                except IndexError:
                    return
                (self._scan if piece.scanned else self._exact)(piece, thread)

        _in_parallel(work, self.threads, self.scans[0].threads if self.scans else 1)

    def _scan(self, piece: _Piece, thread: int) -> None:
        scan = self.scans[piece.place]
        self.compiled.scan(
            self.rounded,
            self.weights,
            self.tastes,
            scan._codes,
            scan._scales,
            scan._errors,
            scan._offsets,
            scan._polarity,
            self.barred[piece.place],
            self.numbers[piece.place],
            piece.start,
            piece.stop,
            self.floors,
            self.bounds[thread],
            self.bound_counts[thread],
            self.candidates[thread],
            self.uppers[thread],
            self.masks[thread],
            self.noted[thread],
        )

    def _exact(self, piece: _Piece, thread: int) -> None:
        scan = self.scans[piece.place]
        self.compiled.exact_top(
            self.queries,
            self.tastes,
            scan._vectors,
            scan._offsets,
            scan._polarity,
            self.barred[piece.place],
            self.numbers[piece.place],
            piece.start,
            piece.stop,
            self.scores[thread],
            self.items[thread],
            self.winners[thread],
            self.counts[thread],
        )

    def _settle(self, places: Iterable[int]) -> bool:
        """Score what was noted; whether a scan gave up for a user."""
        threads = min(self.threads, self.users) if self.users > SETTLED_ALONE else 1
        cuts = [self.users * part // threads for part in range(threads + 1)]

        gave_up: list[int] = []

        def settle(part: int) -> None:
            for place in places:
                scan = self.scans[place]
                users = self.compiled.settle(
                    self.queries,
                    self.tastes,
                    scan._vectors,
                    scan._offsets,
                    scan._polarity,
                    self.numbers[place],
                    cuts[part],
                    cuts[part + 1],
                    self.floors,
                    self.bounds,
                    self.bound_counts,
                    self.candidates,
                    self.uppers,
                    self.masks,
                    self.noted,
                    self.scores[0],
                    self.items[0],
                    self.winners[0],
                    self.counts[0],
                )
                gave_up.append(users)

        _in_parallel(settle, threads, self.scans[0].threads)
        return any(gave_up)


def rounded_queries(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries float32 (n, d) in 16 bits, int16 (n, d), and the weights float32 (n, 3) of `compiled.scan`, for the margin above.

    Raises ValueError for numbers that are undefined or beyond LARGEST_NUMBER.
    """
    rounded, weights = np.empty(queries.shape, np.int16), np.empty((len(queries), 3), np.float32)
    if not _compiled().round_queries(queries, LARGEST_NUMBER, LARGEST_QUERY, LARGEST_CODE, rounded, weights):
        raise ValueError(
            f"A profile is made of finite numbers of at most {LARGEST_NUMBER:g}, it is of unit length as a rule."
        )
    return rounded, weights


def _in_parallel(work: Callable[[int], None], parts: int, threads: int) -> None:
    """work(0) to work(parts - 1), on the threads that all calls with this number of threads share; one part on the caller's."""
    if parts == 1:
        work(0)
        return
    for future in [_pool(threads).submit(work, part) for part in range(parts)]:
        future.result()


def _checked_profiles(profile: np.ndarray, dimension: int) -> np.ndarray:
    profiles = np.ascontiguousarray(profile, np.float32)
    if profiles.ndim == 1:
        profiles = profiles[None]
    if profiles.ndim != 2 or profiles.shape[1] != dimension or not len(profiles):
        raise ValueError(
            f"A profile has {dimension} numbers, or several rows of them; this one has shape {profiles.shape}."
        )
    return profiles


def _half(vectors: np.ndarray) -> np.ndarray:
    """float16 as the int16 that the compiled loops take."""
    if vectors.dtype != np.float16:
        raise TypeError(f"The vectors of an index are float16, these are {vectors.dtype}.")
    return np.ascontiguousarray(vectors).view(np.int16)


def _compiled() -> ModuleType:
    from persona4rec_pipeline.index import compiled

    return compiled


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="persona4rec-scan")


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork; a child makes its own.
    os.register_at_fork(after_in_child=_pool.cache_clear)
