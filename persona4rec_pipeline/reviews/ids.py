"""What an interaction is known by, and whose are left out: the same for source files and for the queue.

Belongs here: the id of a review, and the hashes of users who asked to be forgotten. Does not belong here: forgetting
(`forgetting.py`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# SQL over the columns user_id, item_id and reviewed_at, with the parameter $catalog. 80 bits: a collision among 30 million
# reviews has a chance of about 4e-10. Every part carries its length, so that no two (catalogue, user, item, time) share a
# text.
REVIEW_ID = (
    "substr(md5("
    + " || ".join(
        f"length({part}) || ':' || {part}"
        for part in ("$catalog", "user_id", "item_id", "CAST(epoch_us(reviewed_at) AS VARCHAR)")
    )
    + "), 1, 20)"
)

# SQL over the column user_id, with the parameter $hashes, of `forgotten_hashes`.
IS_FORGOTTEN = "sha256('persona4rec:' || user_id) IN (SELECT unnest($hashes::VARCHAR[]))"


def user_hash(user_id: str) -> str:
    """How a forgotten user is remembered: SHA-256, hexadecimal, of a fixed prefix and the id."""
    return hashlib.sha256(f"persona4rec:{user_id}".encode()).hexdigest()


def forgotten_hashes(connection: DuckDBPyConnection) -> list[str]:
    """The hashes of all users who asked to be forgotten."""
    return [digest for (digest,) in connection.execute("SELECT user_hash FROM forgotten_users").fetchall()]
