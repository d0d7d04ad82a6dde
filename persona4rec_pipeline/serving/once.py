"""Who is asking, for a program that asks once: the command line, a script.

Belongs here: `ask` with everything it needs, on the spot. Does not belong here: the service, which never waits for an encoder
and keeps what was queued in memory.
"""

from __future__ import annotations

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.serving.ask import Who, draft, is_plain, known_user, texts_of, who
from persona4rec_pipeline.serving.bodies import Question
from persona4rec_pipeline.serving.encoding import load_encoder
from persona4rec_pipeline.serving.overlay import open_overlay
from persona4rec_pipeline.settings import Settings


def answer_question(index: PersonaIndex, settings: Settings, question: Question) -> Who:
    """Who is asking, with what is queued of a user; the encoder is loaded only for texts of the question itself. What a queued
    review says is not read here: its item counts as if it were liked in silence.

    Raises HistoryError for a history that cannot be used, EncoderUnavailable where it has texts and there is no encoder,
    QueueUnusable for a queue that cannot be read.
    """
    tastes = question.tastes or settings.serving.tastes
    queued = None
    if question.user_id is not None and question.history is None:
        overlay = open_overlay(settings)
        overlay.refresh(index.manifest.interactions_through, question.user_id)
        queued = overlay.of(question.user_id, index)
        overlay.queue.close()
    if is_plain(question, tastes, queued):
        return known_user(index, str(question.user_id))
    drafted = draft(index, question, tastes, queued)
    encoded = load_encoder(index, settings).encode(texts_of(drafted, settings)) if drafted.unread else None
    return who(index, drafted, encoded)
