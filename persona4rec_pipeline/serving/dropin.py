"""The shapes of others, so that an engine that calls a reranking model can call this service instead.

Belongs here: Jina's and Cohere's rerank, and Metarank's rank: their requests and answers. Does not belong here: any ranking; they
ask what POST /v1/rerank asks.

Jina and Cohere (POST /rerank, /v2/rerank): `query` says who is asking, `documents` are item ids. Metarank (POST /rank/{model}):
`user` and `items`; the model `noop` answers with the items as they came. In all of them every document comes back, one that the
index does not know in its place, and one named twice beside its first mention; scores lie between 0 and 1 and fall with the
order, so that whoever sorts by them gets this order.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Struct

from persona4rec_pipeline.index import Item, PersonaIndex, Recommendation, UnknownItem
from persona4rec_pipeline.index.answers import UNKNOWN_USER
from persona4rec_pipeline.serving.answers import to_json
from persona4rec_pipeline.serving.ask import Who
from persona4rec_pipeline.serving.bodies import MAX_TEXT_CHARACTERS, Identifier, PastItem, Question, Text
from persona4rec_pipeline.serving.front import Post
from persona4rec_pipeline.serving.history import HistoryError, parse_history
from persona4rec_pipeline.serving.posts import check_candidates, count_fallback, count_unknown
from persona4rec_pipeline.serving.problems import BadRequest, Problem
from persona4rec_pipeline.serving.profiles import who_asks
from persona4rec_pipeline.serving.state import Arm, Call, Service

USER_PREFIX, TEXT_PREFIX = "user:", "text:"
PERSONAS, NOOP = "personas", "noop"
# The field of Metarank's items that holds the candidates' own scores, as in its documentation.
RELEVANCY = "relevancy"
# Scores of two neighbours differ at least by so much, also where their personas are equally near.
STEP = 1e-7
LOWEST = 0.02


Name = Annotated[str, Meta(max_length=1_000)]


class Document(Struct, kw_only=True):
    """A document as an object: the item is its `item_id`, else its `id`, else its `text`; other fields are left alone."""

    item_id: Identifier | None = None
    id: Identifier | None = None
    catalog: Identifier | None = None
    text: Text | None = None


class RerankShape(Struct, kw_only=True):
    """Jina's and Cohere's rerank request; fields that are not named here are left alone."""

    query: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_TEXT_CHARACTERS,
            description="Who is asking: a user id, also as `user:ID`; a JSON list of item ids (a history, most recent first); a "
            "JSON object with user_id, history, session or tastes; or a text of several words, also as `text:...`.",
        ),
    ]
    documents: Annotated[list[Text | Document], Meta(description="Item ids, or objects that name an item.")]
    top_n: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)] | None, Meta(description="How many come back; 0 or none: all.")
    ] = None
    return_documents: bool | None = False
    model: Annotated[Name | None, Meta(description="Said again in the answer.")] = None


class MetarankField(Struct):
    """A field of a request or an item."""

    name: str
    value: Any = None


class MetarankItem(Struct):
    """One item; a numeric field `relevancy`, if all items have one, is the candidates' own score."""

    id: Identifier
    fields: list[MetarankField] | None = None


class MetarankRequest(Struct, kw_only=True):
    """Metarank's ranking event; fields that are not named here are left alone."""

    items: list[MetarankItem]
    id: Name | None = None
    user: Identifier | None = None


class ScoredDocument(Struct):
    """A document of the answer: its place in the request, and how relevant it is, 0 to 1."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankedShape(Struct):
    """What Jina and Cohere answer with; `persona4rec` says what they have no field for."""

    id: str
    model: str | None
    results: list[ScoredDocument]
    usage: dict[str, int]
    meta: dict[str, Any]
    persona4rec: dict[str, Any]


class MetarankScore(Struct):
    """An item of the answer; `features` only with explain=true."""

    item: str
    score: float
    features: list[MetarankField] | None = None


class MetarankAnswer(Struct):
    """What Metarank answers with; `took` is in milliseconds."""

    took: int
    items: list[MetarankScore]


@dataclass(frozen=True, slots=True)
class Place:
    """One document in its new place: which one of the request, its score, and what the index says of it."""

    number: int
    relevance: float
    entry: Recommendation | None


async def rerank_shape(service: Service, body: RerankShape, call: Call) -> bytes:
    """Documents are item ids, the query says who is asking. All documents come back unless `top_n` cuts the list, an unknown
    one in its place. Scores lie between 0 and 1 and fall with the order."""
    names = [_named(document, place) for place, document in enumerate(body.documents)]
    question = question_of(service, body.query)
    who, arm, places = await _order(service, question, names, None, call)
    results: list[dict[str, Any]] = []
    for place in places[: body.top_n or None]:
        result: dict[str, Any] = {"index": place.number, "relevance_score": place.relevance}
        if body.return_documents:
            document = body.documents[place.number]
            stated = {"text": document} if isinstance(document, str) else msgspec.to_builtins(document)
            result["document"] = {name: value for name, value in stated.items() if value is not None}
        results.append(result)
    return to_json(
        {
            "id": secrets.token_hex(16),
            "model": body.model,
            "results": results,
            "usage": {"total_tokens": 0},
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
            "persona4rec": {
                "user_id": who.user_id,
                "generation": arm.served.index.generation,
                "variant": arm.variant,
                "fallback": who.fallback,
            },
        }
    )


async def rank_personas(service: Service, body: MetarankRequest, call: Call) -> bytes:
    """Metarank's ranking. `personas` orders the items for the user, `noop` leaves them as they are. With `explain=true` each item
    has features: its similarity to the user, its place before, and the persona that speaks for it."""
    began = time.perf_counter()
    scores = _own_scores(body)
    names: list[Item] = [item.id for item in body.items]
    _, _, places = await _order(service, Question(user_id=body.user), names, scores, call)
    explain = parse_qs(call.query.decode("latin-1")).get("explain", [""])[-1].lower() == "true"
    items: list[dict[str, Any]] = []
    for place in places:
        item: dict[str, Any] = {"item": body.items[place.number].id, "score": place.relevance}
        if explain:
            item["features"] = _features(place)
        items.append(item)
    return to_json({"took": _took(began), "items": items})


async def rank_noop(service: Service, body: MetarankRequest, call: Call) -> bytes:
    """Metarank's `noop`: the items as they came."""
    began = time.perf_counter()
    check_candidates(service, body.items, None)
    items = [{"item": item.id, "score": 0.0} for item in body.items]
    return to_json({"took": _took(began), "items": items})


def unknown_model(model: str) -> Problem:
    """404 for a model of Metarank's that is not here."""
    return Problem(HTTPStatus.NOT_FOUND, f"There is no model {model!r}; there are {PERSONAS} and {NOOP}.")


def question_of(service: Service, query: str) -> Question:
    """Who a query is about. Raises BadRequest for JSON that says nothing of use."""
    text = query.strip()
    if not text:
        raise BadRequest("say who is asking: a user id, a JSON list of item ids, or a text", "query")
    if text.startswith("["):
        return Question(history=_history(_json(text)))
    if text.startswith("{"):
        try:
            return msgspec.convert(_json(text), Question)
        except msgspec.ValidationError as error:
            raise BadRequest(f"{error}; give user_id, history, session or tastes", "query") from error
    if text.startswith(USER_PREFIX):
        return Question(user_id=text[len(USER_PREFIX) :].strip() or None)
    if text.startswith(TEXT_PREFIX):
        return Question(history=[PastItem(title=text[len(TEXT_PREFIX) :].strip())])
    if len(text.split()) == 1 or _is_user(service, text):
        return Question(user_id=text)
    return Question(history=[PastItem(title=text)])


def falling(similarities: Sequence[float | None]) -> list[float]:
    """Scores between 0 and 1 that fall along a list, made of cosines (-1 to 1) as far as these do; None has none."""
    found: list[float] = []
    known = [LOWEST + (1 - LOWEST) * (value + 1) / 2 if value is not None else None for value in similarities]
    step = min(STEP, LOWEST / (len(known) + 1))
    above = 1.0
    for place, value in enumerate(known):
        # Without a score of its own a document stands just below what is above it, or where the next one stands.
        if value is None:
            value = above if place else next((one for one in known if one is not None), 1.0)
        above = max(min(value, above - step if place else 1.0), 0.0)
        found.append(above)
    return found


async def _order(
    service: Service, question: Question, names: list[Item], scores: list[float] | None, call: Call
) -> tuple[Who, Arm, list[Place]]:
    check_candidates(service, names, scores)
    arm = service.arm_for(question.user_id, call)
    who = await who_asks(service, arm, question, lenient=True)
    count_fallback(service, who)
    index = arm.served.index

    def answer() -> list[Place]:
        ranking = index.rank(who.profile, names, scores=scores, interactions=who.interactions, weight=arm.weight)
        count_unknown(service, ranking)
        order = ranking.order.tolist()
        similarities = [_similarity(ranking.scores, position) for position in order]
        numbers = _numbers(index, names, [ranking.names[position] for position in order])
        entries = [index.entry(ranking, position) for position in order]
        spread = [(number, place) for place, same in enumerate(numbers) for number in same]
        relevances = falling([similarities[place] for _, place in spread])
        return [
            Place(number, relevance, entries[place])
            for (number, place), relevance in zip(spread, relevances, strict=True)
        ]

    if len(names) <= service.settings.serving.inline_candidates:
        return who, arm, answer()
    return who, arm, await service.in_thread(answer)


def _numbers(index: PersonaIndex, names: Sequence[Item], ordered: Sequence[Item]) -> list[list[int]]:
    """For each item of an answer, in its order, the places in the request that name it."""
    by_name: dict[Item, list[int]] = {}
    for number, name in enumerate(names):
        by_name.setdefault(name, []).append(number)
    if len(by_name) > len(ordered):
        # One item under two names, with and without its catalogue.
        by_item: dict[Item, list[int]] = {}
        for name, numbers in by_name.items():
            by_item.setdefault(_canonical(index, name), []).extend(numbers)
        return [sorted(by_item[_canonical(index, name)]) for name in ordered]
    return [by_name[name] for name in ordered]


def _canonical(index: PersonaIndex, name: Item) -> Item:
    try:
        known = index.item(name)
    except UnknownItem:
        return name
    return (str(known["catalog"]), str(known["item_id"]))


def _similarity(scores: Any, position: int) -> float | None:
    if scores is None:
        return None
    value = float(scores[position])
    return value if math.isfinite(value) else None


def _named(document: str | Document, place: int) -> Item:
    if isinstance(document, str):
        name = document.strip()
    else:
        name = (document.item_id or document.id or document.text or "").strip()
        if name and document.catalog is not None:
            return (document.catalog, name)
    if not name:
        raise BadRequest(
            "a document is the id of an item, or an object with item_id, id or text", f"documents[{place}]"
        )
    return name


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"it begins like JSON, but is none: {error}", "query") from error


def _history(document: Any) -> list[str | PastItem]:
    try:
        return parse_history(document)
    except HistoryError as error:
        raise BadRequest(str(error), "query") from error


def _is_user(service: Service, text: str) -> bool:
    index = service.current.get().index
    return index.fallback_for(text) != UNKNOWN_USER or service.overlay.of(text, index) is not None


def _own_scores(body: MetarankRequest) -> list[float] | None:
    found = []
    for item in body.items:
        value = next((field.value for field in item.fields or () if field.name == RELEVANCY), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        found.append(float(value))
    return found or None


def _features(place: Place) -> list[dict[str, Any]]:
    entry = place.entry
    stated: dict[str, Any] = {
        "persona_similarity": None if entry is None else entry.score,
        "candidate_place": place.number + 1,
        "persona": None if entry is None else entry.persona_name,
        "why": None if entry is None else entry.why,
    }
    return [{"name": name, "value": value} for name, value in stated.items() if value is not None]


def _took(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)


_JINA = {
    "a user": {"model": "persona4rec", "query": "reader-17", "documents": ["dracula", "emma", "walden"], "top_n": 2},
    "a history": {"query": '["moby-dick", "persuasion"]', "documents": [{"id": "dracula"}, {"id": "emma"}]},
    "a text": {"query": "slow novels of the sea", "documents": ["dracula", "moby-dick"], "return_documents": True},
}
_METARANK = {
    "Metarank's": {
        "id": "81f46c34",
        "timestamp": "1599391467000",
        "user": "reader-17",
        "session": "session1",
        "fields": [],
        "items": [{"id": "dracula", "fields": [{"name": "relevancy", "value": 2.0}]}, {"id": "emma"}],
    }
}
_METARANK_PARAMETERS = (
    {"name": "model", "in": "path", "required": True, "schema": {"enum": [PERSONAS, NOOP]}},
    {"name": "explain", "in": "query", "schema": {"type": "boolean", "default": False}},
)

DROPINS = [
    *(
        Post(
            path=path,
            record=RerankShape,
            handler=rerank_shape,
            answer="RerankedShape",
            summary="Rerank, in the shape of Jina and Cohere",
            examples=_JINA,
            tag="drop-in",
        )
        for path in ("/rerank", "/v2/rerank")
    ),
    *(
        Post(
            path=f"/rank/{model}",
            record=MetarankRequest,
            handler=handler,
            answer="MetarankAnswer",
            summary="Rank, in the shape of Metarank",
            examples=_METARANK,
            tag="drop-in",
            problems=(404, 422, 503),
            described_as="/rank/{model}",
            parameters=_METARANK_PARAMETERS,
        )
        for model, handler in ((PERSONAS, rank_personas), (NOOP, rank_noop))
    ),
]
SHAPES: list[type[Struct]] = [RerankedShape, MetarankAnswer]
