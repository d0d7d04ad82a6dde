"""Item metadata: one row of an item source in our columns, whatever its format.

Belongs here: the columns of each item format, and how irregular values (nested lists, Python literals, shelves,
free-form details) become a title, a description, categories and attributes. Does not belong here: reviews, files and
storage.

Plain Python, row by row: metadata is too irregular for SQL, and there are far fewer items than reviews.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from persona4rec_pipeline.reviews.files import JSON_ERRORS, parse_literal, without_surrogates

# What a rejected row is cut at, so that the table of rejects stays readable.
ROW_TEXT_CHARACTERS = 2_000
ATTRIBUTE_CHARACTERS = 1_000
GOODREADS_SHELVES = 5

# Characters around an id that are no part of it; the same in SQL and in Python, or items would not meet their reviews.
BLANKS = " \t\n\r\f\v\0"

NOT_JSON = "not valid JSON"
NOT_AN_OBJECT = "not a JSON object"
NO_ITEM = "no item"

ITEM_SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("row_text", pa.string()),
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("attributes", pa.string()),
    ]
)


@dataclass(frozen=True)
class ItemFormat:
    """Names of the columns of an item source. `attributes` None: all other columns."""

    item_id: str
    title: str | None
    description: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    attributes: tuple[str, ...] | None = None
    # Columns whose entries become attributes of their own.
    spread: tuple[str, ...] = ()
    read_categories: Callable[[Any], list[str]] | None = None


# Columns that say how an item was received or sold. They are counted over all reviews, the held-out ones included, and
# would leak them into what describes the item.
_RECEPTION_COLUMNS = frozenset(
    {
        "also_bought",
        "also_buy",
        "also_view",
        "also_viewed",
        "average_rating",
        "avg_rating",
        "bought_together",
        "buy_after_viewing",
        "frequently_bought_together",
        "mean_rating",
        "num_rating",
        "rating",
        "rating_count",
        "rating_number",
        "related",
        "similar_books",
        "similar_item",
    }
)
# Such a column too, whatever else its name holds: n_reviews, "Best Sellers Rank", text_reviews_count, vote_average.
_RECEPTION_WORDS = frozenset(
    {
        "helpful",
        "popular",
        "popularity",
        "rank",
        "ratings",
        "review",
        "reviews",
        "salesrank",
        "score",
        "stars",
        "vote",
        "votes",
    }
)

# Values that Yelp writes as Python literals: True, u'free', {'garage': False}.
_LOOKS_LITERAL = re.compile(r"""u?['"]|[\[{]|(True|False)$""")

# Words of Goodreads shelves that say what a reader did or owns, not what the book is.
_PRIVATE_WORDS = frozenset(
    {
        "abandoned",
        "bought",
        "buy",
        "books",
        "currently",
        "default",
        "dnf",
        "favorite",
        "favorites",
        "favourite",
        "favourites",
        "finish",
        "finished",
        "have",
        "kindle",
        "library",
        "my",
        "own",
        "owned",
        "read",
        "reading",
        "reads",
        "reread",
        "shelf",
        "tbr",
        "want",
        "wish",
        "wishlist",
    }
)


def parse_item(columns: ItemFormat, text: str, problem: str | None) -> dict[str, Any]:
    """One row of an item source in our columns, or with the problem that makes it unusable."""
    try:
        if problem is None:
            row = json.loads(text)
            if not isinstance(row, dict):
                problem = NOT_AN_OBJECT
            elif item_id := _id_text(row.get(columns.item_id)):
                return {"item_id": item_id, **_item_fields(columns, row)}
            else:
                problem = NO_ITEM
    except JSON_ERRORS:
        problem = NOT_JSON
    return {"problem": problem, "row_text": text.replace("\0", "")[:ROW_TEXT_CHARACTERS]}


def _item_fields(columns: ItemFormat, row: dict[str, Any]) -> dict[str, Any]:
    title = row.get(columns.title) if columns.title else None
    paragraphs = [text for name in columns.description if (text := _as_text(row.get(name), "\n"))]
    read_categories = columns.read_categories or _category_list
    categories = next((found for name in columns.categories if (found := read_categories(row.get(name)))), None)
    used = {columns.item_id, columns.title, *columns.description, *columns.categories}
    names = columns.attributes if columns.attributes is not None else [name for name in row if name not in used]
    pairs = [(name, row.get(name)) for name in names]
    for name in columns.spread:
        inner = row.get(name)
        pairs += list(inner.items()) if isinstance(inner, dict) else []
    attributes = {
        without_surrogates(name): text[:ATTRIBUTE_CHARACTERS]
        for name, value in pairs
        if not _is_reception(name) and (text := _attribute(value))
    }
    return {
        "title": _as_text(title, " "),
        "description": "\n".join(paragraphs) or None,
        "categories": categories,
        "attributes": json.dumps(attributes, ensure_ascii=False, sort_keys=True) if attributes else None,
    }


def _is_reception(name: str) -> bool:
    plain = re.sub(r"[^a-z]+", "_", name.lower()).strip("_")
    return plain in _RECEPTION_COLUMNS or not _RECEPTION_WORDS.isdisjoint(plain.split("_"))


def _id_text(value: Any) -> str | None:
    """An id as DuckDB reads it from the reviews: `json_extract_string`, trimmed."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    return without_surrogates(str(value)).strip(BLANKS) or None


def _as_text(value: Any, separator: str = ", ") -> str | None:
    """A value as plain text: lists joined, blank and NaN as None."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return separator.join(text for part in value if (text := _as_text(part, separator))) or None
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True)
    text = without_surrogates(str(value)).replace("\0", "").strip()
    return text or None


def _attribute(value: Any) -> str | None:
    """A value of an attribute as text; links and what says nothing are dropped."""
    if isinstance(value, str) and _LOOKS_LITERAL.match(value):
        value = value if (literal := parse_literal(value)) is None else literal
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):  # {"name": "Jane Doe", "about": [...], "avatar": "http..."}
            return _attribute(value["name"])
        chosen = [str(key) for key, inner in value.items() if inner is True]
        pairs = [
            f"{key}: {text}"
            for key, inner in value.items()
            if not isinstance(inner, bool) and (text := _attribute(inner))
        ]
        return _as_text(chosen + pairs)
    if isinstance(value, (list, tuple)):
        return _as_text([text for part in value if (text := _attribute(part))])
    text = _as_text(value)
    if text is None or text.lower() in ("none", "null", "nan") or text.startswith(("http://", "https://")):
        return None
    return text


def _category_list(value: Any) -> list[str]:
    """Categories from a list, a nested list, a JSON or Python list in a text, or a text with separators."""
    if isinstance(value, str):
        literal = parse_literal(value) if value.strip()[:1] in ("[", "(") else None
        if isinstance(literal, (list, tuple)):
            return _category_list(literal)
        separator = next((mark for mark in "|;," if mark in value), None)
        value = value.split(separator) if separator else [value]
        return list(dict.fromkeys(text for part in value if (text := _as_text(part))))
    if isinstance(value, (list, tuple)):
        parts = [
            inner for part in value for inner in (_category_list(part) if isinstance(part, (list, tuple)) else [part])
        ]
        return list(dict.fromkeys(text for part in parts if (text := _as_text(part))))
    return []


def _shelf_list(value: Any) -> list[str]:
    """The first shelves of a book that say what it is."""
    names = [shelf.get("name") for shelf in value if isinstance(shelf, dict)] if isinstance(value, list) else []
    telling = [
        text.replace("-", " ")
        for name in names
        if (text := _as_text(name)) and not _PRIVATE_WORDS & set(text.lower().split("-"))
    ]
    return telling[:GOODREADS_SHELVES]


ITEM_FORMATS: dict[str, ItemFormat] = {
    "amazon_2023": ItemFormat(
        item_id="parent_asin",
        title="title",
        description=("description", "features"),
        categories=("categories",),
        attributes=("author", "main_category", "price", "store", "subtitle"),
        spread=("details",),
    ),
    "amazon_2014": ItemFormat(
        item_id="asin",
        title="title",
        description=("description", "feature"),
        categories=("categories", "category"),
        attributes=("brand", "main_cat", "price"),
    ),
    "yelp": ItemFormat(
        item_id="business_id",
        title="name",
        categories=("categories",),
        attributes=("city", "state"),
        spread=("attributes",),
    ),
    "goodreads": ItemFormat(
        item_id="book_id",
        title="title",
        description=("description",),
        categories=("popular_shelves",),
        attributes=("format", "language_code", "num_pages", "publication_year", "publisher"),
        read_categories=_shelf_list,
    ),
}
