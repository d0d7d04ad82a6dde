"""The HTTP API.

    GET  /healthz                                       generation, encoder, counts; 503 without an index
    GET  /v1/users/{user_id}/recommendations?k=         the k best unseen items with their reasons
    POST /v1/rerank                                     {"user_id", "candidates", "scores", "weight", "k"}: candidates in the
                                                        user's order, blended with their own as learned, or as told
    GET  /v1/items/{item_id}/personas?catalog=          all personas of an item

Belongs here: routes, what a request may look like, errors. Does not belong here: any ranking. What an unknown user, an
unknown candidate or a repeated one gets is said in `index/reader.py`; the API hands it on. Errors are problem details
(RFC 9457, application/problem+json): 404 for an unknown item or path, 422 for bad input, 503 while there is no index.
"""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from persona4rec_pipeline import __version__
from persona4rec_pipeline.index import IndexProblem, UnknownItem
from persona4rec_pipeline.index.reader import MAX_SCORE
from persona4rec_pipeline.serving.current import LOOK_EVERY_S, CurrentIndex

DEFAULT_K = 10
MAX_K = 1_000
MAX_CANDIDATES = 10_000
MAX_ID_CHARACTERS = 1_000

Score = Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE)]
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]


class EscapedJson(JSONResponse):
    """JSON in which no text can end a script or open a tag, wherever a caller pastes it: < > & are written as \\u003c..."""

    def render(self, content: Any) -> bytes:
        body = super().render(content)
        # These stand only inside strings; JSON itself has no use for them.
        for character in (b"<", b">", b"&"):
            body = body.replace(character, b"\\u%04x" % ord(character))
        return body.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")


class CatalogItem(BaseModel):
    """An item named with its catalogue."""

    model_config = ConfigDict(extra="forbid")

    catalog: Identifier
    item_id: Identifier


class RerankRequest(BaseModel):
    """Candidates to order for a user, best first; a bare item_id means the item of the first catalogue that has it.

    scores: the candidates' own, one each. weight: of the personas, 0 (candidate order) to 1 (personas alone); default: as
    learned.
    """

    model_config = ConfigDict(extra="forbid")

    user_id: Identifier
    candidates: Annotated[list[Identifier | CatalogItem], Field(max_length=MAX_CANDIDATES)]
    scores: Annotated[list[Score], Field(max_length=MAX_CANDIDATES)] | None = None
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None

    @model_validator(mode="after")
    def _one_score_each(self) -> RerankRequest:
        if self.scores is not None and len(self.scores) != len(self.candidates):
            raise ValueError(
                f"scores: give one for each of the {len(self.candidates)} candidates, not {len(self.scores)}"
            )
        return self


def create_app(index_path: str | Path, look_every_s: float = LOOK_EVERY_S, verify: bool = True) -> FastAPI:
    """The application over the index at `index_path` (`<home>/index`); says 503 while nothing is published there.

    look_every_s: how often it looks for a newer generation; verify: whether checksums are compared on opening.
    """
    app = FastAPI(
        title="persona4rec",
        version=__version__,
        description="Ranking with reasons, from an index of personas.",
        default_response_class=EscapedJson,
    )
    current = CurrentIndex(Path(index_path), look_every_s, verify)
    app.add_exception_handler(IndexProblem, _index_problem)
    app.add_exception_handler(UnknownItem, _unknown_item)
    app.add_exception_handler(RequestValidationError, _bad_input)
    app.add_exception_handler(HTTPException, _http_error)

    @app.get("/healthz")
    def health() -> dict[str, Any]:
        index = current.get()
        return {
            "status": "ok" if current.problem is None else "degraded",
            "problem": current.problem,
            "generation": index.generation,
            "published_at": index.manifest.created_at,
            "encoder_fingerprint": index.encoder_fingerprint,
            "catalogs": {
                name: {"items": counts.items, "personas": counts.personas}
                for name, counts in index.manifest.catalogs.items()
            },
            "users": index.manifest.users,
            "blends": None if index.manifest.blends is None else asdict(index.manifest.blends),
        }

    @app.get("/v1/users/{user_id:path}/recommendations")
    def recommendations(user_id: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K) -> dict[str, Any]:
        index = current.get()
        return {
            "user_id": user_id,
            "generation": index.generation,
            "fallback": index.fallback_for(user_id),
            "recommendations": [item.to_dict() for item in index.recommend(user_id, k)],
        }

    @app.post("/v1/rerank")
    def rerank(request: RerankRequest) -> dict[str, Any]:
        index = current.get()
        candidates = [item if isinstance(item, str) else (item.catalog, item.item_id) for item in request.candidates]
        fallback, interactions = index.fallback_for(request.user_id), index.interactions_of(request.user_id)
        weight = request.weight
        if weight is None:
            weight = index.persona_weight(interactions, request.scores is not None)
        ranking = index.rerank(
            index.profile_of(request.user_id), candidates, request.k, scores=request.scores, weight=weight
        )
        return {
            "user_id": request.user_id,
            "generation": index.generation,
            "fallback": fallback,
            "weight": None if fallback else weight,
            "candidates": [item.to_dict() for item in ranking],
        }

    @app.get("/v1/items/{item_id:path}/personas")
    def personas(item_id: str, catalog: str | None = None) -> dict[str, Any]:
        index = current.get()
        item = item_id if catalog is None else (catalog, item_id)
        return {
            "generation": index.generation,
            "item": index.item(item),
            "personas": [persona.to_dict() for persona in index.personas_of(item)],
        }

    return app


def _problem(status: int, detail: str, **more: Any) -> JSONResponse:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return EscapedJson(body, status_code=status, media_type="application/problem+json")


def _index_problem(request: Request, error: Exception) -> JSONResponse:
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _unknown_item(request: Request, error: Exception) -> JSONResponse:
    return _problem(HTTPStatus.NOT_FOUND, str(error))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = _problem(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _bad_input(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The input itself is not sent back: it may be large, and need not be text that JSON can carry.
    problems = [{"where": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()]
    detail = "; ".join(f"{p['where']}: {p['problem']}" for p in problems[:5])
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=problems[:20])
