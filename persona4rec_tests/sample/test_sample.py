"""The bundled sample: that it is what its writer writes, in the promised shape, and gives nothing planted away."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persona4rec_pipeline.sample import CATALOGUES, sample_path
from scripts.write_sample.__main__ import DEFAULT_READERS, DEFAULT_SEED, write_sample
from scripts.write_sample.compose import opening_sentence

PLANTED = Path(__file__).parent.parent / "planted"
REVIEW_FIELDS = {
    "rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp", "helpful_vote",
    "verified_purchase",
}  # fmt: skip

Records = list[dict[str, Any]]


def records(path: Path) -> Records:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reviews_of(name: str) -> Records:
    return records(sample_path(name) / "reviews.jsonl")


def items_of(name: str) -> Records:
    return records(sample_path(name) / "items.jsonl")


def truth_of(name: str) -> dict[str, Any]:
    return json.loads((PLANTED / f"{name}.json").read_text(encoding="utf-8"))


def distinct_share_of_four_word_runs(reviews: Records) -> float:
    runs = []
    for review in reviews:
        words = re.findall(r"\w+", review["text"].lower())
        runs.extend(tuple(words[start : start + 4]) for start in range(len(words) - 3))
    return len(set(runs)) / len(runs)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaled")
    write_sample(DEFAULT_SEED, 600, folder / "sample", folder / "truth")
    return folder / "sample"


def test_the_writer_reproduces_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    write_sample(DEFAULT_SEED, DEFAULT_READERS, tmp_path / "sample", tmp_path / "truth")
    for name in CATALOGUES:
        for file_name in ("items.jsonl", "reviews.jsonl"):
            written = (tmp_path / "sample" / name / file_name).read_bytes()
            assert written == (sample_path(name) / file_name).read_bytes()
        assert (tmp_path / "truth" / f"{name}.json").read_bytes() == (PLANTED / f"{name}.json").read_bytes()


def test_the_books_have_the_promised_numbers_of_readers_reviews_and_items() -> None:
    reviews = reviews_of("books")
    per_reader = Counter(review["user_id"] for review in reviews)
    assert len(items_of("books")) == 40
    assert 800 <= len(reviews) <= 900
    assert len(per_reader) == 250
    assert 0.2 <= sum(count == 1 for count in per_reader.values()) / 250 <= 0.3
    assert sum(count >= 25 for count in per_reader.values()) >= 2


def test_a_few_books_are_reviewed_often_and_one_exactly_once() -> None:
    per_item = Counter(review["parent_asin"] for review in reviews_of("books"))
    assert sum(count >= 40 for count in per_item.values()) >= 3
    assert sum(count <= 8 for count in per_item.values()) >= 4
    assert 1 in per_item.values()


def test_the_new_arrivals_are_few_and_one_of_them_has_no_review() -> None:
    items, reviews = items_of("new-arrivals"), reviews_of("new-arrivals")
    reviewed = {review["parent_asin"] for review in reviews}
    assert len(items) == 6
    assert 60 <= len(reviews) <= 80
    assert {item["parent_asin"] for item in items} - reviewed


def test_most_readers_of_the_new_arrivals_have_a_history_that_lies_before() -> None:
    last_earlier: dict[str, int] = {}
    for review in reviews_of("books"):
        last_earlier[review["user_id"]] = max(review["timestamp"], last_earlier.get(review["user_id"], 0))
    later = reviews_of("new-arrivals")
    known = [review for review in later if review["user_id"] in last_earlier]
    assert len(known) >= 0.8 * len(later)
    assert all(review["timestamp"] > last_earlier[review["user_id"]] for review in known)


@pytest.mark.parametrize("name", CATALOGUES)
def test_every_review_is_complete_and_is_about_an_item_of_its_catalogue(name: str) -> None:
    asins = {item["parent_asin"] for item in items_of(name)}
    for review in reviews_of(name):
        assert set(review) == REVIEW_FIELDS
        assert review["parent_asin"] in asins
        assert review["text"].strip()
        assert review["title"].strip()
        assert re.fullmatch(r"A[EFGH][A-Z2-7]{26}", review["user_id"])


@pytest.mark.parametrize("name", CATALOGUES)
def test_no_reader_reviews_an_item_twice(name: str) -> None:
    pairs = Counter((review["user_id"], review["parent_asin"]) for review in reviews_of(name))
    assert max(pairs.values()) == 1


@pytest.mark.parametrize("name", CATALOGUES)
def test_nothing_of_the_truth_appears_in_the_data(name: str) -> None:
    data = "".join((sample_path(name) / file).read_text(encoding="utf-8") for file in ("items.jsonl", "reviews.jsonl"))
    for motive in truth_of(name)["motives"]:
        for secret in (motive["id"], motive["name"], motive["description"]):
            assert secret.lower() not in data.lower()


@pytest.mark.parametrize("name", CATALOGUES)
def test_the_truth_covers_every_review_once_with_a_motive_planted_in_its_item(name: str) -> None:
    truth = truth_of(name)
    keys = [(review["user_id"], review["parent_asin"], review["timestamp"]) for review in truth["reviews"]]
    assert keys == [(review["user_id"], review["parent_asin"], review["timestamp"]) for review in reviews_of(name)]
    for review in truth["reviews"]:
        item = truth["items"][review["parent_asin"]]
        if review["kind"] == "motive":
            assert review["motive"] in item["appreciative"]
        elif review["kind"] in ("critical", "mixed"):
            assert review["motive"] in item["critical"]
        else:
            assert review["motive"] is None
    assert {review["user_id"] for review in truth["reviews"]} == set(truth["readers"])


def test_there_is_one_injection_attempt_and_one_review_with_personal_details() -> None:
    kinds = Counter(review["kind"] for name in CATALOGUES for review in truth_of(name)["reviews"])
    texts = [review["text"] for name in CATALOGUES for review in reviews_of(name)]
    assert kinds["injection"] == kinds["pii"] == 1
    assert sum("ZephyrMart" in text for text in texts) == 1
    assert sum(bool(re.search(r"\S+@\S+\.\S+", text)) for text in texts) == 1


def test_reviews_do_not_repeat_each_other() -> None:
    reviews = reviews_of("books")
    openings = Counter(opening_sentence(review["text"]) for review in reviews)
    assert len({review["text"] for review in reviews}) == len(reviews)
    assert max(openings.values()) <= 0.02 * len(reviews)
    assert distinct_share_of_four_word_runs(reviews) > 0.65


@pytest.mark.parametrize("name", CATALOGUES)
def test_no_review_shows_the_seams_of_its_banks(name: str) -> None:
    for review in reviews_of(name):
        assert not re.search(r"[{}\[\]|]|  | [.,](?!\.)", review["title"] + "\n" + review["text"])


def test_a_scaled_sample_grows_in_proportion_and_stays_varied(scaled: Path) -> None:
    reviews = records(scaled / "books" / "reviews.jsonl")
    openings = Counter(opening_sentence(review["text"]) for review in reviews)
    assert 1900 <= len(reviews) <= 2200
    assert len({review["user_id"] for review in reviews}) == 600
    assert len({review["text"] for review in reviews}) == len(reviews)
    assert max(openings.values()) <= 0.02 * len(reviews)
    assert distinct_share_of_four_word_runs(reviews) > 0.45


def test_another_seed_writes_other_reviews(tmp_path: Path) -> None:
    write_sample(8, 40, tmp_path / "sample", tmp_path / "truth")
    texts = {review["text"] for review in records(tmp_path / "sample" / "books" / "reviews.jsonl")}
    shared = texts & {review["text"] for review in reviews_of("books")}
    # Only the reviews that are written whole may come again.
    assert len(shared) <= 15


def test_a_bundled_catalogue_is_found_by_name() -> None:
    assert (sample_path("books") / "reviews.jsonl").is_file()


def test_an_unknown_catalogue_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="books, new-arrivals"):
        sample_path("films")
