"""The GET routes: what there is, of users and items, and whether the service is well.

Belongs here: parameters in, the index's answer out. Does not belong here: any ranking. They are FastAPI's own routes; what is
small is answered on the event loop, what searches the whole catalogue in a thread.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from persona4rec_pipeline.serving.answers import to_json
from persona4rec_pipeline.serving.ask import draft
from persona4rec_pipeline.serving.bodies import MAX_ID_CHARACTERS, MAX_K, FilterBody, Question, RecommendBody
from persona4rec_pipeline.serving.dropin import unknown_model
from persona4rec_pipeline.serving.limits import too_busy
from persona4rec_pipeline.serving.metrics import CONTENT_TYPE
from persona4rec_pipeline.serving.openapi import answer_of
from persona4rec_pipeline.serving.posts import recommend
from persona4rec_pipeline.serving.profiles import who_asks
from persona4rec_pipeline.serving.state import Call, Service

MAX_FOUND = 1_000


class AnyText(Convertor[str]):
    """A part of a path that may hold everything an id may: slashes, and line ends, which Starlette's own `path` does not take."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """The text as it is."""
        return value

    def to_string(self, value: str) -> str:
        """The text as it is."""
        return value


register_url_convertor("any_text", AnyText())
MAX_POINTS = 10_000

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_CHARACTERS, description="Id of the user.")]
ItemId = Annotated[str, Path(min_length=1, max_length=MAX_ID_CHARACTERS, description="Id of the item.")]
Catalog = Annotated[
    str | None,
    Query(max_length=MAX_ID_CHARACTERS, description="Its catalogue; without, the first one that has the item."),
]
HowMany = Annotated[int, Query(ge=1, le=MAX_K, description="How many come back.")]
Some = Annotated[int, Query(ge=1, le=MAX_FOUND, description="At most so many.")]
Several = Annotated[list[str] | None, Query(max_length=100)]


def read_routes(service: Service) -> APIRouter:
    """The routes over a service."""
    router = APIRouter()

    @router.get(
        "/v1/users/{user_id:any_text}/recommendations",
        tags=["ranking"],
        summary="The best items for a user that they have not seen, with reasons",
        responses=answer_of("Recommended", 422, 503),
    )
    async def recommendations(
        request: Request,
        user_id: UserId,
        k: HowMany = 10,
        catalog: Annotated[Several, Query(description="Only these catalogues.")] = None,
        category: Annotated[Several, Query(description="Only items with one of these categories.")] = None,
        exclude: Annotated[Several, Query(description="None of these items.")] = None,
    ) -> Response:
        filters = FilterBody(catalogs=catalog, categories=category) if catalog or category else None
        body = RecommendBody(user_id=user_id, k=k, exclude=list(exclude or ()), filters=filters)
        return _json(await recommend(service, body, _call(request)))

    @router.get(
        "/v1/users",
        tags=["catalogue"],
        summary="Users with a profile, by the beginning of their id",
        responses=answer_of("Users", 422, 503),
    )
    async def users(
        prefix: Annotated[str, Query(max_length=MAX_ID_CHARACTERS, description="How the id begins.")] = "",
        limit: Some = 20,
    ) -> Response:
        index = service.current.get().index
        return _json(to_json({"generation": index.generation, "users": index.find_users(prefix, limit)}))

    @router.get(
        "/v1/users/{user_id:any_text}/history",
        tags=["catalogue"],
        summary="What a user's profile is made of, most recent first",
        responses=answer_of("UserHistory", 422, 503),
    )
    async def history(user_id: UserId) -> Response:
        index = service.current.get().index
        past = service.overlay.history_of(user_id, index) + [one.to_dict() for one in index.history_of(user_id)]
        asking = draft(index, Question(user_id=user_id), queued=service.overlay.of(user_id, index))
        return _json(
            to_json(
                {
                    "user_id": user_id,
                    "generation": index.generation,
                    "fallback": asking.fallback,
                    "interactions": asking.interactions,
                    "history": past,
                }
            )
        )

    @router.get(
        "/v1/items",
        tags=["catalogue"],
        summary="Items by a part of their title or id",
        responses=answer_of("Items", 422, 503),
    )
    def items(
        query: Annotated[str, Query(max_length=MAX_ID_CHARACTERS, description="Part of a title or id, in any case.")],
        limit: Some = 20,
    ) -> Response:
        index = service.current.get().index
        return _json(to_json({"generation": index.generation, "items": index.find_items(query, limit)}))

    @router.get(
        "/v1/items/{item_id:any_text}/personas",
        tags=["catalogue"],
        summary="An item and all its personas",
        responses=answer_of("ItemPersonas", 404, 422, 503),
    )
    async def personas(item_id: ItemId, catalog: Catalog = None) -> Response:
        index = service.current.get().index
        item = item_id if catalog is None else (catalog, item_id)
        found = {
            "generation": index.generation,
            "item": index.item(item),
            "personas": [persona.to_dict() for persona in index.personas_of(item)],
        }
        return _json(to_json(found))

    @router.get(
        "/v1/items/{item_id:any_text}/similar",
        tags=["catalogue"],
        summary="The items with the most similar personas",
        responses=answer_of("Similar", 404, 422, 503),
    )
    def similar(item_id: ItemId, catalog: Catalog = None, k: HowMany = 10) -> Response:
        index = service.current.get().index
        item = item_id if catalog is None else (catalog, item_id)
        found = [one.to_dict() for one in index.similar(item, k)]
        return _json(to_json({"generation": index.generation, "item": index.item(item), "similar": found}))

    @router.get(
        "/v1/map",
        tags=["catalogue"],
        summary="Personas, and a user among them, in two dimensions",
        responses=answer_of("Map", 422, 503),
    )
    async def persona_map(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_POINTS, description="At most so many personas.")] = 2_000,
        user_id: Annotated[
            str | None, Query(min_length=1, max_length=MAX_ID_CHARACTERS, description="A user to place.")
        ] = None,
    ) -> Response:
        arm = service.arm_for(user_id, _call(request))
        drawn = await service.in_thread(lambda: arm.served.index.persona_map(limit))
        place = None
        if user_id is not None:
            who = await who_asks(service, arm, Question(user_id=user_id, tastes=1))
            if who.profile is not None:
                x, y = drawn.point(who.profile)
                place = {"user_id": user_id, "x": x, "y": y}
        return _json(to_json({"generation": arm.served.index.generation, "user": place, **drawn.to_dict()}))

    @router.post("/rank/{model}", include_in_schema=False)
    async def no_such_model(model: str) -> Response:
        raise unknown_model(model)

    @router.get("/healthz", tags=["operation"], summary="Whether the service lives", responses=answer_of("Health"))
    async def health() -> Response:
        return _json(b'{"status":"ok"}')

    @router.get(
        "/readyz",
        tags=["operation"],
        summary="Whether it can answer, from which generation, and what is wrong if something is",
        description="Without an API key, where one is required, only the status is told.",
        responses=answer_of("Readiness", 503),
    )
    async def ready(request: Request) -> Response:
        if not service.is_ready() and not _may_know(service, request):
            raise too_busy("No index is open yet.")
        status = {"status": "ready" if service.current.problem is None else "degraded"}
        if not _may_know(service, request):
            return _json(to_json(status))
        return _json(to_json(status | readiness(service)))

    @router.get(
        "/metrics",
        tags=["operation"],
        summary="Figures for Prometheus",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    def metrics() -> Response:
        service.tell_metrics()
        return Response(service.metrics.render(), headers={"content-type": CONTENT_TYPE})

    return router


def readiness(service: Service) -> dict[str, Any]:
    """What is served, in full. Raises IndexProblem while nothing is."""
    index = service.current.get().index
    manifest = index.manifest
    return {
        "problem": service.current.problem,
        "generation": index.generation,
        "published_at": manifest.created_at,
        "encoder_fingerprint": index.encoder_fingerprint,
        "catalogs": {
            name: {"items": counts.items, "personas": counts.personas} for name, counts in manifest.catalogs.items()
        },
        "users": manifest.users,
        "blends": None if manifest.blends is None else asdict(manifest.blends),
        "refused": service.current.refused,
        "hot_swaps": service.current.swaps,
        "experiment": None
        if service.experiment is None
        else {"name": service.experiment.name, "share": service.experiment.share,
              "problem": None if service.treatment is None else service.treatment.problem},
    }  # fmt: skip


def _may_know(service: Service, request: Request) -> bool:
    return not service.keys_required or _call(request).key_name is not None


def _call(request: Request) -> Call:
    call = request.scope["state"]["call"]
    assert isinstance(call, Call)
    return call


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})
