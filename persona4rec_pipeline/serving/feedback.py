"""POST /v1/interactions: what a user does now is on the disk before it is accepted, and counts in the next answer.

Belongs here: from a body to the queue and the overlay. Does not belong here: the queue, how it becomes reviews in the nightly
run, and the profile that is made of it (`ask`).
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from persona4rec_pipeline.index import PersonaIndex, UnknownItem
from persona4rec_pipeline.interactions import BadInteraction, Interaction, QueueUnusable
from persona4rec_pipeline.serving.answers import to_json
from persona4rec_pipeline.serving.bodies import InteractionBody
from persona4rec_pipeline.serving.front import Post
from persona4rec_pipeline.serving.problems import BadRequest, Problem
from persona4rec_pipeline.serving.state import Call, Service

# How far ahead the clock of a caller may go.
MAX_AHEAD = timedelta(days=1)


async def take_interaction(service: Service, body: InteractionBody, call: Call) -> bytes:
    """Queue an interaction. It is on the disk when this answers, counts in the user's next answer, and comes into the index with
    the next run of the pipeline. A click, a like and a review rated well enough speak for the item; a dislike and the others
    only keep it out of recommendations. The same `id` of the same user is taken once."""
    arm = service.arm_for(body.user_id, call)
    index = arm.served.index
    catalog, item_id, known = _item(index, body)
    interaction = Interaction(
        id=None,
        key=body.id or secrets.token_hex(16),
        user_id=body.user_id,
        catalog=catalog,
        item_id=item_id,
        kind=body.kind,
        rating=_rating(service, body),
        review=body.review if body.review and body.review.strip() else None,
        at=_time(body.at),
    )
    try:
        taken = await service.in_thread(lambda: service.overlay.append(interaction))
    except BadInteraction as error:
        raise BadRequest(str(error), "body") from error
    except QueueUnusable as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"retry-after": "5"}) from error
    service.metrics.interactions.labels(body.kind).inc()
    # By the encoder of the current generation, whichever one answered: two would take turns for ever.
    service.overlay.encode(service.current.get().index)
    return to_json({"id": taken, "queued": True, "known_item": known})


def _item(index: PersonaIndex, body: InteractionBody) -> tuple[str, str, bool]:
    """Catalogue, id, and whether the index knows the item."""
    if (body.item is None) == (body.item_id is None):
        raise BadRequest("give either item_id, or item with its catalogue", "item")
    if body.item is None:
        item_id = str(body.item_id)
        try:
            return str(index.item(item_id)["catalog"]), item_id, True
        except UnknownItem as error:
            raise Problem(
                HTTPStatus.NOT_FOUND, f"{error} If it is new, give it as item, with its catalogue."
            ) from error
    catalog, item_id = body.item.catalog, body.item.item_id
    if catalog not in index.catalogs:
        raise BadRequest(f"there is no such catalogue; there are {', '.join(index.catalogs)}", "item.catalog")
    try:
        index.item((catalog, item_id))
    except UnknownItem:
        return catalog, item_id, False
    return catalog, item_id, True


def _rating(service: Service, body: InteractionBody) -> float | None:
    reviews = service.settings.reviews
    if body.kind == "review" and body.rating is None and not (body.review or "").strip():
        raise BadRequest("a review has a rating, a text, or both", "review")
    if body.rating is not None and not reviews.rating_min <= body.rating <= reviews.rating_max:
        raise BadRequest(f"ratings go from {reviews.rating_min:g} to {reviews.rating_max:g}", "rating")
    return body.rating


def _time(stated: datetime | None) -> datetime:
    now = datetime.now(UTC)
    if stated is None:
        return now
    at = stated if stated.tzinfo is not None else stated.replace(tzinfo=UTC)
    if at > now + MAX_AHEAD:
        raise BadRequest("that is still to come; give the time in UTC, or with its time zone", "at")
    return at


FEEDBACK = [
    Post(
        path="/v1/interactions",
        record=InteractionBody,
        handler=take_interaction,
        answer="Taken",
        summary="A click, like, dislike or review that counts at once",
        examples={
            "a like": {"user_id": "reader-17", "item_id": "dracula", "kind": "like"},
            "a review": {
                "user_id": "reader-17",
                "item": {"catalog": "books", "item_id": "emma"},
                "kind": "review",
                "rating": 5,
                "review": "The wit of it! I read it on the train and missed my stop.",
                "id": "review-8812",
            },
        },
        status=202,
        tag="feedback",
        problems=(404, 422, 503),
    )
]
