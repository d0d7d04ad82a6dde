"""The OpenAPI document: FastAPI's own routes, and beside them the ones that are answered before FastAPI.

Belongs here: shapes of answers, and the schemas of all bodies, made of the records that read them. Does not belong here: the
records (`bodies`), examples (they stand with their routes).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

if TYPE_CHECKING:
    from persona4rec_pipeline.serving.front import Post

REFERENCE = "#/components/schemas/{name}"
PROBLEMS = {
    401: "No valid API key, where one is required.",
    404: "There is no such item.",
    413: "The body is larger than serving.max_body_bytes.",
    415: "The body is not application/json.",
    421: "The Host header names no host that this server answers to.",
    422: "The request cannot be used; `detail` says what to mend.",
    429: "Too many requests; `Retry-After` says when to come again.",
    503: "There is no index yet, or too much is being asked; `Retry-After` says when to come again.",
}
# What any route may answer, besides what it is there for.
ALWAYS = (401, 421, 429, 503)
ALWAYS_POSTING = (401, 413, 415, 421, 422, 429, 503)


class Named(Struct):
    """An item with its title."""

    item_id: str
    catalog: str
    title: str


class Entry(Struct):
    """One item of a list; without `explain` it says nothing of personas, reasons and quotes."""

    item_id: str
    catalog: str | None
    title: str | None
    score: float | None
    flags: list[str]
    fallback: str | None
    candidate_place: int | None
    persona_id: str | None = None
    persona_name: str | None = None
    why: str = ""
    quotes: list[str] = []


class Head(Struct, kw_only=True):
    """What every answer says first; `ignored` names items of the session that the index does not know, if there are any."""

    user_id: str | None
    generation: int
    variant: str | None
    fallback: str | None
    ignored: list[Any] = []


class Reranked(Head, kw_only=True):
    """Candidates, best first; `weight` is that of the personas, none without a profile."""

    weight: float | None
    candidates: list[Entry]


class Recommended(Head, kw_only=True):
    """Items, best first."""

    recommendations: list[Entry]


class Persona(Struct):
    """A persona; `score` is its cosine with the profile, if there is one."""

    persona_id: str
    name: str
    description: str
    why: str
    polarity: str
    quotes: list[str]
    evidence_review_ids: list[str]
    source: str
    score: float | None


class Explained(Head, kw_only=True):
    """Why an item fits; `personas` only where there is no profile to compare them with."""

    item_id: str
    catalog: str
    title: str
    winner: Persona | None
    runner_up: Persona | None
    nearest_critical: Persona | None
    personas: list[Persona] = []


class Item(Struct):
    """An item."""

    item_id: str
    catalog: str
    title: str
    summary: str
    categories: list[str]
    attributes: dict[str, str]
    train_popularity: int


class ItemPersonas(Struct):
    """An item and its personas."""

    generation: int
    item: Item
    personas: list[Persona]


class Similar(Struct):
    """An item and those like it."""

    generation: int
    item: Item
    similar: list[Entry]


class Users(Struct):
    """Ids of users."""

    generation: int
    users: list[str]


class Items(Struct):
    """Items that were found."""

    generation: int
    items: list[Named]


class Past(Struct):
    """One interaction; `title` is null for an item that is gone; `queued`: the index does not contain it yet."""

    item_id: str
    catalog: str
    title: str | None
    at: datetime
    queued: bool = False
    kind: str | None = None


class UserHistory(Struct):
    """A user's history."""

    user_id: str
    generation: int
    fallback: str | None
    interactions: int
    history: list[Past]


class Point(Struct):
    """A persona on the map."""

    x: float
    y: float
    catalog: str
    item_id: str
    title: str
    persona_id: str
    name: str
    polarity: str


class UserPoint(Struct):
    """A user on the map."""

    user_id: str
    x: float
    y: float


class Map(Struct):
    """Personas in two dimensions, `total` of which there are."""

    generation: int
    user: UserPoint | None
    total: int
    points: list[Point]


class Taken(Struct):
    """An interaction that is queued; `known_item`: whether the index knows its item yet."""

    id: int
    queued: bool
    known_item: bool


class Health(Struct):
    """It lives."""

    status: str


class Readiness(Struct):
    """`ready`, or `degraded` while a newer generation is refused; the rest only with a key, where keys are required."""

    status: str
    problem: str | None = None
    generation: int | None = None
    published_at: str | None = None
    encoder_fingerprint: str | None = None
    catalogs: dict[str, dict[str, int]] = {}
    users: int | None = None
    blends: dict[str, Any] | None = None
    refused: int | None = None
    hot_swaps: int | None = None
    experiment: dict[str, Any] | None = None


class Where(Struct):
    """One place that must be mended."""

    where: str
    problem: str


class ProblemDocument(Struct):
    """RFC 9457; `detail` says what to mend."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Where] = []


ANSWERS: list[type[Struct]] = [
    Reranked, Recommended, Explained, ItemPersonas, Similar, Users, Items, UserHistory, Map, Taken, Health, Readiness,
    ProblemDocument,
]  # fmt: skip


def answer_of(name: str, *problems: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route."""
    found: dict[int | str, dict[str, Any]] = {status: _content(name, HTTPStatus(status).phrase, "application/json")}
    for code in sorted({*problems, *ALWAYS}):
        found[code] = _content("ProblemDocument", PROBLEMS[code], "application/problem+json")
    return found


def describe(app: FastAPI, posts: Sequence[Post], extra: Sequence[type[Struct]] = ()) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    records = [*ANSWERS, *extra, *(post.record for post in posts)]
    _, components = msgspec.json.schema_components(records, ref_template=REFERENCE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    for post in posts:
        examples = {name: {"value": value} for name, value in post.examples.items()}
        reference = {"$ref": REFERENCE.format(name=post.record.__name__)}
        document["paths"].setdefault(post.described_as or post.path, {})["post"] = {
            "tags": [post.tag],
            "summary": post.summary,
            "description": (post.handler.__doc__ or "").strip(),
            "operationId": f"{post.handler.__name__}_{post.path.strip('/').replace('/', '_')}",
            "parameters": list(post.parameters),
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": reference, "examples": examples}},
            },
            "responses": {
                str(code): stated
                for code, stated in answer_of(post.answer, *ALWAYS_POSTING, *post.problems, status=post.status).items()
            },
        }
    for of_path in document["paths"].values():
        for operation in of_path.values():
            # FastAPI's own shape of a 422 is never sent.
            operation["responses"]["422"] = _content("ProblemDocument", PROBLEMS[422], "application/problem+json")
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["security"] = [{}, {"bearer": []}, {"key": []}]
    return document


def _content(name: str, description: str, media_type: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name=name)}
    return {"description": description, "content": {media_type: {"schema": schema}}}
