"""A profile from a history that is given here and now, for users that the index does not know.

Belongs here: what a caller may say of past interactions, and their way to a profile with the encoder that made the index.
Does not belong here: the wording of texts (`encoder/texts.py`), the arithmetic (`index/scoring.py`), HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from persona4rec_pipeline.embedding import Encoder
from persona4rec_pipeline.encoder.texts import interaction_text
from persona4rec_pipeline.index import PersonaIndex, UnknownItem
from persona4rec_pipeline.index.scoring import user_profile
from persona4rec_pipeline.personas.aspects import extract_aspects
from persona4rec_pipeline.personas.domains import get_domain
from persona4rec_pipeline.settings import Settings


class HistoryError(ValueError):
    """The history cannot be read or used; the message names the entry and how to mend it."""


class PastItem(BaseModel):
    """One past interaction: an item of the index, or any item by its title; with what the user said, if anything."""

    model_config = ConfigDict(extra="forbid")

    item_id: str | None = Field(None, description="Item of the index; its title and summary are taken from there.")
    title: str | None = Field(None, description="Title, for an item that the index does not know.")
    summary: str | None = Field(None, description="What the item is, for an item that the index does not know.")
    review: str | None = Field(None, max_length=20_000, description="What the user wrote about it.")
    days_ago: float | None = Field(
        None, ge=0, le=1e6, description="Days since then; counts where the index was built with a half-life."
    )


_HISTORY = TypeAdapter(list[PastItem | str])


def parse_history(document: Any) -> list[PastItem]:
    """A JSON value as a history, most recent first: a list of item ids and of objects with the fields of PastItem.

    Raises HistoryError, naming the first bad entry.
    """
    try:
        entries = _HISTORY.validate_python(document)
    except ValidationError as error:
        problem = error.errors()[0]
        where = problem["loc"][0] if problem["loc"] else "the whole"
        raise HistoryError(
            f"History entry {where}: {problem['msg']}. Give a list, most recent first, of item ids or of objects with "
            "item_id or title, and optionally summary, review and days_ago."
        ) from error
    return [PastItem(item_id=entry) if isinstance(entry, str) else entry for entry in entries]


def profile_from_history(
    history: Sequence[PastItem], index: PersonaIndex, encoder: Encoder, settings: Settings
) -> np.ndarray:
    """The unit profile, float32 (d,), of a history, most recent first; as many entries count as the index was built with.

    Where the index was built with a half-life, ages count if all entries that count give theirs (`days_ago`), and their
    order alone if none does. Raises HistoryError for an empty history, for an entry that is neither in the index nor has a
    title, for ages of some entries only, and when the encoder is not the one that made the index.
    """
    if encoder.fingerprint != index.encoder_fingerprint:
        raise HistoryError(
            f"The encoder ({encoder.fingerprint}) is not the one that made the index ({index.encoder_fingerprint}); "
            "publish the index again with `persona4rec run`."
        )
    if not history:
        raise HistoryError("The history is empty; name at least one item.")
    counted = history[: index.manifest.max_history]
    days, half_life = _days(counted), index.manifest.half_life_days
    domain = get_domain(settings.personas.domain)
    texts = []
    for place, entry in enumerate(counted, start=1):
        title, summary = entry.title, entry.summary
        if entry.item_id is not None:
            try:
                known = index.item(entry.item_id)
                title, summary = title or known["title"], summary or known["summary"]
            except UnknownItem as error:
                if not title:
                    raise HistoryError(f"History entry {place}: {error} Give its title, or leave it out.") from error
        if not title:
            raise HistoryError(f"History entry {place} has neither item_id nor title.")
        slots = extract_aspects(entry.review or "", domain).slots
        texts.append(
            interaction_text(title, summary or "", {name: slot.value if slot else None for name, slot in slots.items()})
        )
    return user_profile(encoder.encode(texts), index.manifest.recency_decay, days, None if days is None else half_life)


def _days(history: Sequence[PastItem]) -> np.ndarray | None:
    """Time of each entry in days before now, negative, float64 (n,); None where no entry says."""
    ages = [entry.days_ago for entry in history]
    if all(age is None for age in ages):
        return None
    found = np.array([np.nan if age is None else -age for age in ages])
    if np.isnan(found).any():
        place = int(np.flatnonzero(np.isnan(found))[0]) + 1
        raise HistoryError(f"History entry {place} has no days_ago, and others have; give it for all or for none.")
    if (np.diff(found) > 0).any():
        place = int(np.flatnonzero(np.diff(found) > 0)[0]) + 2
        raise HistoryError(f"History entry {place} is newer than the one before it; give the most recent first.")
    return found
