"""Trials of the encoder's settings: the current ones first, kept as they finish, gone on with after a kill."""

from __future__ import annotations

import pytest

from persona4rec_pipeline.encoder import trials
from persona4rec_pipeline.encoder.training import mined_negatives
from persona4rec_pipeline.evaluation.candidates import propose, read_interactions, read_panel
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.tuning import tune
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.encoder.builders import filled_warehouse


@pytest.fixture
def settings(tmp_path):
    """A warehouse with pairs, in which two users have a validation target."""
    warehouse = filled_warehouse(tmp_path, users=16, held_out=("u0", "u1"))
    with warehouse.write() as connection:
        connection.execute("UPDATE splits SET split = 'valid' WHERE split = 'test'")
    settings = load_settings(
        {}, home=tmp_path, encoder={"max_seq_length": 32, "epochs": 2, "batch_size": 8, "validation_fraction": 0}
    )
    chosen = settings.evaluation.model_copy(update={"generators": ["ease"]})
    rows = propose(read_interactions(warehouse), read_panel(warehouse), chosen, "ease")
    warehouse.replace("candidates", rows)
    return settings


def test_the_first_trial_is_the_settings_as_they_are_and_the_best_is_told_with_its_gain(settings):
    lines: list[str] = []
    found = tune(settings, trials=3, on_log=lines.append)
    assert len(found.trials) == 3 and sum("trial" in line for line in lines) == 3
    assert found.current.settings.temperature == settings.encoder.temperature
    assert found.current.settings.max_history == settings.encoder.max_history
    assert found.current.settings.mined_negatives == mined_negatives(settings.encoder) > 0
    assert found.best.mean == max(tried.mean for tried in found.trials) >= found.current.mean
    assert found.gain.value == pytest.approx(found.best.mean - found.current.mean)
    assert all(len(tried.ndcg) == 2 for tried in found.trials)
    assert not list((settings.home / "staging").glob("tuning-*")) and not open_warehouse(settings).rows(
        "SELECT 1 FROM persona_vectors"
    )


def test_trials_that_are_there_are_not_made_again_and_a_killed_one_is_taken_up(settings, monkeypatch):
    tune(settings, trials=1)
    train = trials.train_encoder
    asked = []

    def killed(base, pairs, encoder, *more):
        asked.append(encoder)
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "train_encoder", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(settings, trials=2)

    def noted(base, pairs, encoder, *more):
        asked.append(encoder)
        return train(base, pairs, encoder, *more)

    monkeypatch.setattr(trials, "train_encoder", noted)
    found = tune(settings, trials=2)
    assert len(found.trials) == 2 and len(asked) == 2
    assert asked[0] == asked[1], "the trial that was killed is taken up again"
    tune(settings, trials=2)
    assert len(asked) == 2


def test_other_data_begins_anew(settings):
    tune(settings, trials=1)
    with open_warehouse(settings).write() as connection:
        connection.execute("UPDATE personas SET name = 'The Reborn' WHERE item_id = 'i0'")
    lines: list[str] = []
    tune(settings, trials=1, on_log=lines.append)
    assert any("trial 1/1" in line for line in lines)


def test_without_anybody_to_compare_on_it_says_what_is_missing(tmp_path):
    filled_warehouse(tmp_path, users=2)
    with pytest.raises(ValueError, match=r"validation targets.*splits\.panel_fraction"):
        tune(load_settings({}, home=tmp_path), trials=1)
