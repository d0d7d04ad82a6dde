"""Two ways of answering side by side, told apart by user."""

from __future__ import annotations

import pytest

from persona4rec_pipeline.serving.experiment import CONTROL, TREATMENT, variant_of
from persona4rec_pipeline.settings import SettingsError
from persona4rec_tests.index.builders import axis, two_catalogues, unit
from persona4rec_tests.serving.builders import service_of, serving, settings_of

USERS = [f"user {number}" for number in range(4000)]
BODY = {"user_id": "ann", "candidates": ["odd", "emma", "dune"]}


def users_in(name, share, variant=TREATMENT) -> set[str]:
    return {user for user in USERS if variant_of(name, share, user) == variant}


def test_a_user_stays_in_a_variant_and_the_share_is_kept():
    treated = users_in("one", 0.25)
    assert treated == users_in("one", 0.25)
    assert 0.22 < len(treated) / len(USERS) < 0.28
    assert users_in("one", 0) == set() and users_in("one", 1) == set(USERS)


def test_a_larger_share_moves_users_one_way():
    assert users_in("one", 0.1) < users_in("one", 0.3)


def test_another_experiment_deals_users_anew():
    both = users_in("one", 0.5) & users_in("two", 0.5)
    assert 0.2 < len(both) / len(USERS) < 0.3


def names(client, user="ann", **more):
    answer = client.post("/v1/rerank", json=BODY | {"user_id": user} | more).json()
    return answer["variant"], answer["generation"], [one["item_id"] for one in answer["candidates"]]


def test_without_an_experiment_no_variant_is_named(tmp_path):
    two_catalogues(tmp_path).publish()
    with serving(tmp_path) as client:
        assert names(client)[0] is None


def test_the_weight_of_a_treatment_counts_unless_the_request_names_one(tmp_path):
    two_catalogues(tmp_path).publish()
    with serving(tmp_path, experiment={"name": "blend", "share": 1, "weight": 0}) as client:
        assert names(client) == (TREATMENT, 1, ["odd", "emma", "dune"])
        assert names(client, weight=1) == (TREATMENT, 1, ["dune", "emma", "odd"])
        shaped = client.post("/rerank", json={"query": "ann", "documents": BODY["candidates"]}).json()
        assert [one["index"] for one in shaped["results"]] == [0, 1, 2]
        assert shaped["persona4rec"]["variant"] == TREATMENT
    with serving(tmp_path, experiment={"name": "blend", "share": 0, "weight": 0}) as client:
        assert names(client) == (CONTROL, 1, ["dune", "emma", "odd"])


def test_a_treatment_may_be_another_generation(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    shop.interaction("ann", "odd", axis(3)).interaction("ann", "odd", axis(3)).interaction("ann", "odd", axis(3))
    shop.interaction("ann", "emma", unit(0, 1)).publish()
    treated = {"name": "generation", "share": 1, "generation": 1}
    with serving(tmp_path, experiment=treated) as client:
        assert names(client) == (TREATMENT, 1, ["dune", "emma", "odd"])
        recommended = client.get("/v1/users/ann/recommendations").json()
        assert (recommended["variant"], recommended["generation"]) == (TREATMENT, 1)
        # Without a user nobody is in an experiment, and the current generation answers.
        assert client.post("/v1/rerank", json={"session": ["odd"], "candidates": []}).json()["generation"] == 2
    with serving(tmp_path, experiment=treated | {"share": 0}) as client:
        assert names(client) == (CONTROL, 2, ["odd", "emma", "dune"])


def test_a_generation_that_is_gone_is_no_treatment_and_its_users_count_for_neither_side(tmp_path):
    two_catalogues(tmp_path).publish()
    with serving(tmp_path, experiment={"name": "gone", "share": 1, "generation": 7}) as client:
        assert names(client)[:2] == (None, 1)
        experiment = client.get("/readyz").json()["experiment"]
        assert experiment["name"] == "gone" and "7" in experiment["problem"]


def test_a_treatment_may_tell_tastes_apart(tmp_path):
    two_catalogues(tmp_path).publish()
    with serving(tmp_path, experiment={"name": "tastes", "share": 1, "tastes": 2}) as client:
        service = service_of(client)
        asked: list[object] = []
        index = service.current.get().index
        rank = index.rank
        index.rank = lambda profile, *rest, **more: asked.append(profile.shape) or rank(profile, *rest, **more)
        client.post("/v1/rerank", json={"user_id": "x", "history": ["odd", "dune"], "candidates": ["dune"]})
        assert asked == [(2, 8)]


def test_an_experiment_without_a_treatment_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="needs a treatment"):
        settings_of(tmp_path, experiment={"name": "nothing"})
