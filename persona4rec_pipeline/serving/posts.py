"""The POST routes of our own API: rerank, recommendations, explain.

Belongs here: from a body to the bytes of an answer. Does not belong here: reading the body (`bodies`), who is asking (`ask`),
any ranking (`index/`). Each is called on the event loop: what is small is answered there at once, what is large in a thread.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from persona4rec_pipeline.index import Filters
from persona4rec_pipeline.index.reader import Ranking
from persona4rec_pipeline.serving.answers import entries, to_json
from persona4rec_pipeline.serving.ask import Who, best_for
from persona4rec_pipeline.serving.bodies import (
    ExplainBody,
    FilterBody,
    RecommendBody,
    RerankBody,
    as_items,
)
from persona4rec_pipeline.serving.front import Post
from persona4rec_pipeline.serving.problems import BadRequest
from persona4rec_pipeline.serving.profiles import who_asks
from persona4rec_pipeline.serving.state import Arm, Call, Service


def as_filters(body: FilterBody | None) -> Filters | None:
    """Filters of a body as the index takes them."""
    if body is None:
        return None
    return Filters(
        catalogs=body.catalogs,
        categories=body.categories,
        attributes=body.attributes or {},
        allow=None if body.allow is None else as_items(body.allow),
        deny=as_items(body.deny),
    )


def check_candidates(service: Service, candidates: list[Any], scores: list[float] | None) -> None:
    """Raises BadRequest for more candidates than are allowed, and for scores that are not one each."""
    limit = service.settings.serving.max_candidates
    if len(candidates) > limit:
        raise BadRequest(f"{len(candidates):,} are more than the {limit:,} of serving.max_candidates", "candidates")
    if scores is not None and len(scores) != len(candidates):
        raise BadRequest(f"give one for each of the {len(candidates)} candidates, not {len(scores)}", "scores")


async def rerank(service: Service, body: RerankBody, call: Call) -> bytes:
    """Candidates in the order of whoever is asking; no candidate is dropped unless it is excluded or filtered out."""
    check_candidates(service, body.candidates, body.scores)
    arm = service.arm_for(body.user_id, call)
    who = await who_asks(service, arm, body)
    index = arm.served.index
    weight = body.weight if body.weight is not None else arm.weight
    if weight is None:
        weight = index.persona_weight(who.interactions, body.scores is not None)

    def answer() -> bytes:
        ranking = index.rank(
            who.profile,
            as_items(body.candidates),
            scores=body.scores,
            weight=weight,
            exclude=as_items(body.exclude),
            filters=as_filters(body.filters),
        )
        count_unknown(service, ranking)
        listed = arm.served.renderer.ranked(ranking, ranking.order[: body.k].tolist(), body.explain)
        return envelope(arm, who, b"candidates", listed, {"weight": None if who.profile is None else weight})

    count_fallback(service, who)
    if len(body.candidates) <= service.settings.serving.inline_candidates:
        return answer()
    return await service.in_thread(answer)


async def recommend(service: Service, body: RecommendBody, call: Call) -> bytes:
    """The best items of the catalogue that the user has not seen; without a profile, the most popular ones."""
    arm = service.arm_for(body.user_id, call)
    who = await who_asks(service, arm, body)
    count_fallback(service, who)

    def answer() -> bytes:
        found = best_for(arm.served.index, who, body.k, as_items(body.exclude), as_filters(body.filters))
        return envelope(arm, who, b"recommendations", entries(found, body.explain))

    if is_small(service, arm):
        return answer()
    return await service.in_thread(answer)


async def explain(service: Service, body: ExplainBody, call: Call) -> bytes:
    """Why an item has its score for whoever is asking; without a profile, all its personas, unscored."""
    arm = service.arm_for(body.user_id, call)
    who = await who_asks(service, arm, body)
    count_fallback(service, who)
    index = arm.served.index
    [item] = as_items([body.item])
    if who.profile is None:
        known = index.item(item)
        nobody = {"winner": None, "runner_up": None, "nearest_critical": None}
        stated = {name: known[name] for name in ("item_id", "catalog", "title")} | nobody
        stated["personas"] = [persona.to_dict() for persona in index.personas_of(item)]
    else:
        stated = index.explain(who.profile, item).to_dict()
    return to_json(head(arm, who) | stated)


def is_small(service: Service, arm: Arm) -> bool:
    """Whether searching the whole catalogue takes so little time that nobody need wait in a thread."""
    counts = arm.served.index.manifest.catalogs.values()
    return sum(count.personas for count in counts) <= service.settings.serving.inline_personas


def count_fallback(service: Service, who: Who) -> None:
    """Tell the metrics of an answer without a stored profile."""
    if who.fallback is not None:
        service.metrics.fallback(who.fallback)


def count_unknown(service: Service, ranking: Ranking) -> None:
    """Tell the metrics of candidates that the index does not know."""
    unknown = ranking.rows.tolist().count(-1)
    if unknown:
        service.metrics.unknown_candidates.inc(unknown)


def head(arm: Arm, who: Who) -> dict[str, Any]:
    """What every answer says first."""
    stated: dict[str, Any] = {
        "user_id": who.user_id,
        "generation": arm.served.index.generation,
        "variant": arm.variant,
        "fallback": who.fallback,
    }
    if who.ignored:
        stated["ignored"] = [
            one if isinstance(one, str) else {"catalog": one[0], "item_id": one[1]} for one in who.ignored
        ]
    return stated


def envelope(arm: Arm, who: Who, name: bytes, listed: bytes, more: dict[str, Any] | None = None) -> bytes:
    """An answer around a list of entries that is JSON already."""
    return b'%s,"%s":%s}' % (to_json(head(arm, who) | (more or {}))[:-1], name, listed)


_ASKERS: dict[str, dict[str, Any]] = {
    "a known user": {"user_id": "reader-17"},
    "a history given here": {
        "history": ["moby-dick", {"title": "A new novel", "review": "Slow, but the sea was wonderful."}]
    },
    "a session of somebody unknown": {"user_id": "visitor-5", "session": ["emma", "persuasion"]},
}
_CANDIDATES: dict[str, Any] = {"candidates": ["dracula", {"catalog": "books", "item_id": "emma"}, "walden"]}

POSTS = [
    Post(
        path="/v1/rerank",
        record=RerankBody,
        handler=rerank,
        answer="Reranked",
        summary="Order candidates for a user, with reasons",
        examples={name: asker | _CANDIDATES for name, asker in _ASKERS.items()}
        | {
            "with the candidates' own scores": {
                "user_id": "reader-17",
                **_CANDIDATES,
                "scores": [3.1, 2.8, 0.4],
                "weight": 0.5,
                "k": 2,
            },
            "filtered": {
                "user_id": "reader-17",
                **_CANDIDATES,
                "filters": {"categories": ["gothic"], "deny": ["emma"]},
            },
        },
    ),
    Post(
        path="/v1/recommendations",
        record=RecommendBody,
        handler=recommend,
        answer="Recommended",
        summary="The best items of the catalogue, with reasons",
        examples={name: asker | {"k": 5} for name, asker in _ASKERS.items()},
    ),
    Post(
        path="/v1/explain",
        record=ExplainBody,
        handler=explain,
        answer="Explained",
        summary="Why an item fits, what came second, and what speaks against it",
        examples={name: asker | {"item": "dracula"} for name, asker in _ASKERS.items()},
        problems=(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
]
