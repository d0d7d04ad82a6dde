"""What the index answers with: recommendations with their reasons, explanations, interactions.

Belongs here: the records, and the words for what went otherwise. Does not belong here: how they come about (`reader`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Item = str | tuple[str, str]

# Flags of one recommendation.
UNKNOWN_ITEM = "unknown_item"  # not in the index; it kept its place among the candidates
NO_FAVOURABLE_PERSONA = "no_favourable_persona"  # only critical personas, or none: no score, after the scored ones
# Fallbacks: why the order does not come from personas.
UNKNOWN_USER = "unknown_user"  # no train interaction at all
NO_POSITIVE_HISTORY = "no_positive_history"  # train interactions, but none that is positive
NO_PROFILE = "no_profile"  # `rerank` was given no profile


class UnknownItem(KeyError):
    """The index has no such item."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of an answer; `score` is a cosine (-1 to 1), None where there is none: `flags` and `fallback` say why.

    `persona_id`, `persona_name`, `why` (one sentence) and `quotes` are those of the winning persona; without one, `why`
    says where the item comes from. `catalog` is None for an unknown item that was named without its catalogue.
    `candidate_place` is its place, from 1, in the candidate order that was reranked; None where there was none.
    """

    item_id: str
    catalog: str | None
    title: str | None
    score: float | None
    persona_id: str | None
    persona_name: str | None
    why: str
    quotes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    fallback: str | None = None
    candidate_place: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return _shallow(self) | {"quotes": list(self.quotes), "flags": list(self.flags)}


@dataclass(frozen=True)
class PersonaMatch:
    """A persona of an item; `score` is its cosine (-1 to 1) with the profile, None where no profile was compared."""

    persona_id: str
    name: str
    description: str
    why: str
    polarity: str
    quotes: tuple[str, ...]
    evidence_review_ids: tuple[str, ...]
    source: str
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return _shallow(self) | {"quotes": list(self.quotes), "evidence_review_ids": list(self.evidence_review_ids)}


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score: the winning persona, the runner-up, and the nearest critical one, against it."""

    item_id: str
    catalog: str
    title: str
    winner: PersonaMatch | None
    runner_up: PersonaMatch | None
    nearest_critical: PersonaMatch | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        parts = {name: getattr(self, name) for name in ("winner", "runner_up", "nearest_critical")}
        matches = {name: match.to_dict() if match else None for name, match in parts.items()}
        return {"item_id": self.item_id, "catalog": self.catalog, "title": self.title, **matches}


@dataclass(frozen=True)
class PastInteraction:
    """An interaction that a profile is made of; title is None for an item that is no longer there. `at` is UTC."""

    item_id: str
    catalog: str
    title: str | None
    at: datetime

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return _shallow(self) | {"at": self.at.replace(tzinfo=UTC).isoformat()}


def _shallow(one: DataclassInstance) -> dict[str, Any]:
    """Its fields as they are. `asdict` copies every text of theirs, for more than all else that an answer costs."""
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
