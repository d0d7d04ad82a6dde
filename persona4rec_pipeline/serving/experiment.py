"""Two ways of answering side by side, told apart by user.

Belongs here: who gets which. Does not belong here: what a variant changes (`settings.serving.experiment`), how it went (that
is for whoever joins the log with what users did). A user is always in the same variant of an experiment; a share that grows
moves users from control to treatment and none back. Whoever gives no user id is in neither.
"""

from __future__ import annotations

import hashlib

CONTROL = "control"
TREATMENT = "treatment"


def variant_of(name: str, share: float, user_id: str) -> str:
    """The variant of a user: `treatment` for a share (0 to 1) of all users, by the hash of experiment and user."""
    digest = hashlib.sha256(f"{name}\0{user_id}".encode()).digest()
    return TREATMENT if int.from_bytes(digest[:8]) < share * 2**64 else CONTROL
