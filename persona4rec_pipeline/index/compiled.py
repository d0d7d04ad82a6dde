"""The inner loops of `kernels`, compiled to machine code.

Belongs here: loops over arrays, with numba. Does not belong here: checks of arguments, threads, anything that is called from
outside `kernels`: importing this module imports numba, which takes about a second, and compiles what is not cached yet.

All kernels release the interpreter lock and share nothing but what is said below, so they run on any thread. float16 comes
in as int16, as the bits that it is. `queries` holds t consecutive rows per user: a user's tastes, the best of which counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Rows of codes that are compared at a time: 64 x 384 bytes stay in the first cache while all queries pass over them.
TILE_ROWS = 64
# What lets a sum of products be vectorised; no promise about infinities or NaN is given up.
_REORDERED = {"reassoc", "contract"}


def _readonly(dtype: Any, dimensions: int) -> types.Array:
    """Arrays that a kernel reads; they may be mapped from a file that cannot be written."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def _writable(dtype: Any, dimensions: int) -> types.Array:
    return types.Array(dtype, dimensions, "C")


def _kernel(*arguments: types.Type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def compiled(function: Callable[..., None]) -> Callable[..., None]:
        signature, options = types.void(*arguments), {"nogil": True, "fastmath": _REORDERED}
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor a cache folder of the user can be written: compile in every process.
            return njit(signature, **options)(function)

    return compiled


@intrinsic
def _widened(_typing: Any, _half: Any) -> Any:
    """A finite float16, given as int16, as float32; the same trick as in `scoring`."""

    def code(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        wide, real = ir.IntType(32), ir.FloatType()
        bits = builder.and_(builder.shl(builder.sext(arguments[0], wide), wide(13)), wide(0x8FFFE000))
        return builder.fmul(builder.bitcast(bits, real), ir.Constant(real, 2.0**112))

    return types.float32(types.int16), code


@njit(fastmath=_REORDERED)
def _cosine(query, vector):
    total = np.float32(0)
    for place in range(query.shape[0]):
        total += _widened(vector[place]) * query[place]
    return total


@njit(fastmath=_REORDERED)
def _best_of_item(queries, first, last, vectors, offsets_low, offsets_high, polarity):
    """Score and winner of the item with the rows offsets_low to offsets_high, over queries first to last."""
    best, winner = np.float32(-np.inf), np.int64(-1)
    for row in range(offsets_low, offsets_high):
        if polarity[row] >= 0:
            for query in range(first, last):
                cosine = _cosine(queries[query], vectors[row])
                if cosine > best:
                    best, winner = cosine, np.int64(row)
    return best, winner


@_kernel(
    _readonly(types.float32, 2),
    _readonly(types.int64, 1),
    _readonly(types.int16, 2),
    _readonly(types.int64, 1),
    _readonly(types.int8, 1),
    _writable(types.float32, 1),
    _writable(types.int64, 1),
)
def score_candidates(queries, rows, vectors, offsets, polarity, scores, winners):
    """Fill scores and winners (n,) of the item rows (n,) for one user."""
    for place in range(rows.shape[0]):
        row = rows[place]
        if row < 0:
            scores[place], winners[place] = np.float32(np.nan), -1
        else:
            scores[place], winners[place] = _best_of_item(
                queries, 0, queries.shape[0], vectors, offsets[row], offsets[row + 1], polarity
            )


@_kernel(_readonly(types.int16, 2), _readonly(types.float32, 1), _writable(types.float32, 1))
def weighted_sum(vectors, weights, total):
    """Fill total (d,) with the sum of the float16 vectors (l, d) times their weights, scaled to unit length."""
    total[:] = 0
    for row in range(vectors.shape[0]):
        for place in range(total.shape[0]):
            total[place] += weights[row] * _widened(vectors[row, place])


@njit
def _is_worse(score, item, other_score, other_item):
    return score < other_score or (score == other_score and item > other_item)


@njit
def _push(scores, items, winners, count, score, item, winner):
    """Keep the best of what was pushed, the worst of them in front (a heap); returns how many there are now."""
    room = scores.shape[0]
    if count < room:
        place = count
        while place > 0:
            above = (place - 1) // 2
            if not _is_worse(score, item, scores[above], items[above]):
                break
            scores[place], items[place], winners[place] = scores[above], items[above], winners[above]
            place = above
        scores[place], items[place], winners[place] = score, item, winner
        return count + 1
    if room == 0 or not _is_worse(scores[0], items[0], score, item):
        return count
    place = 0
    while True:
        below = 2 * place + 1
        if below >= room:
            break
        if below + 1 < room and _is_worse(scores[below + 1], items[below + 1], scores[below], items[below]):
            below += 1
        if not _is_worse(scores[below], items[below], score, item):
            break
        scores[place], items[place], winners[place] = scores[below], items[below], winners[below]
        place = below
    scores[place], items[place], winners[place] = score, item, winner
    return count


@njit
def _push_bound(bounds, count, bound):
    """`_push` of numbers alone."""
    room = bounds.shape[0]
    if count < room:
        place = count
        while place > 0 and bounds[(place - 1) // 2] > bound:
            bounds[place] = bounds[(place - 1) // 2]
            place = (place - 1) // 2
        bounds[place] = bound
        return count + 1
    if bound <= bounds[0]:
        return count
    place = 0
    while True:
        below = 2 * place + 1
        if below >= room:
            break
        if below + 1 < room and bounds[below + 1] < bounds[below]:
            below += 1
        if bounds[below] >= bound:
            break
        bounds[place] = bounds[below]
        place = below
    bounds[place] = bound
    return count


@_kernel(
    _readonly(types.float32, 2),
    types.int64,
    _readonly(types.int16, 2),
    _readonly(types.int64, 1),
    _readonly(types.int8, 1),
    _readonly(types.boolean, 2),
    types.int64,
    types.int64,
    types.int64,
    _writable(types.float32, 2),
    _writable(types.int64, 2),
    _writable(types.int64, 2),
    _writable(types.int64, 1),
)
def exact_top(queries, tastes, vectors, offsets, polarity, barred, number, start, stop, scores, items, winners, counts):
    """Push the items start to stop, but for barred ones, into each user's heap, scored from the float16 vectors.

    barred: (1, items) for all users or (users, items). number: what to add to an item's row to have its number in the
    heap. scores, items, winners: (users, k), of which counts (users,) are in use.
    """
    users = scores.shape[0]
    for item in range(start, stop):
        for user in range(users):
            if not barred[user if barred.shape[0] > 1 else 0, item]:
                score, winner = _best_of_item(
                    queries, user * tastes, (user + 1) * tastes, vectors, offsets[item], offsets[item + 1], polarity
                )
                if winner >= 0:
                    counts[user] = _push(
                        scores[user], items[user], winners[user], counts[user], score, item + number, winner
                    )


@njit
def _dot(codes, query):
    total = np.int32(0)
    for place in range(codes.shape[0]):
        total = np.int32(total + np.int32(np.int32(codes[place]) * np.int32(query[place])))
    return total


@njit
def _note(user, item, upper, lower, limits, bounds, bound_counts, candidates, uppers, counts):
    """An item of which no more is known than that its score lies between lower and upper."""
    if not upper >= limits[user] or counts[user] < 0:
        return
    room = candidates.shape[1]
    if counts[user] == room:
        kept = 0
        for place in range(room):
            if uppers[user, place] >= limits[user]:
                candidates[user, kept], uppers[user, kept] = candidates[user, place], uppers[user, place]
                kept += 1
        counts[user] = kept
        if kept > room - room // 4:
            # So many items cannot be told from the best that comparing all of them exactly costs less.
            counts[user] = -1
            return
    candidates[user, counts[user]], uppers[user, counts[user]] = item, upper
    counts[user] += 1
    if lower > limits[user]:
        bound_counts[user] = _push_bound(bounds[user], bound_counts[user], lower)
        if bound_counts[user] == bounds.shape[1] and bounds[user, 0] > limits[user]:
            limits[user] = bounds[user, 0]


@_kernel(
    _readonly(types.int16, 2),
    _readonly(types.float32, 2),
    types.int64,
    _readonly(types.int8, 2),
    _readonly(types.float32, 1),
    _readonly(types.float32, 1),
    _readonly(types.int64, 1),
    _readonly(types.int8, 1),
    _readonly(types.boolean, 2),
    types.int64,
    types.int64,
    _writable(types.float32, 1),
    _writable(types.float32, 2),
    _writable(types.int64, 1),
    _writable(types.int64, 2),
    _writable(types.float32, 2),
    _writable(types.int64, 1),
)
def scan(
    queries,
    weights,
    tastes,
    codes,
    scales,
    errors,
    offsets,
    polarity,
    barred,
    start,
    stop,
    floors,
    bounds,
    bound_counts,
    candidates,
    uppers,
    counts,
):
    """Note, for each user, which of the items start to stop may be among the best k.

    queries: int16 (users x t, d). weights: (users x t, 3), by query: of a dot product times a row's scale, of a row's error
    and of its scale, the last two for the margin of `kernels.Scan`. barred: as in `exact_top`. floors: (users,), a score that
    k items are known to reach; kernels on other threads raise it too: an old value costs time, but is never wrong. bounds:
    (users, k), heaps of the k best lower bounds met here, bound_counts (users,) of them. candidates, uppers: (users, room),
    rows of items and upper bounds of their scores, counts (users,) of them; -1 where the room did not suffice.
    """
    users = floors.shape[0]
    shared = barred.shape[0] == 1
    limits = floors.copy()
    dots = np.empty((queries.shape[0], TILE_ROWS), np.int32)
    rows = np.empty(TILE_ROWS, np.int64)
    owners = np.empty(TILE_ROWS, np.int64)
    # The item that a user is at, which may have begun in an earlier tile, and what is known of it.
    current = np.full(users, -1, np.int64)
    upper_of = np.empty(users, np.float32)
    lower_of = np.empty(users, np.float32)
    item = start
    row = offsets[start]
    while item < stop:
        filled = 0
        while item < stop and filled < TILE_ROWS:
            if row == offsets[item] and shared and barred[0, item]:
                row = offsets[item + 1]
            while row < offsets[item + 1] and filled < TILE_ROWS:
                if polarity[row] >= 0:
                    rows[filled], owners[filled] = row, item
                    filled += 1
                row += 1
            if row == offsets[item + 1]:
                item += 1
        for query in range(queries.shape[0]):
            for place in range(filled):
                dots[query, place] = _dot(codes[rows[place]], queries[query])
        for user in range(users):
            if counts[user] < 0:
                continue
            if floors[user] > limits[user]:
                limits[user] = floors[user]
            owner, upper, lower = current[user], upper_of[user], lower_of[user]
            for place in range(filled):
                if owners[place] != owner:
                    if owner >= 0 and (shared or not barred[user, owner]):
                        _note(user, owner, upper, lower, limits, bounds, bound_counts, candidates, uppers, counts)
                    owner, upper, lower = owners[place], np.float32(-np.inf), np.float32(-np.inf)
                scale, error = scales[rows[place]], errors[rows[place]]
                for query in range(user * tastes, (user + 1) * tastes):
                    middle = np.float32(dots[query, place]) * (weights[query, 0] * scale)
                    margin = weights[query, 1] * error + weights[query, 2] * scale
                    upper = max(upper, middle + margin)
                    lower = max(lower, middle - margin)
            current[user], upper_of[user], lower_of[user] = owner, upper, lower
            if limits[user] > floors[user]:
                floors[user] = limits[user]
    for user in range(users):
        if current[user] >= 0 and (shared or not barred[user, current[user]]):
            _note(
                user,
                current[user],
                upper_of[user],
                lower_of[user],
                limits,
                bounds,
                bound_counts,
                candidates,
                uppers,
                counts,
            )
        if limits[user] > floors[user]:
            floors[user] = limits[user]


@_kernel(
    _readonly(types.float32, 2),
    _readonly(types.int16, 2),
    _readonly(types.int64, 1),
    _readonly(types.int8, 1),
    types.int64,
    _readonly(types.int64, 1),
    _readonly(types.float32, 1),
    types.float32,
    types.float32,
    _writable(types.float32, 1),
    _writable(types.int64, 1),
    _writable(types.int64, 1),
    _writable(types.int64, 1),
)
def settle(
    queries, vectors, offsets, polarity, number, candidates, uppers, floor, likely, scores, items, winners, count
):
    """Push candidates (n,) of one user, whose scores are at most uppers (n,), into the user's heap, exactly scored.

    Those below floor cannot be among the best; those from likely on come first, since they are the most likely to be, and
    leave few of the others to be scored. Heap and number: as in `exact_top`; count: (1,).
    """
    for first in (True, False):
        for place in range(candidates.shape[0]):
            upper = uppers[place]
            if upper < floor or (upper >= likely) != first:
                continue
            if count[0] == scores.shape[0] and upper < scores[0]:
                continue
            item = candidates[place]
            score, winner = _best_of_item(
                queries, 0, queries.shape[0], vectors, offsets[item], offsets[item + 1], polarity
            )
            count[0] = _push(scores, items, winners, count[0], score, item + number, winner)
