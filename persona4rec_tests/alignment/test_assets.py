"""Which choices become pairs, what of the past is shown, and the asset as a whole without a language model."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg
import pytest

from persona4rec_pipeline.alignment.assets import _read_choices, alignment_pairs, count_choices
from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.personas.builders import embed_words

BEGIN = datetime(2024, 1, 1)


class WordEncoder:
    """The text encoder of the assets, without a model."""

    def encode(self, texts, on_progress=None):
        return embed_words(texts)


class Shelf:
    """A catalogue of items with two personas each, and reviews that are put on it one by one."""

    def __init__(self, home, **alignment):
        self.settings = load_settings({}, home=home, generation={"engine": "extractive"}, alignment=alignment)
        self.warehouse = open_warehouse(self.settings)

    def item(self, item_id, evidence=()):
        with self.warehouse.write() as connection:
            connection.execute(
                "INSERT INTO item_summaries VALUES ('books', ?, ?, 'A book.', 'extractive')",
                [item_id, f"Title {item_id}"],
            )
            for name, text in (("dread", "castles and creeping fear"), ("jokes", "silly jokes")):
                connection.execute(
                    "INSERT INTO personas BY NAME SELECT 'books' AS catalog, ? AS item_id, ? AS persona_id, ? AS name, "
                    "? AS description, '' AS preference_rationale, 'appreciative' AS polarity, "
                    "?::VARCHAR[] AS evidence_review_ids, []::VARCHAR[] AS quotes, 'extractive' AS source",
                    [item_id, name, f"The {name} reader", f"This reader looks for {text}.", list(evidence)],
                )

    def review(self, user, item, day, split="train", positive=True, text="castles and creeping fear"):
        review_id = f"{user}-{item}-{day}"
        with self.warehouse.write() as connection:
            connection.execute(
                "INSERT INTO reviews VALUES ('books', ?, ?, ?, 5, ?, NULL, ?, ?)",
                [review_id, user, item, positive, text, BEGIN + timedelta(days=day)],
            )
            connection.execute("INSERT INTO splits VALUES ('books', ?, ?, FALSE)", [review_id, split])
        return review_id

    def histories(self):
        """Explained review -> the reviews that are shown, in order."""
        choices, _ = _read_choices(self.warehouse, self.settings)
        return {choice.review_id: [entry.review_id for entry in choice.history] for choice in choices}


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(tmp_path)
    for item in ("i1", "i2", "i3", "i4"):
        shelf.item(item)
    return shelf


def test_a_user_of_exactly_two_interactions_gives_a_pair(shelf):
    first, second = shelf.review("ann", "i1", 1), shelf.review("ann", "i2", 2)
    shelf.review("bob", "i1", 1)
    assert shelf.histories() == {second: [first]}


def test_what_has_the_same_time_is_not_earlier(shelf):
    shelf.review("ann", "i1", 5)
    shelf.review("ann", "i2", 5)
    assert shelf.histories() == {}
    before = shelf.review("ann", "i3", 1)
    assert shelf.histories() == {"ann-i1-5": [before], "ann-i2-5": [before]}
    after = shelf.review("ann", "i4", 6)
    assert shelf.histories()[after] == ["ann-i2-5", "ann-i1-5", before]


def test_what_is_held_out_or_was_not_liked_is_neither_shown_nor_explained(shelf):
    liked = shelf.review("ann", "i1", 1)
    shelf.review("ann", "i2", 2, split="valid")
    shelf.review("ann", "i3", 3, positive=False)
    target = shelf.review("ann", "i4", 4)
    shelf.review("ann", "i2", 5, split="test")
    assert shelf.histories() == {target: [liked]}


def test_the_history_holds_the_most_recent_earlier_ones_first(tmp_path):
    shelf = Shelf(tmp_path, max_history=2)
    for day in range(4):
        shelf.item(f"i{day}")
        shelf.review("ann", f"i{day}", day)
    assert shelf.histories()["ann-i3-3"] == ["ann-i2-2", "ann-i1-1"]


def test_of_many_choices_the_most_recent_are_explained_and_the_others_counted(tmp_path):
    shelf = Shelf(tmp_path, max_pairs_per_user=2)
    for day in range(6):
        shelf.item(f"i{day}")
        shelf.review("ann", f"i{day}", day)
    shelf.review("bob", "i1", 1)
    shelf.review("bob", "i2", 2)
    assert set(shelf.histories()) == {"ann-i5-5", "ann-i4-4", "bob-i2-2"}
    counts = count_choices(shelf.warehouse, shelf.settings)
    # Ann's first choice has nothing earlier: it is not left out by the limit.
    assert (counts.explained, counts.left_out) == (3, 3)


def test_a_users_own_reviews_of_the_item_are_no_voices_of_its_personas(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.item("i1", evidence=("ann-i1-1", "bob-i1-1"))
    shelf.item("i2", evidence=("ann-i2-2", "ann-i2-3", "bob-i2-1"))
    for user, item, day in (("ann", "i1", 1), ("bob", "i1", 1), ("bob", "i2", 1), ("ann", "i2", 2), ("ann", "i2", 3)):
        shelf.review(user, item, day)
    choices, _ = _read_choices(shelf.warehouse, shelf.settings)
    asked = next(choice for choice in choices if choice.review_id == "ann-i2-2")
    assert {option.voices for option in asked.options} == {("bob-i2-1",)}
    assert asked.history[0].kin == ("ann-i1-1", "bob-i1-1")


def test_the_asset_stores_the_verdict_its_entropy_and_what_similarity_would_have_chosen(shelf):
    shelf.review("ann", "i1", 1)
    shelf.review("ann", "i2", 2)
    for day in (1, 2, 3, 4):
        shelf.review("bob", f"i{day}", day, text="silly jokes")
    result = dg.materialize(
        [alignment_pairs],
        resources={
            "warehouse": shelf.warehouse,
            "settings": shelf.settings,
            "language_model": LanguageModel(shelf.settings),
            "text_encoder": WordEncoder(),
        },
    )
    (event,) = result.asset_materializations_for_node("alignment_pairs")
    told = {name: value.value for name, value in event.metadata.items()}
    assert (told["pairs"], told["judged"], told["failed"], told["left_out_by_limit"]) == (4, 4, 0, 0)
    assert 0 < told["mean_entropy"] < 1
    rows = shelf.warehouse.rows(
        "SELECT user_id, persona_id, similarity_persona_id, entropy, shown_orders, source FROM alignment_pairs ORDER BY 1"
    )
    assert [row[:3] for row in rows] == [("ann", "dread", "dread"), *[("bob", "jokes", "jokes")] * 3]
    assert all(0 < entropy < 1 and shown is None and source == "similarity" for *_, entropy, shown, source in rows)
