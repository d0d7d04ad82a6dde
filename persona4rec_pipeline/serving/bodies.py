"""What a request body may look like, and what is said when it does not.

Belongs here: the records of the bodies of our own routes, and their way from bytes. Does not belong here: the shapes of
others (`dropin`), limits that are settings (`limits`), any meaning. The records are msgspec's: a body of 20 candidates is
read and checked in a microsecond, a sixth of what pydantic takes, and the same records make the OpenAPI document.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from persona4rec_pipeline.index.reader import MAX_SCORE
from persona4rec_pipeline.serving.problems import BadRequest

MAX_ID_CHARACTERS = 1_000
# No request may ask for more than this, whatever the settings say.
MAX_CANDIDATES = 100_000
MAX_K = 1_000
MAX_TASTES = 8
MAX_HISTORY = 1_000
MAX_TEXT_CHARACTERS = 20_000
MAX_FILTER_VALUES = 10_000

Identifier = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
Score = Annotated[float, Meta(ge=-MAX_SCORE, le=MAX_SCORE)]
Days = Annotated[float, Meta(ge=0, le=1e6)]
Names = Annotated[list[Identifier], Meta(max_length=MAX_FILTER_VALUES)]


class CatalogItem(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """An item named with its catalogue; a bare item_id means the item of the first catalogue that has it."""

    catalog: Identifier
    item_id: Identifier


AnyItem = Identifier | CatalogItem
Items = Annotated[list[AnyItem], Meta(max_length=MAX_FILTER_VALUES)]


class PastItem(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One past interaction: an item of the index, or any item by its title; with what the user said, if anything."""

    item_id: Annotated[Identifier | None, Meta(description="Item of the index, which gives title and summary.")] = None
    catalog: Annotated[Identifier | None, Meta(description="Its catalogue; without, the first that has it.")] = None
    title: Annotated[Text | None, Meta(description="Title, for an item that the index does not know.")] = None
    summary: Annotated[Text | None, Meta(description="What it is, for an item that the index does not know.")] = None
    review: Annotated[Text | None, Meta(description="What the user wrote about it.")] = None
    days_ago: Annotated[
        Days | None, Meta(description="Days since then; counts where the index was built with a half-life.")
    ] = None


class FilterBody(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which items may come back; every part that is given must hold."""

    catalogs: Annotated[Names | None, Meta(description="Only these catalogues.")] = None
    categories: Annotated[Names | None, Meta(description="Items with at least one of these, in any case.")] = None
    attributes: Annotated[
        dict[Identifier, Names] | None,
        Meta(description="Every attribute named must have one of its values, in any case."),
    ] = None
    allow: Annotated[Items | None, Meta(description="Only these items.")] = None
    deny: Annotated[Items | None, Meta(description="None of these items.")] = None


class Question(Struct, forbid_unknown_fields=True, kw_only=True):
    """Who is asking: a known user, a history given here, items of this session, or a mixture of them."""

    user_id: Annotated[Identifier | None, Meta(description="The user, if there is one.")] = None
    history: Annotated[
        Annotated[list[Identifier | PastItem], Meta(max_length=MAX_HISTORY)] | None,
        Meta(description="Liked items, most recent first; replaces what is stored of the user."),
    ] = None
    session: Annotated[
        Annotated[list[AnyItem], Meta(max_length=MAX_HISTORY)] | None,
        Meta(description="Items seen in this session, most recent first; they stand in front of the history."),
    ] = None
    tastes: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_TASTES)] | Literal["recent"] | None,
        Meta(
            description="How many distinct tastes the history is told apart into, or `recent`: the last three interactions beside "
            "all; the best match of them counts."
        ),
    ] = None


class RerankBody(Question, kw_only=True):
    """Candidates to order for whoever is asking, best first."""

    candidates: list[AnyItem]
    scores: Annotated[
        list[Score] | None, Meta(description="The candidates' own, one each; they decide the candidate order.")
    ] = None
    weight: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Of the personas: 0 keeps the candidate order, 1 is personas alone. Default: as learned."),
    ] = None
    k: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] | None, Meta(description="How many come back; default: all.")
    ] = None
    exclude: Annotated[Items | None, Meta(description="Candidates that are to be left out.")] = None
    filters: FilterBody | None = None
    explain: Annotated[bool, Meta(description="Whether the entries say why: persona, reason and quotes.")] = True


class RecommendBody(Question, kw_only=True):
    """The best items of the whole catalogue that the user has not seen."""

    k: Annotated[int, Meta(ge=1, le=MAX_K, description="How many come back.")] = 10
    exclude: Annotated[Items | None, Meta(description="Items that are to be left out, besides those seen.")] = None
    filters: FilterBody | None = None
    explain: Annotated[bool, Meta(description="Whether the entries say why: persona, reason and quotes.")] = True


class ExplainBody(Question, kw_only=True):
    """Why an item fits whoever is asking, or does not."""

    item: AnyItem


class InteractionBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Something a user did with an item just now, or said of it; counts in the next answer."""

    user_id: Identifier
    kind: Literal["click", "like", "dislike", "review"]
    item_id: Annotated[Identifier | None, Meta(description="The item; or `item`, with its catalogue.")] = None
    item: CatalogItem | None = None
    rating: Annotated[float | None, Meta(description="On the scale of the source, as reviews have it.")] = None
    review: Annotated[Text | None, Meta(description="What the user wrote; only with the kind `review`.")] = None
    at: Annotated[datetime | None, Meta(description="When, ISO 8601, UTC if it does not say; default: now.")] = None
    id: Annotated[
        Identifier | None, Meta(description="An id of yours; the same one again is taken for the same interaction.")
    ] = None


Body = TypeVar("Body", bound=Struct)


def read_body(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """The body as its record. Raises BadRequest (422), naming the place and what is expected there."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        raise BadRequest(message, where.strip(".`") or "body") from error
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8", "body") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}" if body else "the body is empty", "body") from error


def as_items(items: list[Any] | None) -> list[str | tuple[str, str]]:
    """Items of a body as the index takes them."""
    return [item if isinstance(item, str) else (item.catalog, item.item_id) for item in items or ()]
