"""A history that is given by hand.

Belongs here: what a caller may say of past interactions, as a document. Does not belong here: the profile that is made of it
(`ask`), the wording of texts (`encoder/texts.py`), HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from persona4rec_pipeline.serving.bodies import Identifier, PastItem


class HistoryError(ValueError):
    """The history cannot be read or used; the message names the entry and how to mend it."""


def parse_history(document: Any) -> list[str | PastItem]:
    """A JSON value as a history, most recent first: a list of item ids and of objects with the fields of PastItem.

    Raises HistoryError, naming the first bad entry.
    """
    try:
        return msgspec.convert(document, list[Identifier | PastItem])
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$[")
        place = where.partition("]")[0]
        raise HistoryError(
            f"History entry {place or 'the whole'}: {message}. Give a list, most recent first, of item ids or of objects "
            "with item_id or title, and optionally summary, review and days_ago."
        ) from error
