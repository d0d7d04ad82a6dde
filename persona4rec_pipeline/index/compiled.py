"""The inner loops of `kernels`, compiled to machine code.

Belongs here: loops over arrays, with numba. Does not belong here: checks of arguments, threads, anything that is called from
outside `kernels`: importing this module imports numba, which takes about a second, and compiles what is not cached yet.

All kernels release the interpreter lock and share nothing but what is said below, so they run on any thread. float16 comes
in as int16, as the bits that it is. `queries` holds t consecutive rows per user: a user's tastes, the best of which counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Rows of codes that are compared at a time: 64 x 384 bytes stay in the first cache while all queries pass over them.
TILE_ROWS = 32
# Rows of codes that a single query passes over before it looks what other threads have found.
STREAMED_ROWS = 1024
# Rows of codes that are multiplied at once, and numbers of each.
ROWS_AT_ONCE, LANES = 4, 32
# Items whose vectors are fetched while another is scored, and numbers of a vector per line of the cache.
FETCHED_AHEAD, LINE_HALVES = 4, 32
# A mask of all personas of an item.
_ALL = np.int64(-1)
# What lets a sum of products be vectorised; no promise about infinities or NaN is given up.
_REORDERED = {"reassoc", "contract"}


def _readonly(dtype: Any, dimensions: int) -> types.Array:
    """Arrays that a kernel reads; they may be mapped from a file that cannot be written."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def _writable(dtype: Any, dimensions: int) -> types.Array:
    return types.Array(dtype, dimensions, "C")


def _kernel(
    *arguments: types.Type, returns: types.Type = types.void
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        signature, options = returns(*arguments), {"nogil": True, "fastmath": _REORDERED}
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor a cache folder of the user can be written: compile in every process.
            return njit(signature, **options)(function)

    return compiled


def _features(context: Any) -> str:
    """What the processor that is compiled for can do."""
    return str(context.codegen().magic_tuple())


@intrinsic
def _widened(_typing: Any, _half: Any) -> Any:
    """A finite float16, given as int16, as float32: by the processor, or where it cannot, by the trick of `scoring`."""

    def code(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        wide, real = ir.IntType(32), ir.FloatType()
        if "+f16c" in _features(context):
            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), real)
        bits = builder.and_(builder.shl(builder.sext(arguments[0], wide), wide(13)), wide(0x8FFFE000))
        return builder.fmul(builder.bitcast(bits, real), ir.Constant(real, 2.0**112))

    return types.float32(types.int16), code


@njit(fastmath=_REORDERED)
def _cosine(query, vector):
    total = np.float32(0)
    for place in range(query.shape[0]):
        total += _widened(vector[place]) * query[place]
    return total


@njit
def _bit(number):
    """The bit of a mask that stands for a persona, by its number within the item; from 64 on they share bits."""
    return np.int64(1) << np.int64(number & 63)


@njit(fastmath=_REORDERED)
def _best_of_item(queries, first, last, vectors, row_start, row_stop, polarity, mask):
    """Score and winner of an item, of its favourable rows in the mask, over queries first to last."""
    best, winner = np.float32(-np.inf), np.int64(-1)
    for row in range(row_start, row_stop):
        if polarity[row] >= 0 and mask & _bit(row - row_start):
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
                queries, 0, queries.shape[0], vectors, offsets[row], offsets[row + 1], polarity, _ALL
            )


@njit
def _standardise(values, known):
    """Mean 0 and standard deviation 1 over the known places, in place; 0 where all are equal."""
    count, total = 0, 0.0
    for place in range(values.shape[0]):
        if known[place]:
            count += 1
            total += values[place]
    if count == 0:
        return
    mean, squares = total / count, 0.0
    for place in range(values.shape[0]):
        values[place] -= mean
        if known[place]:
            squares += values[place] * values[place]
    deviation = np.sqrt(squares / count)
    for place in range(values.shape[0]):
        values[place] = values[place] / deviation if deviation > 0 else 0.0


@_kernel(
    _readonly(types.float64, 1), _readonly(types.float32, 1), types.float64, types.boolean, _writable(types.int64, 1)
)
def order_candidates(own, persona, weight, by_place, order):
    """Fill order (n,) with the places of the candidates of one list, best first; own (0,) where their order is all there is."""
    count = persona.shape[0]
    values, known = np.empty(count, np.float64), np.empty(count, np.bool_)
    # The lowest similarity there is stands for the items that have none; where none has one, all are equal.
    lowest = np.inf
    for place in range(count):
        known[place] = not np.isnan(persona[place])
        if persona[place] > -np.inf:
            lowest = min(lowest, np.float64(persona[place]))
    if weight >= 1.0:
        for place in range(count):
            values[place] = persona[place]
    else:
        mine, always = np.empty(count, np.float64), np.empty(count, np.bool_)
        for place in range(count):
            always[place] = True
            if by_place and weight > 0.0:
                mine[place] = -np.log2(place + 1.0)
            else:
                mine[place] = own[place] if own.shape[0] else -np.float64(place)
            values[place] = persona[place] if persona[place] > -np.inf else lowest if lowest < np.inf else 0.0
        if weight <= 0.0:
            for place in range(count):
                values[place], known[place] = mine[place], True
        else:
            _standardise(mine, always)
            _standardise(values, known)
            for place in range(count):
                values[place] = (1.0 - weight) * mine[place] + weight * values[place]
    # Candidates that are not known keep their places; the others are put in order among theirs, one by one, equal ones as given.
    previous = np.empty(count, np.int64)
    filled = 0
    for place in range(count):
        order[place] = place
        if not known[place]:
            continue
        value, here = values[place], filled
        while here > 0 and values[order[previous[here - 1]]] < value:
            here -= 1
        previous[filled] = place
        for moved in range(filled, here, -1):
            order[previous[moved]] = order[previous[moved - 1]]
        order[previous[here]] = place
        filled += 1


@_kernel(
    _readonly(types.float32, 2),
    types.float64,
    types.float64,
    types.float64,
    _writable(types.int16, 2),
    _writable(types.float32, 2),
    returns=types.boolean,
)
def round_queries(queries, largest, largest_rounded, largest_code, rounded, weights):
    """Fill rounded and weights of `scan` for queries (n, d); False if some number is undefined or beyond the largest."""
    dimension = queries.shape[1]
    # Whatever the codes are, the sum of the products has to fit into 32 bits.
    largest_sum = (2.0**31 - 1) / largest_code - dimension / 2
    for query in range(queries.shape[0]):
        most, total, squares = 0.0, 0.0, 0.0
        for place in range(dimension):
            magnitude = abs(np.float64(queries[query, place]))
            if not magnitude <= largest:
                return False
            most, total = max(most, magnitude), total + magnitude
            squares += magnitude * magnitude
        step = np.float64(np.float32(max(most / largest_rounded, total / largest_sum)))
        lost = 0.0
        for place in range(dimension):
            exact, units = np.float64(queries[query, place]), 0.0
            if step > 0:
                units = np.rint(exact / step)
            rounded[query, place] = np.int16(max(min(units, largest_rounded), -largest_rounded))
            rest = exact - rounded[query, place] * step
            lost += rest * rest
        length = np.sqrt(squares)
        rounding = (dimension + 16) * 2.0**-23 * length
        weights[query, 0] = step
        weights[query, 1] = length * (1 + 2.0**-20)
        weights[query, 2] = largest_code * np.sqrt(dimension) * (np.sqrt(lost) + rounding) * (1 + 2.0**-20)
    return True


@njit
def _is_barred(barred, user, item):
    return barred.shape[0] > 0 and barred[min(user, barred.shape[0] - 1), item]


@njit
def _is_worse(score, item, other_score, other_item):
    return score < other_score or (score == other_score and item > other_item)


@njit
def _sink(scores, items, winners, size, score, item, winner):
    """Put an entry in front of the first `size` entries of a heap, in place of what is there, and let it sink."""
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and _is_worse(scores[below + 1], items[below + 1], scores[below], items[below]):
            below += 1
        if not _is_worse(scores[below], items[below], score, item):
            break
        scores[place], items[place], winners[place] = scores[below], items[below], winners[below]
        place = below
    scores[place], items[place], winners[place] = score, item, winner


@njit
def _push(scores, items, winners, count, score, item, winner):
    """Keep the best of what was pushed, the worst of them in front (a heap); returns how many there are now."""
    if count == scores.shape[0]:
        if _is_worse(scores[0], items[0], score, item):
            _sink(scores, items, winners, count, score, item, winner)
        return count
    place = count
    while place > 0:
        above = (place - 1) // 2
        if not _is_worse(score, item, scores[above], items[above]):
            break
        scores[place], items[place], winners[place] = scores[above], items[above], winners[above]
        place = above
    scores[place], items[place], winners[place] = score, item, winner
    return count + 1


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

    barred: (0, 0) for no item, (1, items) for all users, or (users, items). number: what to add to an item's row to have its number in the
    heap. scores, items, winners: (users, k), of which counts (users,) are in use.
    """
    for item in range(start, stop):
        for user in range(scores.shape[0]):
            if not _is_barred(barred, user, item):
                score, winner = _best_of_item(
                    queries,
                    user * tastes,
                    (user + 1) * tastes,
                    vectors,
                    offsets[item],
                    offsets[item + 1],
                    polarity,
                    _ALL,
                )
                if winner >= 0:
                    counts[user] = _push(
                        scores[user], items[user], winners[user], counts[user], score, item + number, winner
                    )


# Numbers at a time, the feature of a processor and the name of its instruction, the widest first.
_PAIR_SUMS = (
    (32, "+avx512bw", "llvm.x86.avx512.pmaddw.d.512"),
    (16, "+avx2", "llvm.x86.avx2.pmadd.wd"),
    (8, "+sse2", "llvm.x86.sse2.pmadd.wd"),
)


def _pair_sums(context: Any, builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Sums of neighbouring products of two vectors of LANES int16, as LANES / 2 int32.

    All x86 processors have an instruction for it, in the width that they have, which the compiler finds by itself for the
    simplest loops alone.
    """
    features = _features(context)
    lanes, name = next(((lanes, name) for lanes, feature, name in _PAIR_SUMS if feature in features), (0, ""))
    if not lanes:
        wide = ir.VectorType(ir.IntType(32), LANES // 2)
        even, odd = (
            [builder.sext(_lanes(builder, side, range(start, LANES, 2)), wide) for side in (left, right)]
            for start in (0, 1)
        )
        return builder.add(builder.mul(*even), builder.mul(*odd))
    narrow = ir.VectorType(ir.IntType(16), lanes)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VectorType(ir.IntType(32), lanes // 2), [narrow, narrow]), name
    )
    parts = [
        builder.call(function, [_lanes(builder, side, range(start, start + lanes)) for side in (left, right)])
        for start in range(0, LANES, lanes)
    ]
    while len(parts) > 1:
        parts = [
            _lanes(builder, first, range(2 * first.type.count), second)
            for first, second in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _lanes(builder: ir.IRBuilder, vector: ir.Value, places: Iterable[int], other: ir.Value | None = None) -> ir.Value:
    """The numbers of a vector, or of two of them end to end, at these places."""
    chosen = list(places)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined) if other is None else other, mask)


def _products_of(queries_at_once: int) -> Any:
    """An intrinsic that multiplies ROWS_AT_ONCE rows of codes, side by side, and so many queries."""

    @intrinsic
    def products(_typing: Any, codes: Any, rows: Any, place: Any, queries: Any, query: Any, dots: Any) -> Any:
        """Fill ROWS_AT_ONCE places of dots (queries, n), from `place`, for as many rows of codes, and some queries, from `query`.

        Whole LANES of numbers alone; what remains of a row is left out.
        """

        def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            byte, half, wide, long = (ir.IntType(bits) for bits in (8, 16, 32, 64))
            arrays = [
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, arguments, strict=True)
                if isinstance(kind, types.Array)
            ]
            code_data, row_data, query_data, dot_data = (array.data for array in arrays)
            dimension = cgutils.unpack_tuple(builder, arrays[0].shape, 2)[1]
            width = cgutils.unpack_tuple(builder, arrays[3].shape, 2)[1]
            first_place, first_query = arguments[2], arguments[4]

            def start_of_row(number: int) -> ir.Value:
                row = builder.load(builder.gep(row_data, [builder.add(first_place, long(number))]))
                return builder.gep(code_data, [builder.mul(row, dimension)])

            def start_of_query(number: int) -> ir.Value:
                return builder.gep(query_data, [builder.mul(builder.add(first_query, long(number)), dimension)])

            def loaded(start: ir.Value, place: ir.Value, kind: ir.Type) -> ir.Value:
                pointer = builder.bitcast(builder.gep(start, [place]), ir.VectorType(kind, LANES).as_pointer())
                return builder.load(pointer, align=kind.width // 8)

            row_starts = [start_of_row(number) for number in range(ROWS_AT_ONCE)]
            query_starts = [start_of_query(number) for number in range(queries_at_once)]
            sums = ir.VectorType(wide, LANES // 2)
            totals = [[cgutils.alloca_once(builder, sums) for _ in row_starts] for _ in query_starts]
            for total in totals:
                for one in total:
                    builder.store(ir.Constant(sums, [0] * (LANES // 2)), one)
            whole = builder.and_(dimension, long(-LANES))

            with cgutils.for_range_slice(builder, long(0), whole, long(LANES), long) as (place_in_row, _):
                ours = [loaded(start, place_in_row, half) for start in query_starts]
                for number, start in enumerate(row_starts):
                    theirs = builder.sext(loaded(start, place_in_row, byte), ir.VectorType(half, LANES))
                    for our, total in zip(ours, totals, strict=True):
                        added = _pair_sums(context, builder, theirs, our)
                        builder.store(builder.add(builder.load(total[number]), added), total[number])
            for number, total in enumerate(totals):
                folded = [builder.load(one) for one in total]
                while folded[0].type.count > ROWS_AT_ONCE:
                    half_of = folded[0].type.count // 2
                    folded = [
                        builder.add(
                            _lanes(builder, one, range(half_of)), _lanes(builder, one, range(half_of, 2 * half_of))
                        )
                        for one in folded
                    ]
                while len(folded) > 1:
                    folded = [
                        builder.add(
                            _lanes(builder, one, range(0, 2 * ROWS_AT_ONCE, 2), other),
                            _lanes(builder, one, range(1, 2 * ROWS_AT_ONCE, 2), other),
                        )
                        for one, other in zip(folded[::2], folded[1::2], strict=True)
                    ]
                to = builder.add(builder.mul(builder.add(first_query, long(number)), width), first_place)
                pointer = builder.bitcast(builder.gep(dot_data, [to]), folded[0].type.as_pointer())
                builder.store(folded[0], pointer, align=4)
            return context.get_dummy_value()

        return types.void(codes, rows, types.int64, queries, types.int64, dots), code

    return products


_products_of_one = _products_of(1)
_products_of_two = _products_of(2)


@intrinsic
def _fetch(_typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Tell the processor that this number of an array will be read soon."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(32)
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = cgutils.unpack_tuple(builder, rows.shape, 2)[1]
        place = builder.gep(rows.data, [builder.add(builder.mul(arguments[1], width), arguments[2])])
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, wide, wide, wide])
        # For reading, into the first cache, data.
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [pointer, wide(0), wide(3), wide(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), code


@njit
def _dot(codes, row, queries, query):
    total = np.int32(0)
    for place in range(codes.shape[1]):
        total = np.int32(total + np.int32(np.int32(codes[row, place]) * np.int32(queries[query, place])))
    return total


@njit(fastmath=_REORDERED)
def _next_reaching(codes, row, end, queries, weights, scales, errors, limit):
    """The first row from `row` on whose upper bound for the first query reaches the limit; `end` if there is none."""
    by_product, by_error, by_scale = weights[0, 0], weights[0, 1], weights[0, 2]
    while row < end:
        middle = np.float32(_dot(codes, row, queries, 0)) * (by_product * scales[row])
        if middle + (by_error * errors[row] + by_scale * scales[row]) >= limit:
            break
        row += 1
    return row


@njit
def _multiply(codes, rows, filled, queries, dots):
    """dots (queries, n) of the first rows of codes, `filled` rounded up to ROWS_AT_ONCE, and the queries."""
    # Row after row, as the processor fetches ahead best; once they are in the cache, several side by side are faster.
    for place in range(filled):
        dots[0, place] = _dot(codes, rows[place], queries, 0)
    for query in range(1, queries.shape[0] - 1, 2):
        for place in range(0, filled, ROWS_AT_ONCE):
            _products_of_two(codes, rows, place, queries, query, dots)
    if queries.shape[0] % 2 == 0:
        for place in range(0, filled, ROWS_AT_ONCE):
            _products_of_one(codes, rows, place, queries, queries.shape[0] - 1, dots)
    whole = codes.shape[1] - codes.shape[1] % LANES
    if whole == codes.shape[1]:
        return
    for query in range(1, queries.shape[0]):
        for place in range(filled):
            for rest in range(whole, codes.shape[1]):
                dots[query, place] += np.int32(np.int32(codes[rows[place], rest]) * np.int32(queries[query, rest]))


@njit
def _note(user, item, upper, lower, mask, limits, bounds, bound_counts, candidates, uppers, masks, counts):
    """An item of which no more is known than that its score lies between lower and upper."""
    if not upper >= limits[user] or counts[user] < 0:
        return
    room = candidates.shape[1]
    if counts[user] == room:
        kept = 0
        for place in range(room):
            if uppers[user, place] >= limits[user]:
                candidates[user, kept], uppers[user, kept] = candidates[user, place], uppers[user, place]
                masks[user, kept] = masks[user, place]
                kept += 1
        counts[user] = kept
        if kept > room - room // 4:
            # So many items cannot be told from the best that comparing all of them exactly costs less.
            counts[user] = -1
            return
    candidates[user, counts[user]], uppers[user, counts[user]], masks[user, counts[user]] = item, upper, mask
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
    types.int64,
    _writable(types.float32, 1),
    _writable(types.float32, 2),
    _writable(types.int64, 1),
    _writable(types.int64, 2),
    _writable(types.float32, 2),
    _writable(types.int64, 2),
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
    number,
    start,
    stop,
    floors,
    bounds,
    bound_counts,
    candidates,
    uppers,
    masks,
    counts,
):
    """Note, for each user, which of the items start to stop may be among the best k.

    queries: int16 (users x t, d). weights: (users x t, 3), by query: of a dot product times a row's scale, of a row's error
    and of its scale, the last two for the margin of `kernels`. barred, number: as in `exact_top`. floors: (users,), a score that
    k items are known to reach; kernels on other threads raise it too: an old value costs time, but is never wrong. bounds:
    (users, k), heaps of the k best lower bounds met here, bound_counts (users,) of them. candidates, uppers, masks: (users,
    room), numbers of items, upper bounds of their scores and which of their personas may have them; counts (users,) of them, -1
    where the room did not suffice.
    """
    users = floors.shape[0]
    for_all = barred.shape[0] == 1
    limits = np.empty(users, np.float32)
    # The item that a user is at, which may have begun in an earlier tile, and what is known of it.
    current = np.empty(users, np.int64)
    upper_of = np.empty(users, np.float32)
    lower_of = np.empty(users, np.float32)
    mask_of = np.empty(users, np.int64)
    for user in range(users):
        current[user], limits[user] = -1, floors[user]
        if bound_counts[user] == bounds.shape[1] and bounds[user, 0] > limits[user]:
            limits[user] = bounds[user, 0]
    dots = np.empty((queries.shape[0], TILE_ROWS), np.int32)
    rows = np.empty(TILE_ROWS, np.int64)
    item, row, end = start, offsets[start], offsets[stop]
    while row < end:
        # Critical personas and barred items within a tile are compared as well, which costs less than to pick the others.
        while offsets[item + 1] <= row:
            item += 1
        if for_all and barred[0, item]:
            row = offsets[item + 1]
            continue
        row_end = min(row + TILE_ROWS, end)
        if queries.shape[0] == 1:
            # No need of tiles, between which the processor would pause to fetch ahead.
            row_end = row_end if for_all else min(row + STREAMED_ROWS, end)
            row = _next_reaching(codes, row, row_end, queries, weights, scales, errors, max(limits[0], floors[0]))
            if row == row_end:
                continue
            row_end = row + 1
            while offsets[item + 1] <= row:
                item += 1
        filled = row_end - row
        for place in range(-(-filled // ROWS_AT_ONCE) * ROWS_AT_ONCE):
            rows[place] = min(row + place, end - 1)
        _multiply(codes, rows, filled, queries, dots)
        all_gave_up = True
        for user in range(users):
            if counts[user] < 0:
                continue
            all_gave_up = False
            if floors[user] > limits[user]:
                limits[user] = floors[user]
            # Nearly always no row of a tile reaches the limit, and no more than that is asked of it.
            reaching = 0
            for query in range(user * tastes, (user + 1) * tastes):
                by_product, by_error, by_scale = weights[query, 0], weights[query, 1], weights[query, 2]
                for place in range(filled):
                    middle = np.float32(dots[query, place]) * (by_product * scales[row + place])
                    margin = by_error * errors[row + place] + by_scale * scales[row + place]
                    reaching += middle + margin >= limits[user]
            if reaching == 0:
                continue
            owner = item
            for place in range(filled):
                row_upper, row_lower = np.float32(-np.inf), np.float32(-np.inf)
                for query in range(user * tastes, (user + 1) * tastes):
                    middle = np.float32(dots[query, place]) * (weights[query, 0] * scales[row + place])
                    margin = weights[query, 1] * errors[row + place] + weights[query, 2] * scales[row + place]
                    row_upper = max(row_upper, middle + margin)
                    row_lower = max(row_lower, middle - margin)
                if not row_upper >= limits[user] or polarity[row + place] < 0:
                    continue
                while offsets[owner + 1] <= row + place:
                    owner += 1
                if owner != current[user]:
                    if current[user] >= 0 and not _is_barred(barred, user, current[user]):
                        _note(
                            user,
                            current[user] + number,
                            upper_of[user],
                            lower_of[user],
                            mask_of[user],
                            limits,
                            bounds,
                            bound_counts,
                            candidates,
                            uppers,
                            masks,
                            counts,
                        )
                    current[user], upper_of[user], lower_of[user] = owner, row_upper, row_lower
                    mask_of[user] = 0
                upper_of[user] = max(upper_of[user], row_upper)
                lower_of[user] = max(lower_of[user], row_lower)
                mask_of[user] |= _bit(row + place - offsets[owner])
                if counts[user] < 0:
                    break
            if limits[user] > floors[user]:
                floors[user] = limits[user]
        if all_gave_up:
            return
        row = row_end
    for user in range(users):
        if current[user] >= 0 and not _is_barred(barred, user, current[user]):
            _note(
                user,
                current[user] + number,
                upper_of[user],
                lower_of[user],
                mask_of[user],
                limits,
                bounds,
                bound_counts,
                candidates,
                uppers,
                masks,
                counts,
            )
        if limits[user] > floors[user]:
            floors[user] = limits[user]


@_kernel(
    _readonly(types.float32, 2),
    types.int64,
    _readonly(types.int16, 2),
    _readonly(types.int64, 1),
    _readonly(types.int8, 1),
    types.int64,
    types.int64,
    types.int64,
    _readonly(types.float32, 1),
    _readonly(types.float32, 3),
    _readonly(types.int64, 2),
    _readonly(types.int64, 3),
    _readonly(types.float32, 3),
    _readonly(types.int64, 3),
    _readonly(types.int64, 2),
    _writable(types.float32, 2),
    _writable(types.int64, 2),
    _writable(types.int64, 2),
    _writable(types.int64, 1),
    returns=types.int64,
)
def settle(
    queries,
    tastes,
    vectors,
    offsets,
    polarity,
    number,
    first,
    last,
    floors,
    bounds,
    bound_counts,
    candidates,
    uppers,
    masks,
    note_counts,
    scores,
    items,
    winners,
    counts,
):
    """Push what scans noted of one catalogue for the users first to last into their heaps, scored from the float16 vectors.

    bounds to note_counts: as in `scan`, of all threads, which come first. Heaps and number: as in `exact_top`. Returns for how
    many of the users a scan gave up, for whom nothing is done.
    """
    k, items_here, gave_up = scores.shape[1], offsets.shape[0] - 1, 0
    best = np.empty(k, np.float32)
    for user in range(first, last):
        room = 0
        for thread in range(bounds.shape[0]):
            room = -1 if room < 0 or note_counts[thread, user] < 0 else room + note_counts[thread, user]
        if room < 0:
            gave_up += 1
            continue
        # What is below the k-th best lower bound cannot be among the best.
        known = 0
        for thread in range(bounds.shape[0]):
            for place in range(bound_counts[thread, user]):
                known = _push_bound(best, known, bounds[thread, user, place])
        floor = max(floors[user], best[0]) if known == k else floors[user]
        # What has one of the k best upper bounds comes first: it leaves few of the others to be scored.
        known = 0
        for thread in range(bounds.shape[0]):
            for place in range(note_counts[thread, user]):
                known = _push_bound(best, known, uppers[thread, user, place])
        likely = best[0] if known == k else np.float32(-np.inf)
        picked, picked_uppers = np.empty(room, np.int64), np.empty(room, np.float32)
        picked_masks, picks = np.empty(room, np.int64), 0
        for likely_ones in (True, False):
            for thread in range(bounds.shape[0]):
                for place in range(note_counts[thread, user]):
                    item, upper = candidates[thread, user, place] - number, uppers[thread, user, place]
                    if 0 <= item < items_here and upper >= floor and (upper >= likely) == likely_ones:
                        picked[picks], picked_uppers[picks] = item, upper
                        picked_masks[picks] = masks[thread, user, place]
                        picks += 1
        for pick in range(-FETCHED_AHEAD, picks):
            # The vectors lie anywhere in memory: several are under way at any time.
            ahead = pick + FETCHED_AHEAD
            if ahead < picks and (counts[user] < k or picked_uppers[ahead] >= scores[user, 0]):
                for row in range(offsets[picked[ahead]], offsets[picked[ahead] + 1]):
                    if picked_masks[ahead] & _bit(row - offsets[picked[ahead]]):
                        for column in range(0, vectors.shape[1], LINE_HALVES):
                            _fetch(vectors, row, column)
            if pick < 0 or (counts[user] == k and picked_uppers[pick] < scores[user, 0]):
                continue
            item = picked[pick]
            score, winner = _best_of_item(
                queries,
                user * tastes,
                (user + 1) * tastes,
                vectors,
                offsets[item],
                offsets[item + 1],
                polarity,
                picked_masks[pick],
            )
            counts[user] = _push(scores[user], items[user], winners[user], counts[user], score, item + number, winner)
    return gave_up


@_kernel(
    _writable(types.float32, 3),
    _writable(types.int64, 3),
    _writable(types.int64, 3),
    _writable(types.int64, 2),
)
def finish(scores, items, winners, counts):
    """Merge the heaps (heaps, users, k), of which counts (heaps, users) are in use, into the first, and sort it, best first."""
    for user in range(scores.shape[1]):
        for heap in range(1, scores.shape[0]):
            for place in range(counts[heap, user]):
                counts[0, user] = _push(
                    scores[0, user],
                    items[0, user],
                    winners[0, user],
                    counts[0, user],
                    scores[heap, user, place],
                    items[heap, user, place],
                    winners[heap, user, place],
                )
        for last in range(counts[0, user] - 1, 0, -1):
            score, item, winner = scores[0, user, last], items[0, user, last], winners[0, user, last]
            # The worst of what is left.
            scores[0, user, last], items[0, user, last] = scores[0, user, 0], items[0, user, 0]
            winners[0, user, last] = winners[0, user, 0]
            _sink(scores[0, user], items[0, user], winners[0, user], last, score, item, winner)
