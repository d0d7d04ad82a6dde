"""What the stored verdicts say of the judge, against numbers made by hand."""

import json
from datetime import datetime

import pytest

from persona4rec_pipeline.alignment.figures import (
    agreement,
    changed_by_order,
    entropy_counts,
    judge_figures,
    position_bias,
)
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse


def test_a_judge_that_weighs_has_no_bias_and_one_that_takes_the_first_place_has_all_of_it():
    turned = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    weighs = position_bias([(order, (0.7, 0.2, 0.1)) for order in turned])
    assert weighs.probability == pytest.approx([1 / 3] * 3) and weighs.distance == pytest.approx(0)
    first = position_bias([(order, tuple(float(row == order[0]) for row in range(3))) for order in turned])
    assert first.probability == pytest.approx([1, 0, 0]) and first.distance == pytest.approx(2 / 3)


def test_a_place_is_compared_with_the_choices_that_have_it():
    bias = position_bias([((0, 1), (0.5, 0.5)), ((2, 0, 1), (0.3, 0.3, 0.4))])
    assert bias.probability == pytest.approx([0.45, 0.4, 0.3])
    assert bias.fair == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2, 1 / 3])
    # |.9 - .8333| + |.8 - .8333| + |.3 - .3333| over two choices, halved
    assert bias.distance == pytest.approx((0.0667 + 0.0333 + 0.0333) / 4, abs=1e-3)


def test_a_choice_that_depends_on_the_order_is_counted():
    assert changed_by_order([((0.9, 0.1), (0.4, 0.6)), ((0.9, 0.1), (0.8, 0.2))]) == 0.5
    assert changed_by_order([]) is None


def test_entropies_are_counted_in_ten_bins_and_the_last_one_holds_the_flat():
    assert entropy_counts([0.0, 0.05, 0.55, 1.0]) == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_two_judges_who_both_always_take_the_same_persona_do_not_agree_beyond_chance():
    found = agreement([("i1", "a", "a", 3)] * 5)
    assert (found.observed, found.by_chance, found.kappa) == (1, 1, None)


def test_agreement_beyond_chance_is_what_follows_the_user():
    found = agreement([("i1", "a", "a", 2), ("i1", "b", "b", 2), ("i2", "c", "d", 4)])
    # i1: another user's choice never equals this one's; i2 has one user and four options.
    assert found.observed == pytest.approx(2 / 3)
    assert found.by_chance == pytest.approx((0 + 0 + 1 / 4) / 3)
    assert found.kappa == pytest.approx((2 / 3 - 1 / 12) / (1 - 1 / 12))
    assert agreement([]) is None


def stored(home, *pairs):
    warehouse = open_warehouse(load_settings({}, home=home))
    with warehouse.write() as connection:
        for number, (catalog, pair) in enumerate(pairs):
            row = {
                "catalog": catalog, "review_id": f"r{number}", "user_id": f"u{number}", "item_id": "i1",
                "persona_id": "a", "probability": 0.6, "option_ids": ["a", "b"], "option_probabilities": [0.6, 0.4],
                "history_review_ids": ["h"], "shown_orders": [[1, 0], [0, 1]],
                "order_probabilities": [[0.2, 0.8], [0.9, 0.1]], "similarity_persona_id": "a", "entropy": 0.97,
                "reviewed_at": datetime(2024, 1, 1), "source": "llm", **pair,
            }  # fmt: skip
            names = ", ".join(row)
            connection.execute(
                f"INSERT INTO alignment_pairs ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
            )
    return warehouse


def test_the_figures_of_stored_pairs_are_plain_values_of_one_catalogue_or_all(tmp_path):
    single = {"option_ids": ["a"], "option_probabilities": [1.0], "shown_orders": None, "order_probabilities": None}
    warehouse = stored(tmp_path, ("books", {}), ("books", single), ("films", {"similarity_persona_id": "b"}))
    books = judge_figures(warehouse, "books")
    assert (books.pairs, books.judged, books.asked_twice, books.changed_by_order) == (2, 1, 1, 1.0)
    assert books.position_before.probability == pytest.approx([0.8, 0.2])
    assert books.position_after.probability == pytest.approx([0.4, 0.6])
    assert books.entropy_counts[-1] == 1 and books.mean_probability == 0.6
    assert books.agreement.observed == 1
    everything = judge_figures(warehouse)
    assert everything.agreement.observed == 0.5 and everything.pairs == 3
    assert json.loads(json.dumps(everything.to_dict()))["position_before"]["distance"] == pytest.approx(0.3)
    assert {"position_bias_before", "position_bias_after", "mean_entropy", "kappa"} <= set(books.main())


def test_where_similarity_is_the_judge_there_is_neither_place_nor_agreement(tmp_path):
    warehouse = stored(tmp_path, ("books", {"source": "similarity", "shown_orders": None, "order_probabilities": None}))
    found = judge_figures(warehouse)
    assert found.position_before is None and found.agreement is None and found.mean_entropy == 0.97
    assert found.main() == {"mean_entropy": 0.97}


def test_no_pairs_have_no_figures(tmp_path):
    found = judge_figures(stored(tmp_path))
    assert found.pairs == 0 and found.main() == {} and sum(found.entropy_counts) == 0
