"""What went wrong, as RFC 9457 problem documents.

Belongs here: the errors that a request can end in, and their bytes. Does not belong here: who notices them. A problem says
what to mend; the input itself is not sent back, as it may be large and may be somebody's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from persona4rec_pipeline.serving.answers import to_json

PROBLEM_TYPE = b"application/problem+json"
# Longest detail that is sent; parts of it may be somebody's input.
MAX_DETAIL_CHARACTERS = 2_000


class Problem(Exception):
    """A request that ends in an error; `detail` says what to mend, `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = int(status)
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors

    def to_json(self) -> bytes:
        """The problem document."""
        return problem_document(self.status, self.detail, self.errors)


class BadRequest(Problem):
    """422: the body or a parameter is not what it must be; `where` names the place."""

    def __init__(self, problem: str, where: str) -> None:
        super().__init__(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {problem}", errors=[{"where": where, "problem": problem}]
        )


def problem_document(status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> bytes:
    """The bytes of a problem document; `errors` names single places, at most 20 of them."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail[:MAX_DETAIL_CHARACTERS],
    }
    if errors:
        body["errors"] = list(errors[:20])
    return to_json(body)
