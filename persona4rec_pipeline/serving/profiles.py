"""Who is asking, on the event loop: what must be encoded is encoded elsewhere, meanwhile others are answered.

Belongs here: the way from a question to `Who` within the service. Does not belong here: what it means (`ask`).
"""

from __future__ import annotations

from http import HTTPStatus

from persona4rec_pipeline.serving.ask import Who, draft, is_plain, known_user, texts_of, who
from persona4rec_pipeline.serving.bodies import Question
from persona4rec_pipeline.serving.encoding import EncoderUnavailable
from persona4rec_pipeline.serving.problems import Problem
from persona4rec_pipeline.serving.state import Arm, Service


async def who_asks(service: Service, arm: Arm, question: Question, lenient: bool = False) -> Who:
    """Who is asking; `lenient` as for `draft`. Raises HistoryError for a history that cannot be used, Problem (503) while no
    encoder can be had."""
    index, user_id = arm.served.index, question.user_id
    tastes = question.tastes or arm.tastes
    queued = None
    if user_id is not None and question.history is None:
        if service.shares_queue and service.overlay.has_changed():
            # Another worker may have queued something of this very user.
            await service.in_thread(service.refresh_overlay)
        queued = service.overlay.of(user_id, index)
    if is_plain(question, tastes, queued):
        return known_user(index, str(user_id))
    drafted = draft(index, question, tastes, queued, lenient)
    if not drafted.unread:
        return who(index, drafted)
    try:
        encoded = await service.encoder.encode(index, lambda: texts_of(drafted, service.settings))
    except EncoderUnavailable as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"Texts cannot be read now. {error}") from error
    return who(index, drafted, encoded)
