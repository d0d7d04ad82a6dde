"""Decides who reads which book, when, and with what result. No wording belongs here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from .model import Book, PlannedReview, Reader

FIRST_DAY = datetime(2015, 1, 5, tzinfo=UTC)
LAST_DAY = datetime(2023, 9, 30, tzinfo=UTC)
ARRIVALS_FROM = datetime(2023, 7, 1, tzinfo=UTC)
ARRIVALS_TO = datetime(2023, 12, 22, tzinfo=UTC)

MATCH_RATE = 0.8
POPULARITY_SKEW = 1.2
NOISE_RATES = (("vague", 0.06), ("off_topic", 0.045), ("contradictory", 0.015))


def plan_catalogue(chance: random.Random, readers: Sequence[Reader], books: Sequence[Book]) -> list[PlannedReview]:
    """Plan every review of the first catalogue, reader by reader in order of time."""
    by_asin = {book.asin: book for book in books}
    plans = []
    for reader in readers:
        days = _reading_days(chance, reader.review_count)
        if reader.one_off is not None:
            one_off = reader.one_off
            kind = "motive" if one_off.kind == "single" else one_off.kind
            plans.append(
                PlannedReview(
                    reader,
                    by_asin[one_off.asin],
                    _moment_on(chance, days[0]),
                    kind,
                    one_off.motive_id,
                    one_off.rating,
                    one_off,
                )
            )
            continue
        unread = [book for book in books if book.popularity > 0]
        for position, day in enumerate(days):
            tastes = reader.tastes_at(position, len(days))
            plan = _plan_review(chance, reader, tastes, unread, _moment_on(chance, day))
            unread.remove(plan.book)
            plans.append(plan)
    return plans


def plan_arrivals(
    chance: random.Random,
    readers: Sequence[Reader],
    newcomers: Sequence[Reader],
    books: Sequence[Book],
    earlier: Sequence[PlannedReview],
    count: int,
) -> list[PlannedReview]:
    """Plan the second catalogue: mostly readers with a history, always after their last earlier review."""
    last_seen: dict[str, int] = {}
    for plan in earlier:
        last_seen[plan.reader.user_id] = max(last_seen.get(plan.reader.user_id, 0), plan.timestamp)
    regulars = [reader for reader in readers if reader.review_count > 1]
    unread: dict[str, list[Book]] = {}
    plans = []
    for place in range(count):
        reader = newcomers[place] if place < len(newcomers) else _draw_regular(chance, regulars, books)
        choices = unread.setdefault(reader.user_id, [book for book in books if book.popularity > 0])
        if not choices:
            continue
        last_earlier = datetime.fromtimestamp(last_seen.get(reader.user_id, 0) / 1000, tz=UTC)
        start = max(ARRIVALS_FROM, last_earlier + timedelta(days=1))
        day = start + timedelta(days=chance.random() * max(1, (ARRIVALS_TO - start).days))
        plan = _plan_review(chance, reader, reader.tastes_at(1, 1), choices, _moment_on(chance, day))
        choices.remove(plan.book)
        plans.append(plan)
    return plans


def _draw_regular(chance: random.Random, regulars: Sequence[Reader], books: Sequence[Book]) -> Reader:
    """Draw an active reader, mostly one whose tastes some new arrival meets: that is why they would pick it up."""
    offered = {motive_id for book in books if book.popularity > 0 for motive_id in book.appreciative}
    eager = [reader for reader in regulars if offered.intersection(reader.tastes_at(1, 1))]
    pool = eager if eager and chance.random() < 0.9 else regulars
    return chance.choices(pool, [min(reader.review_count, 6) for reader in pool])[0]


def _plan_review(
    chance: random.Random, reader: Reader, tastes: Sequence[str], unread: Sequence[Book], timestamp: int
) -> PlannedReview:
    matching = [book for book in unread if any(taste in book.appreciative for taste in tastes)]
    others = [book for book in unread if book not in matching]
    matched = bool(matching) and (not others or chance.random() < MATCH_RATE)
    pool = matching if matched else others
    book = chance.choices(pool, [book.popularity**POPULARITY_SKEW for book in pool])[0]
    if matched:
        held = [taste for taste in tastes if taste in book.appreciative]
        motive_id = held[0] if len(held) == 1 or chance.random() < 0.65 else held[1]
        kind, rating = "motive", 5.0 if chance.random() < 0.66 else 4.0
    else:
        motive_id = reader.peeve if reader.peeve in book.critical else chance.choice(sorted(book.critical))
        rating = chance.choices([1.0, 2.0, 3.0], [0.2, 0.35, 0.45])[0]
        kind = "mixed" if rating == 3.0 else "critical"
    draw = chance.random()
    for noise_kind, rate in NOISE_RATES:
        if draw < rate:
            return PlannedReview(reader, book, timestamp, noise_kind, None, _noise_rating(chance, noise_kind, rating))
        draw -= rate
    return PlannedReview(reader, book, timestamp, kind, motive_id, rating)


def _noise_rating(chance: random.Random, kind: str, rating: float) -> float:
    if kind == "contradictory":
        return 3.0
    if kind == "off_topic":
        return chance.choices([1.0, 2.0, 3.0, 4.0, 5.0], [0.35, 0.2, 0.1, 0.1, 0.25])[0]
    return max(2.0, rating)


def _reading_days(chance: random.Random, count: int) -> list[datetime]:
    """Spread a reader's reviews over a stretch of the years: the more reviews, the longer the stretch."""
    whole = (LAST_DAY - FIRST_DAY).days
    stretch = min(whole, 40 + count * chance.randint(40, 170))
    begin = chance.random() * (whole - stretch)
    return sorted(FIRST_DAY + timedelta(days=begin + chance.random() * stretch) for _ in range(count))


def _moment_on(chance: random.Random, day: datetime) -> int:
    return int(day.timestamp()) * 1000 + chance.randrange(1000)
