"""What `persona4rec demo` shows: a few users of the warehouse and what they liked.

Belongs here: choosing whom to show. Does not belong here: recommending (`index/`) and printing (`cli.py`).
"""

from __future__ import annotations

from persona4rec_pipeline.settings import FILE_NAME, Settings, settings_file
from persona4rec_pipeline.warehouse import open_warehouse

_DEMO_SETTINGS = """\
# Written by `persona4rec demo`, and read by every command that uses this state directory.
# The sample is small: every reader with enough reviews is in the evaluation panel. With many users a tenth is enough.
[splits]
panel_fraction = 1.0
"""


def prepare_demo_settings(settings: Settings) -> None:
    """Give a state directory without a settings file the one of the sample; a file that is in use is left alone."""
    if settings_file() is None:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / FILE_NAME).write_text(_DEMO_SETTINGS)


def users_with_history(settings: Settings, count: int) -> list[str]:
    """Ids of `count` users with three to eight liked items in train: enough to go by, few enough to be read.

    Chosen by the hash of the id, so that the same data shows the same users.
    """
    found = open_warehouse(settings).rows(
        """SELECT user_id FROM reviews JOIN splits USING (catalog, review_id)
           WHERE splits.split = 'train' AND reviews.is_positive
           GROUP BY user_id HAVING count(DISTINCT item_id) BETWEEN 3 AND 8 ORDER BY md5(user_id) LIMIT ?""",
        [count],
    )
    return [user_id for (user_id,) in found]


def liked_titles(settings: Settings, user_id: str, most: int) -> list[str]:
    """Titles of the items that a user liked in train, most recent first."""
    found = open_warehouse(settings).rows(
        """SELECT item_summaries.title FROM reviews JOIN splits USING (catalog, review_id)
           JOIN item_summaries ON item_summaries.catalog = reviews.catalog AND item_summaries.item_id = reviews.item_id
           WHERE splits.split = 'train' AND reviews.is_positive AND reviews.user_id = ?
           ORDER BY reviews.reviewed_at DESC LIMIT ?""",
        [user_id, most],
    )
    return [title for (title,) in found]
