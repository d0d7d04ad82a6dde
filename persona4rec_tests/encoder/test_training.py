"""Real trainings of the packaged model: what they learn, save and leave behind, and how they go on when killed."""

import numpy as np
import pytest

from persona4rec_pipeline.embedding import Encoder, EncoderError, model_folder
from persona4rec_pipeline.encoder import training
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.encoder.training import learning_rate_factor, train_encoder
from persona4rec_pipeline.index.scoring import user_profile
from persona4rec_tests.encoder.builders import BASE, settings, training_pairs

METHODS = ("head", "lora", "full")
CHOSEN = {
    "head": {"epochs": 12, "learning_rate": 3e-3},
    "lora": {"epochs": 3, "learning_rate": 3e-3},
    "full": {"epochs": 2, "learning_rate": 1e-4},
}


def chosen(home, method, **changes):
    return settings(home, method=method, **(CHOSEN[method] | changes)).encoder


@pytest.fixture(scope="module", params=METHODS)
def trained(request, tmp_path_factory):
    """Method, result, folder and lines of a training of that method."""
    output = tmp_path_factory.mktemp(request.param)
    lines = []
    encoder = chosen(output, request.param)
    return (
        request.param,
        train_encoder(model_folder(BASE), training_pairs(48), encoder, output, lines.append),
        output,
        lines,
    )


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 100])
def test_no_step_is_wasted_on_a_learning_rate_of_zero(steps):
    factors = [learning_rate_factor(step, steps) for step in range(steps)]
    assert min(factors) > 0 and max(factors) == 1
    warm_up = steps // 10
    assert factors[:warm_up] == sorted(factors[:warm_up]) and factors[warm_up:] == sorted(
        factors[warm_up:], reverse=True
    )


def test_training_lowers_the_loss(trained):
    method, result, _, lines = trained
    losses = [loss for _, loss in result.losses]
    assert [step for step, _ in result.losses] == list(range(1, 6 * CHOSEN[method]["epochs"] + 1))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert result.pairs == 48 and any("loss" in line for line in lines)


def test_training_moves_held_out_choices_closer_to_their_persona_than_to_others(trained):
    _, result, _, _ = trained
    held_out = training_pairs(40, seed=99)

    def margin(encoder):
        profiles = np.stack([user_profile(encoder.encode(pair.history_texts), 0.9) for pair in held_out])
        cosines = profiles @ encoder.encode([pair.options[0] for pair in held_out]).T
        same = np.array([[a.options[0][:12] == b.options[0][:12] for b in held_out] for a in held_out])
        return cosines[same].mean() - cosines[~same].mean()

    assert margin(Encoder.load(result.path, 32)) > margin(Encoder.load(BASE, 32)) + 0.05


def test_the_saved_model_is_a_plain_sentence_transformer_and_nothing_else_is_left(trained):
    from sentence_transformers import SentenceTransformer

    method, result, output, _ = trained
    plain = SentenceTransformer(str(result.path), local_files_only=True)
    modules = ["Transformer", "Pooling", "Normalize"]
    assert [type(module).__name__ for module in plain] == modules + ["Dense", "Normalize"] * (method == "head")
    assert plain.max_seq_length == 32
    assert [entry.name for entry in output.iterdir()] == ["model"]
    assert Encoder.load(result.path, 32).fingerprint == result.fingerprint != Encoder.load(BASE, 32).fingerprint


@pytest.mark.parametrize("method", ["head", "full"])
def test_equal_seeds_give_an_equal_model_and_another_seed_another(tmp_path, method):
    pairs = training_pairs(8)
    encoder = chosen(tmp_path, method, epochs=2, batch_size=4)
    losses = [
        train_encoder(
            model_folder(BASE), pairs, encoder.model_copy(update={"seed": seed}), tmp_path / str(number)
        ).losses
        for number, seed in enumerate((3, 3, 4))
    ]
    losses = [[loss for _, loss in run] for run in losses]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    first, second = (Encoder.load(tmp_path / run / "model", 32).encode(["a river"]) for run in "01")
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert losses[0][0] != pytest.approx(losses[2][0], abs=1e-4)


@pytest.mark.parametrize("method", ["head", "lora"])
def test_a_training_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch, method):
    pairs = training_pairs(48)
    encoder = chosen(tmp_path, method, epochs=4)
    whole = train_encoder(model_folder(BASE), pairs, encoder, tmp_path / "whole")
    builder = training.BatchBuilder
    batches = 0

    class Killed(builder):
        def __call__(self, rows):
            nonlocal batches
            batches += 1
            if batches > 15:
                raise KeyboardInterrupt
            return super().__call__(rows)

    monkeypatch.setattr(training, "BatchBuilder", Killed)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(model_folder(BASE), pairs, encoder, tmp_path / "killed")
    monkeypatch.setattr(training, "BatchBuilder", builder)
    # As if the kill had come while the next checkpoint was being written.
    (tmp_path / "killed" / "checkpoints" / "checkpoint-18").mkdir()
    resumed = train_encoder(model_folder(BASE), pairs, encoder, tmp_path / "killed")
    assert resumed.resumed_at == 12 and whole.resumed_at == 0
    assert [step for step, _ in resumed.losses] == [step for step, _ in whole.losses]
    assert [loss for _, loss in resumed.losses] == pytest.approx([loss for _, loss in whole.losses], abs=2e-3)
    texts = [pair.options[0] for pair in pairs]
    vectors = [Encoder.load(result.path, 32).encode(texts) for result in (whole, resumed)]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999


def test_training_stops_when_held_out_users_no_longer_gain_and_keeps_the_best_weights(tmp_path):
    # Whoever likes what in the held-out part has nothing to do with the rest, so that learning only hurts.
    pairs = training_pairs(160)
    encoder = chosen(tmp_path, "head", epochs=40, learning_rate=1e-2, validation_fraction=0.3, patience=2)
    shuffled = [
        TrainingPair(pair.user_id, pair.item, pair.history_texts, pairs[-row - 1].options, (1.0,))
        for row, pair in enumerate(pairs)
    ]
    result = train_encoder(model_folder(BASE), shuffled, encoder, tmp_path / "output")
    assert result.validation_pairs >= 20 and result.pairs + result.validation_pairs == 160
    validation = dict(result.validation_losses)
    assert result.best_step == min(validation, key=lambda step: validation[step])
    per_epoch = -(-result.pairs // 8)
    assert result.losses[-1][0] == result.best_step + 2 * per_epoch < 40 * per_epoch


def test_pairs_that_cannot_be_trained_on_are_refused(tmp_path):
    encoder = chosen(tmp_path, "head")
    with pytest.raises(ValueError, match="at least two"):
        train_encoder(model_folder(BASE), training_pairs(1), encoder, tmp_path)
    empty = TrainingPair("u", "books/i", (), ("copper",), (1.0,))
    weightless = TrainingPair("u", "books/i", ("a river",), ("copper",), (1.0,), weight=0.0)
    with pytest.raises(ValueError, match="weight above 0"):
        train_encoder(model_folder(BASE), [*training_pairs(2), weightless], encoder, tmp_path)
    with pytest.raises(ValueError, match="without history"):
        train_encoder(model_folder(BASE), [*training_pairs(2), empty], encoder, tmp_path)


def test_a_loss_that_is_not_finite_saves_no_model(tmp_path):
    with pytest.raises(EncoderError, match="not finite"):
        train_encoder(model_folder(BASE), training_pairs(8), chosen(tmp_path, "full", learning_rate=1e30), tmp_path)
    assert list(tmp_path.iterdir()) == []
