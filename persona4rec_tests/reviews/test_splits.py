"""The hold-out: the two last positive interactions of a panel of users, and nothing later than them in train."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from persona4rec_pipeline.reviews.splits import assign_splits
from persona4rec_tests.reviews.builders import Workshop, review


def history(user, tastes, catalog_items="item", first_day=0):
    """One interaction a day: + positive, - negative."""
    return [
        review(user, f"{catalog_items}-{number}", day=first_day + number, rating=5 if taste == "+" else 1)
        for number, taste in enumerate(tastes)
    ]


def everyone(tmp_path, **splits):
    return Workshop(tmp_path, splits={"panel_fraction": 1.0, **splits})


def drawn(workshop, user="ann"):
    """The splits of a user in order: t train, v valid, e test; targets in capitals."""
    letters = {"train": "t", "valid": "v", "test": "e"}
    rows = workshop.database.rows(
        "SELECT split, is_target FROM splits JOIN reviews USING (catalog, review_id) WHERE user_id = ? "
        "ORDER BY reviewed_at, review_id",
        [user],
    )
    return "".join(letters[split].upper() if is_target else letters[split] for split, is_target in rows)


@pytest.mark.parametrize(
    ("tastes", "expected"),
    [
        ("+++", "tVE"),
        ("+++++", "tttVE"),
        ("-++", "tVE"),
        ("++-+", "tVvE"),
        ("++-+--", "tVvEee"),
        ("+-+-+-", "ttVvEe"),
        ("----++--", "ttttVEee"),
        ("++", "tt"),  # too few interactions
        ("++-", "ttt"),  # the first positive one has nothing before it
        ("+--", "ttt"),
        ("---+", "tttt"),
        ("-----", "ttttt"),
    ],
)
def test_the_last_two_positive_interactions_are_targets_and_nothing_after_them_is_train(tmp_path, tastes, expected):
    workshop = everyone(tmp_path)
    workshop.store_reviews(history("ann", tastes))
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop) == expected


def test_a_user_with_fewer_interactions_than_the_setting_is_not_in_the_panel(tmp_path):
    workshop = everyone(tmp_path, min_interactions=5)
    workshop.store_reviews([*history("ann", "++++"), *history("bob", "+++++")])
    counts = assign_splits(workshop.database, workshop.settings)
    assert (drawn(workshop, "ann"), drawn(workshop, "bob")) == ("tttt", "tttVE")
    assert counts == {"train": 7, "valid": 1, "test": 1, "targets": 2, "users": 2, "panel_users": 1, "changed": 1}


def test_a_user_of_several_catalogues_has_one_history(tmp_path):
    workshop = everyone(tmp_path)
    workshop.store_reviews(history("ann", "+-", "book"), name="books")
    workshop.store_reviews(history("ann", "++", "film", first_day=10), name="films")
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop) == "ttVE"


def test_interactions_at_the_same_time_are_ordered_by_review_id(tmp_path):
    workshop = everyone(tmp_path)
    workshop.store_reviews([review("ann", f"item-{number}") for number in range(6)])
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop) == "ttttVE"


def test_the_panel_is_the_documented_hash_and_its_share(tmp_path):
    users = [f"user{number}" for number in range(300)]
    workshop = Workshop(tmp_path, splits={"panel_fraction": 0.3})
    workshop.store_reviews([row for user in users for row in history(user, "+++")])
    counts = assign_splits(workshop.database, workshop.settings)
    chosen = {user for user in users if int(hashlib.md5(user.encode()).hexdigest()[:8], 16) / 2**32 < 0.3}
    found = workshop.database.rows("SELECT DISTINCT user_id FROM reviews JOIN splits USING (review_id) WHERE is_target")
    assert {row[0] for row in found} == chosen and counts["panel_users"] == len(chosen)
    assert 60 < len(chosen) < 120


def test_without_a_panel_everything_is_train(tmp_path):
    workshop = Workshop(tmp_path, splits={"panel_fraction": 0.0})
    workshop.store_reviews(history("ann", "+++++"))
    counts = assign_splits(workshop.database, workshop.settings)
    assert (counts["train"], counts["targets"]) == (5, 0)


def test_without_reviews_there_are_no_splits(workshop):
    assert assign_splits(workshop.database, workshop.settings)["train"] == 0


def test_the_table_is_rewritten_only_if_its_content_changes(tmp_path, monkeypatch):
    workshop = everyone(tmp_path)
    workshop.store_reviews(history("ann", "+++"))
    assert assign_splits(workshop.database, workshop.settings)["changed"] == 1
    version = workshop.database.content_version("splits")
    with monkeypatch.context() as patch:
        patch.setattr(type(workshop.database), "write", lambda self: pytest.fail("wrote without need"))
        assert assign_splits(workshop.database, workshop.settings)["changed"] == 0
    assert workshop.database.content_version("splits") == version
    workshop.store_reviews(history("ann", "++++"))
    assert assign_splits(workshop.database, workshop.settings)["changed"] == 1
    assert drawn(workshop) == "ttVE"


def test_splits_of_a_deleted_catalogue_go_with_its_reviews(tmp_path):
    workshop = everyone(tmp_path)
    workshop.store_reviews(history("ann", "+++"))
    assign_splits(workshop.database, workshop.settings)
    with workshop.database.write() as connection:
        connection.execute("DELETE FROM reviews")
    assert assign_splits(workshop.database, workshop.settings)["changed"] == 1
    assert workshop.database.rows("FROM splits") == []


def test_newer_reviews_of_a_panel_user_only_ever_free_held_out_rows(tmp_path):
    order = {"test": 0, "valid": 1, "train": 2}
    tastes = "+-++--+-+++-+"
    workshop = everyone(tmp_path)
    before: dict[str, str] = {}
    for length in range(3, len(tastes) + 1):
        workshop.store_reviews(history("ann", tastes[:length]))
        counts = assign_splits(workshop.database, workshop.settings)
        now = dict(workshop.database.rows("SELECT review_id, split FROM splits"))
        if before:
            assert all(order[now[review_id]] >= order[split] for review_id, split in before.items())
        if counts["panel_users"]:
            before = now
    assert before


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 9), st.sampled_from([1, 5, None])),
        min_size=1,
        max_size=25,
    ),
    share=st.sampled_from([0.5, 1.0]),
)
@hypothesis_settings(max_examples=15, deadline=None)
def test_no_history_leaks(tmp_path_factory, rows, share):
    workshop = Workshop(tmp_path_factory.mktemp("splits"), splits={"panel_fraction": share})
    workshop.store_reviews([review(user, f"item-{item}", day=day, rating=rating) for user, item, day, rating in rows])
    counts = assign_splits(workshop.database, workshop.settings)
    found = workshop.database.rows(
        "SELECT user_id, is_positive, split, is_target FROM reviews LEFT JOIN splits USING (catalog, review_id) "
        "ORDER BY user_id, reviewed_at, review_id"
    )
    assert len(found) == counts["train"] + counts["valid"] + counts["test"]
    for user in {row[0] for row in found}:
        mine = [row[1:] for row in found if row[0] == user]
        order = [("train", "valid", "test").index(split) for _, split, _ in mine]
        assert order == sorted(order) and order[0] == 0  # train first, and never empty
        targets = [(positive, split) for positive, split, is_target in mine if is_target]
        assert targets in ([], [(True, "valid"), (True, "test")])
        if not targets:
            assert set(order) == {0}
        else:
            assert not any(positive for positive, split, is_target in mine if split != "train" and not is_target)


def test_one_catalogue_at_a_time_gives_the_same_splits_as_all_at_once(tmp_path):
    together, apart = everyone(tmp_path / "a"), everyone(tmp_path / "b")
    for workshop in (together, apart):
        workshop.store_reviews(history("ann", "+++"), "books")
        workshop.store_reviews(history("ann", "++", first_day=2, catalog_items="film"), "films")
    assign_splits(together.database, together.settings)
    assert assign_splits(apart.database, apart.settings, "books")["train"] == 3
    assert drawn(apart) == "ttt"
    assert assign_splits(apart.database, apart.settings, "films")["targets"] == 2
    assert drawn(apart) == drawn(together)


def test_from_a_date_on_everything_is_held_out_and_the_first_new_like_after_it_is_the_target(tmp_path):
    # Days 0 to 9; the test begins on day 7, and of the seven before it the last is for validation.
    workshop = Workshop(tmp_path, splits={"protocol": "temporal", "as_of": "2020-01-08", "valid_share": 0.1})
    workshop.store_reviews(
        history("ann", "++++++++++")
        + history("ben", "------+--+", "other")
        + history("cleo", "-++", first_day=7)
        + history("dora", "+", first_day=0)
    )
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop, "ann") == "ttttttVEee"
    assert drawn(workshop, "ben") == "ttttttVeeE"
    assert drawn(workshop, "cleo") == "eEe", "who is new has a target, too"
    assert drawn(workshop, "dora") == "t"


def test_what_a_user_met_before_is_no_target(tmp_path):
    workshop = Workshop(tmp_path, splits={"protocol": "temporal", "as_of": "2020-01-03"})
    workshop.store_reviews(
        [review("ann", item, day, rating=5) for day, item in enumerate(["dune", "emma", "dune", "ulysses"])]
    )
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop) == "tVeE"


def test_without_a_date_the_last_tenth_is_the_test(tmp_path):
    workshop = Workshop(tmp_path, splits={"protocol": "temporal"})
    workshop.store_reviews(history("ann", "+" * 40))
    assign_splits(workshop.database, workshop.settings)
    assert drawn(workshop).lower() == "t" * 31 + "v" * 4 + "e" * 5
