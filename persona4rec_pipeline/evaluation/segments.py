"""Parts of the panel that are reported apart: users by how much is known of them, targets by how popular they are.

Belongs here: who is in which segment, from counts of train interactions. Does not belong here: metrics, counting the
interactions, tables.

Popularity is long-tailed: few items hold most interactions. The head are the most popular items that together hold half
of all train interactions, the fewest that do; all others, those without any interaction too, are the tail. Items of
equal count are never parted: where the boundary falls among them, all of them go to the tail. The head may so hold less
than half, and be empty where all items are equally popular.
"""

from __future__ import annotations

import numpy as np

HEAD_SHARE = 0.5


def segments(
    user_interactions: np.ndarray, target_popularity: np.ndarray, popularity: np.ndarray
) -> dict[str, np.ndarray]:
    """Name of the segment -> bool (users,), in the order in which they are reported.

    user_interactions: int (users,), train interactions of each user. target_popularity: int (users,), those of each
    user's target. popularity: int (items,), those of every item. Every user is in exactly one segment of users and in
    exactly one of items. Raises ValueError when the first two are not of equal length.
    """
    if len(user_interactions) != len(target_popularity):
        raise ValueError("Every user has a number of interactions and one target.")
    known, is_head = user_interactions, target_popularity >= head_popularity(popularity)
    return {
        "users with 0 interactions": known == 0,
        "users with 1 interaction": known == 1,
        "users with 2 to 4 interactions": (known >= 2) & (known <= 4),
        "users with 5 or more interactions": known >= 5,
        "head items": is_head,
        "tail items": ~is_head,
    }


def head_popularity(popularity: np.ndarray) -> int:
    """The fewest train interactions, at least 1, with which an item belongs to the head; popularity: int (items,)."""
    if not popularity.any():
        return 1
    descending = np.sort(popularity)[::-1]
    fewest = np.searchsorted(np.cumsum(descending), HEAD_SHARE * descending.sum()) + 1
    last = int(descending[fewest - 1])
    is_tie_parted = last in descending[fewest:]
    return last + 1 if is_tie_parted else last
