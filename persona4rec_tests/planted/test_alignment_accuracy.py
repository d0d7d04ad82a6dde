"""The measure of alignment, against verdicts and truth made by hand."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.planted.alignment_accuracy import alignment_accuracy, plurality, read_motives


def test_a_persona_stands_for_what_most_of_its_evidence_is_about_and_for_nothing_at_a_tie():
    assert plurality(["gothic_dread", None, "gothic_dread", "family_saga"]) == "gothic_dread"
    assert plurality(["gothic_dread", "family_saga"]) is None
    assert plurality([None]) is None


@pytest.fixture
def judged(tmp_path):
    """A warehouse, an interaction of the planted truth, an earlier one of the same user and motive, and the reviews of the
    item for that motive (three or more, the explained one among them) and for another."""
    planted = json.loads((Path(__file__).parent / "books.json").read_text())["reviews"]
    warehouse = open_warehouse(load_settings({}, home=tmp_path))
    by_user, by_item = defaultdict(list), defaultdict(list)
    for review in planted:
        if review["motive"]:
            by_user[review["user_id"]].append(review)
            by_item[review["parent_asin"], review["motive"]].append(review)
    for item in sorted({review["parent_asin"] for review in planted}):
        motives = {motive: found for (asin, motive), found in by_item.items() if asin == item and len(found) > 2}
        for motive, found in sorted(motives.items()):
            for target in found:
                earlier = [r for r in by_user[target["user_id"]] if r["timestamp"] < target["timestamp"]]
                others = [m for m in motives if m != motive]
                if others and [r["motive"] for r in earlier] == [motive]:
                    return warehouse, target, earlier[0], found, motives[others[0]]
    raise AssertionError("the planted truth has no such user")


def fill(judged, chosen):
    warehouse, target, earlier, right, wrong = judged

    def identity(review):
        return f"{review['user_id']}/{review['parent_asin']}"

    with warehouse.write() as connection:
        for review in (*right, *wrong, earlier):
            connection.execute(
                "INSERT INTO reviews VALUES ('books', ?, ?, ?, 5, TRUE, NULL, 'text', epoch_ms(?))",
                [identity(review), review["user_id"], review["parent_asin"], review["timestamp"]],
            )
        for persona_id, evidence in (("right", right), ("wrong", wrong), ("own", [target])):
            connection.execute(
                "INSERT INTO personas BY NAME SELECT 'books' AS catalog, ? AS item_id, ? AS persona_id, 'A reader' AS name, "
                "'' AS description, '' AS preference_rationale, 'appreciative' AS polarity, "
                "?::VARCHAR[] AS evidence_review_ids, []::VARCHAR[] AS quotes, 'extractive' AS source",
                [target["parent_asin"], persona_id, [identity(review) for review in evidence]],
            )
        connection.execute(
            "INSERT INTO alignment_pairs BY NAME SELECT 'books' AS catalog, ? AS review_id, ? AS user_id, ? AS item_id, "
            "? AS persona_id, 0.9 AS probability, ['own', 'right', 'wrong'] AS option_ids, "
            "[0.05, 0.9, 0.05] AS option_probabilities, [?] AS history_review_ids, epoch_ms(?) AS reviewed_at, "
            "'similarity' AS source",
            [
                identity(target),
                target["user_id"],
                target["parent_asin"],
                chosen,
                identity(earlier),
                target["timestamp"],
            ],
        )
    return warehouse


@pytest.mark.parametrize(("chosen", "accuracy"), [("right", 1), ("wrong", 0), ("own", 0)])
def test_a_choice_is_right_when_its_other_readers_came_for_the_planted_motive(judged, chosen, accuracy):
    found = alignment_accuracy(fill(judged, chosen))
    # The persona that rests on the explained review alone stands for nothing.
    assert (found.accuracy, found.pairs, found.oracle) == (accuracy, 1, 1)
    assert found.random == found.one_in_options == pytest.approx(1 / 3)


def test_reviews_are_known_again_by_user_item_and_time(judged):
    warehouse = fill(judged, "right")
    _, target, earlier, right, wrong = judged
    motives = read_motives(warehouse)
    assert len(motives) == len(right) + len(wrong) + 1
    assert motives[f"{target['user_id']}/{target['parent_asin']}"] == target["motive"] == earlier["motive"]


def test_no_pair_of_the_truth_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="No stored pair"):
        alignment_accuracy(open_warehouse(load_settings({}, home=tmp_path)))
