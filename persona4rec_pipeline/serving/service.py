"""The HTTP API: the application, put together.

Belongs here: which routes there are, and what happens at start and stop. Does not belong here: anything else; what a request
passes first is in `front`, what is answered in `posts`, `reads` and `dropin`, what may be sent in `bodies`. What an unknown
user, an unknown candidate or a repeated one gets is said in `index/reader.py`; the API hands it on. Errors are problem
documents (RFC 9457, application/problem+json).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from persona4rec_pipeline import __version__
from persona4rec_pipeline.serving.dropin import DROPINS, SHAPES
from persona4rec_pipeline.serving.explorer import mount_explorer
from persona4rec_pipeline.serving.feedback import FEEDBACK
from persona4rec_pipeline.serving.front import Front
from persona4rec_pipeline.serving.openapi import describe
from persona4rec_pipeline.serving.posts import POSTS
from persona4rec_pipeline.serving.problems import Problem, problem_document
from persona4rec_pipeline.serving.reads import read_routes
from persona4rec_pipeline.serving.run import configure_log
from persona4rec_pipeline.serving.state import Service
from persona4rec_pipeline.settings import Settings, load_settings

SWITCH_INTERVAL_S = 0.0005
DESCRIPTION = "Ranking with reasons, from an index of personas."


def create_app(settings: Settings) -> FastAPI:
    """The application over the index of these settings; says 503 while nothing is published there.

    Its `state.service` holds the parts; they live from the start of the application to its end.
    """
    service = Service(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()

    posts = [*POSTS, *FEEDBACK, *DROPINS]

    class Application(FastAPI):
        """FastAPI behind the front, which takes the place of Starlette's outermost middleware: every error ends there."""

        def build_middleware_stack(self) -> ASGIApp:
            outermost = super().build_middleware_stack()
            assert isinstance(outermost, ServerErrorMiddleware)
            return Front(outermost.app, service, posts)

    # No /docs: FastAPI's page loads its scripts from elsewhere.
    app = Application(
        title="persona4rec", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, lifespan=life
    )
    app.state.service = service
    app.include_router(read_routes(service))
    mount_explorer(app)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(HTTPException, _http_error)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app, posts, SHAPES)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def app_from_environment() -> FastAPI:
    """The application of the settings of this process, with its log; what each worker of a server calls."""
    configure_log()
    # While a thread opens a generation or reads a review, each turn of the event loop waits so long for the interpreter.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return create_app(load_settings())


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "There is no such path; /openapi.json tells which there are."
    return _response(error.status_code, problem_document(error.status_code, detail), dict(error.headers or {}))


async def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The input itself is not sent back: it may be large, and need not be text that JSON can carry.
    errors = [{"where": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()]
    detail = "; ".join(f"{e['where']}: {e['problem']}" for e in errors[:5])
    problem = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)
    return _response(problem.status, problem.to_json(), {})


def _response(status: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status, headers, media_type="application/problem+json")
