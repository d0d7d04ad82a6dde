"""Splits: which interactions are held out from everything that describes an item, a user or a popularity.

Belongs here: the rule of the hold-out, in SQL over all catalogues. Does not belong here: metrics, candidates and
everything else that evaluation does with it.
"""

from __future__ import annotations

import duckdb

from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, replace_changed_rows, would_change

# A user's place in [0, 1): the first 32 bits of the MD5 of the id. The same in every run, on every machine and in every
# catalogue, and independent of how many users there are, so that nobody enters or leaves the panel by somebody else.
USER_FRACTION = "CAST('0x' || substr(md5(user_id), 1, 8) AS UBIGINT) / 4294967296.0"

_LAST_POSITIVE = f"""
    WITH ordered AS (
        SELECT user_id, review_id, is_positive,
            row_number() OVER (PARTITION BY user_id ORDER BY reviewed_at, review_id) AS position
        FROM reviews WHERE {USER_FRACTION} < $panel_fraction
    ), panel AS (
        -- A target needs an earlier interaction: without history there is nothing to recommend from.
        SELECT user_id, max(position, 2) FILTER (WHERE is_positive AND position > 1) AS targets
        FROM ordered GROUP BY user_id HAVING count(*) >= $min_interactions AND len(targets) = 2
    ), held_out AS (
        SELECT review_id, CASE WHEN position >= targets[1] THEN 'test' ELSE 'valid' END AS split,
            position IN (targets[1], targets[2]) AS is_target
        FROM ordered JOIN panel USING (user_id) WHERE position >= targets[2]
    )
    SELECT catalog, review_id, COALESCE(split, 'train') AS split, COALESCE(is_target, FALSE) AS is_target
    FROM reviews LEFT JOIN held_out USING (review_id)
"""

_TEMPORAL = """
    WITH tested AS (
        SELECT coalesce($as_of::TIMESTAMP, (SELECT quantile_disc(reviewed_at, 0.9) FROM reviews)) AS test_from
    ), cut AS (
        SELECT test_from, (
            SELECT quantile_disc(reviewed_at, 1 - $valid_share) FROM reviews WHERE reviewed_at < test_from
        ) AS valid_from FROM tested
    ), placed AS (
        SELECT catalog, review_id, user_id, reviewed_at,
            CASE WHEN reviewed_at >= test_from THEN 'test' WHEN reviewed_at >= valid_from THEN 'valid' ELSE 'train' END
                AS split,
            -- What a user met before is no candidate, and so no target.
            is_positive AND row_number() OVER (
                PARTITION BY user_id, catalog, item_id ORDER BY reviewed_at, review_id
            ) = 1 AS can_be_target
        FROM reviews, cut
    )
    SELECT catalog, review_id, split, split <> 'train' AND can_be_target AND row_number() OVER (
        PARTITION BY user_id, split, can_be_target ORDER BY reviewed_at, review_id
    ) = 1 AS is_target
    FROM placed
"""


def assign_splits(database: Database, settings: Settings, catalog: str | None = None) -> dict[str, int]:
    """Give every interaction of a catalogue (default: of all) its split; writes only the rows that change.

    The rule reads the interactions of all catalogues: a user's last one may lie in any of them.

    With `splits.protocol` `temporal` everything from `splits.as_of` on is `test`, the last `splits.valid_share` of the
    interactions before it is `valid`, and the rest is `train`, whoever's it is; a user's target is the first liked item
    of a split that the user had not met before. Otherwise, with `last_positive`:

    A user belongs to the panel if USER_FRACTION of the id is below `splits.panel_fraction`, and the user has at least
    `splits.min_interactions` interactions over all catalogues, among them two positive ones that each have an earlier
    interaction. With interactions ordered by time, then review id: the test target is the last positive one, the
    validation target the last positive one before it. What stands at or after the test target is `test`, what stands at
    or after the validation target and before the test target is `valid`, and the rest, which is never empty, is
    `train`, as is every interaction of every other user. `is_target` marks the two targets.

    Why everything after a target is held out and not the target alone: a later review that described the user, its item
    or the popularity of anything would let the model see the future of the very moment it is tested on.

    Why the last ones: as newer reviews arrive, targets only move forward, so that for a user of the panel a row only
    ever goes from test to valid to train, and what was generated from a train row stays valid. Two things move a row
    the other way: a user who enters the panel by a new review (at most the interactions from the last positive one on),
    and a review that arrives late and is older than those already there.

    Returns counts of the catalogue: train, valid, test (interactions), targets, users, panel_users (users with a target
    in it), and changed (1 if anything was written, else 0).
    """
    scope, name = ("TRUE", {}) if catalog is None else ("catalog = $catalog", {"catalog": catalog})
    incoming = "FROM new_splits"
    rule = settings.splits
    if rule.protocol == "temporal":
        query = _TEMPORAL
        parameters: dict[str, object] = {"as_of": rule.as_of, "valid_share": rule.valid_share}
    else:
        query = _LAST_POSITIVE
        parameters = {"panel_fraction": rule.panel_fraction, "min_interactions": rule.min_interactions}
    with database.read() as connection:
        _compute(connection, query, parameters, scope, name)
        changed = would_change(connection, "splits", incoming, scope, name)
    if changed:
        # Computed again under the lock: reviews may have been replaced in between, and every one of them needs its row.
        with database.write() as connection:
            _compute(connection, query, parameters, scope, name)
            replace_changed_rows(connection, "splits", incoming, scope, name)
    counts = database.rows(
        f"""
        SELECT count(*) FILTER (WHERE split = 'train'), count(*) FILTER (WHERE split = 'valid'),
            count(*) FILTER (WHERE split = 'test'), count(*) FILTER (WHERE is_target),
            count(DISTINCT user_id), count(DISTINCT user_id) FILTER (WHERE is_target)
        FROM splits JOIN reviews USING (catalog, review_id) WHERE {scope}
        """,
        name,
    )[0]
    names = ("train", "valid", "test", "targets", "users", "panel_users")
    return {**dict(zip(names, counts, strict=True)), "changed": int(changed)}


def _compute(
    connection: duckdb.DuckDBPyConnection, rule: str, parameters: dict[str, object], scope: str, name: dict[str, str]
) -> None:
    """Fill the temporary table `new_splits`."""
    query = f"CREATE OR REPLACE TEMP TABLE new_splits AS SELECT * FROM ({rule}) WHERE {scope}"
    connection.execute(query, {**parameters, **name})
