"""Candidates from elsewhere: what a row means, and what is said of one that cannot be used."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from persona4rec_pipeline.evaluation.candidates import propose_listed, read_interactions, read_panel
from persona4rec_pipeline.evaluation.candidates_file import Listed, read_candidates_file
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_tests.index.builders import Shop

ROWS = [("ann", "c", 0.1), ("ann", "a", 0.5), ("stranger", "a", 0.9), ("bob", "b", 0.2)]


@pytest.fixture
def shop(tmp_path):
    """Items a to e are books, `a` is a film as well; ann (valid and test) has read e and disliked d, bob (test) nothing."""
    shop = Shop(tmp_path)
    for item in "abcde":
        shop.item(item)
    shop.item("a", catalog="films")
    for user, item in [("x", "a"), ("y", "a"), ("x", "b"), ("z", "e"), ("ann", "e")]:
        shop.interaction(user, item)
    shop.interaction("ann", "d", positive=False)
    shop.interaction("ann", "a", split="valid").interaction("ann", "b", split="test")
    return shop.interaction("bob", "c", split="test").store()


def read(shop: Shop, text: str, name: str = "a.jsonl") -> Listed:
    path = shop.home / name
    path.write_text(text)
    return read_candidates_file(path, shop.database, read_panel(shop.database))


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def keys(found: Listed) -> dict[tuple[str, str], list[str]]:
    return {where: candidates.keys for where, candidates in found.lists.items()}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_format_says_the_same(shop, name):
    frame, path = pd.DataFrame(ROWS, columns=["user_id", "item_id", "score"]), shop.home / name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        text = frame.to_csv(index=False) if ".csv" in name else frame.to_json(orient="records", lines=True)
        (gzip.open if name.endswith(".gz") else open)(path, "wb").write(text.encode())
    found = read_candidates_file(path, shop.database, read_panel(shop.database))
    ann = ["books/a", "books/c"]
    assert keys(found) == {("valid", "ann"): ann, ("test", "ann"): ann, ("test", "bob"): ["books/b"]}
    assert found.lists["test", "ann"].scores.tolist() == [0.5, 0.1]
    assert found.counts == {"rows": 4, "rows_outside_panel": 1, "seen": 0, "unknown_items": 0}


def test_without_scores_the_order_of_the_rows_ranks_and_a_split_is_kept(shop):
    rows = [("c", None), ("b", "test"), ("a", None), ("c", None), ("d", None)]
    found = read(shop, lines(*({"user_id": "ann", "item_id": item, "split": split} for item, split in rows)))
    assert keys(found) == {("valid", "ann"): ["books/c", "books/a"], ("test", "ann"): ["books/c", "books/b", "books/a"]}
    assert found.lists["test", "ann"].scores.tolist() == [1, 1 / 2, 1 / 3]
    assert found.counts["seen"] == 2, "once in each split: ann disliked d in train"


def test_an_unknown_item_keeps_its_place_and_a_catalogue_is_believed(shop):
    rows = [{"item_id": "new"}, {"item_id": "a", "catalog": "films"}, {"item_id": "a", "catalog": "games"}]
    found = read(shop, lines(*({"user_id": "bob", **row} for row in rows)))
    assert keys(found) == {("test", "bob"): ["/new", "films/a", "games/a"]}
    assert found.counts["unknown_items"] == 2


def test_what_the_file_does_not_fill_the_popular_items_do(shop):
    found = read(
        shop, lines({"user_id": "ann", "item_id": "new", "score": -2}, {"user_id": "ann", "item_id": "b", "score": -3})
    )
    panel = read_panel(shop.database)
    settings = EvaluationSettings(depth=3, candidates=2)
    rows = propose_listed(read_interactions(shop.database), panel, settings, found.lists)
    of_ann, of_bob = rows[(rows["user_id"] == "ann") & (rows["split"] == "test")], rows[rows["user_id"] == "bob"]
    assert of_ann["item_id"].tolist() == ["/new", "books/b", "books/a"], "e is seen"
    assert of_ann["score"].tolist() == [-2, -3, -3] and of_ann["is_filled"].tolist() == [False, False, True]
    assert of_bob["item_id"].tolist() == ["books/a", "books/e", "books/b"] and of_bob["is_filled"].all()
    shop.database.replace("candidates", rows)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"user": "ann", "item_id": "a"}\n', r"a.jsonl has no column user_id; it has user, item_id. Name its columns"),
        (lines({"user_id": "ann", "item_id": "a"}) + "\n{broken\n", r"a.jsonl, line 3: not a JSON object. Mend"),
        (lines({"user_id": "ann", "item_id": "a"}, {"user_id": "ann"}), r"a.jsonl, line 2: no item_id"),
        (lines({"user_id": "ann", "item_id": "a", "score": "high"}), r"line 1: the score high is not a finite number"),
        (lines({"user_id": "ann", "item_id": "a", "split": "dev"}), r"line 1: the split is dev"),
        (
            lines({"user_id": "ann", "item_id": "a", "score": 1}, {"user_id": "ann", "item_id": "b"}),
            r"line 2: no score, though other rows have one",
        ),
        (lines({"user_id": "stranger", "item_id": "a"}), r"has 1 rows, but none for any of the 2 users of the panel"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_file_line_and_mend(shop, text, named):
    with pytest.raises(SourceError, match=named):
        read(shop, text)


def test_a_csv_row_of_other_length_an_unknown_suffix_and_a_missing_file_are_named(shop):
    with pytest.raises(SourceError, match=r"a.csv, line 3: not as many fields as the header"):
        read(shop, "user_id,item_id\nann,a\nann,b,c\n", "a.csv")
    with pytest.raises(SourceError, match=r"a.pickle: the suffix is not known"):
        read(shop, "", "a.pickle")
    with pytest.raises(SourceError, match=r"nowhere.csv, which does not exist"):
        read_candidates_file(shop.home / "nowhere.csv", shop.database, read_panel(shop.database))
