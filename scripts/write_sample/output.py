"""Puts a written catalogue into files: the data as Amazon Reviews 2023 has it, and the planted truth beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .model import Book, Motive, Reader, WrittenReview


def write_catalogue(folder: Path, books: Sequence[Book], reviews: Sequence[WrittenReview]) -> None:
    """Write ``items.jsonl`` and ``reviews.jsonl``; nothing about motives goes in."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "items.jsonl", (item_record(book, reviews) for book in books))
    _write_lines(folder / "reviews.jsonl", (review_record(review) for review in in_order_of_time(reviews)))


def in_order_of_time(reviews: Iterable[WrittenReview]) -> list[WrittenReview]:
    """Sort reviews by time, then by reader, so that the files do not depend on the order of writing."""
    return sorted(reviews, key=lambda review: (review.plan.timestamp, review.plan.reader.user_id))


def item_record(book: Book, reviews: Iterable[WrittenReview]) -> dict[str, Any]:
    """Return the metadata of a book; its rating is that of the reviews in the sample."""
    ratings = [review.plan.rating for review in reviews if review.plan.book.asin == book.asin]
    return {
        "main_category": "Books",
        "title": book.title,
        "average_rating": round(sum(ratings) / len(ratings), 1) if ratings else None,
        "rating_number": len(ratings),
        "features": book.features,
        "description": [book.description],
        "price": None,
        "images": [],
        "videos": [],
        "store": book.author,
        "categories": ["Books", *book.categories],
        "details": {"Author": book.author, "First published": book.first_published, "Language": "English"},
        "parent_asin": book.asin,
        "bought_together": None,
    }


def review_record(review: WrittenReview) -> dict[str, Any]:
    """Return a review as Amazon Reviews 2023 stores it."""
    return {
        "rating": review.plan.rating,
        "title": review.title,
        "text": review.text,
        "images": [],
        "asin": review.plan.book.asin,
        "parent_asin": review.plan.book.asin,
        "user_id": review.plan.reader.user_id,
        "timestamp": review.plan.timestamp,
        "helpful_vote": review.helpful_vote,
        "verified_purchase": review.verified_purchase,
    }


def write_truth(
    path: Path, motives: Mapping[str, Motive], books: Sequence[Book], reviews: Sequence[WrittenReview]
) -> None:
    """Write what was planted: motives, the motives of each item, the motive of each review, each reader's tastes."""
    readers = {review.plan.reader.user_id: review.plan.reader for review in in_order_of_time(reviews)}
    truth = {
        "motives": [
            {
                "id": motive.motive_id,
                "name": motive.name,
                "description": motive.description,
                "polarity": motive.polarity,
            }
            for motive in motives.values()
        ],
        "items": {
            book.asin: {
                "title": book.title,
                "appreciative": list(book.appreciative),
                "critical": list(book.critical),
            }
            for book in books
        },
        "reviews": [
            {
                "user_id": review.plan.reader.user_id,
                "parent_asin": review.plan.book.asin,
                "timestamp": review.plan.timestamp,
                "motive": review.plan.motive_id,
                "kind": review.plan.kind,
            }
            for review in in_order_of_time(reviews)
        ],
        "readers": {user_id: _reader_truth(reader) for user_id, reader in readers.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(truth, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _reader_truth(reader: Reader) -> dict[str, Any]:
    return {"tastes": reader.tastes, "late_taste": reader.late_taste, "peeve": reader.peeve}


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
