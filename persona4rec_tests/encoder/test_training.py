"""The profile, the negatives, and a real training of the packaged model."""

import numpy as np
import pytest

from persona4rec_pipeline.embedding import Encoder, EncoderError, load_model, model_folder
from persona4rec_pipeline.encoder.training import (
    BatchBuilder,
    TrainingPair,
    _profile_loss_class,
    learning_rate_factor,
    recency_weights,
    train_encoder,
)
from persona4rec_pipeline.index.scoring import user_profile
from persona4rec_tests.encoder.builders import BASE, settings, training_pairs


@pytest.fixture(scope="module")
def model():
    return load_model(model_folder(BASE), max_seq_length=32)


@pytest.fixture(scope="module")
def encoder_settings(tmp_path_factory):
    return settings(tmp_path_factory.mktemp("home"), learning_rate=1e-4, epochs=2).encoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder_settings):
    output = tmp_path_factory.mktemp("trained")
    lines = []
    return train_encoder(model_folder(BASE), training_pairs(48), encoder_settings, output, lines.append), output, lines


def test_the_weights_of_a_history_fall_by_the_decay_and_sum_to_one():
    # 1 + .5 + .25 = 1.75
    assert recency_weights(3, 0.5) == pytest.approx([1 / 1.75, 0.5 / 1.75, 0.25 / 1.75])


def test_the_profile_in_the_loss_is_the_one_that_is_served(model, tmp_path):
    pairs = [
        TrainingPair("u0", "i0", ("a river", "a stone wall", "winter in the harbour"), "copper", 1.0),
        TrainingPair("u1", "i1", ("a lamp",), "engine", 1.0),
    ]
    batch = BatchBuilder(pairs, model.eval(), settings(tmp_path, training_history=3, recency_decay=0.5).encoder)(
        [{"pair": 0}, {"pair": 1}]
    )
    seen = {}

    class Recorder(_profile_loss_class()):
        def losses(self, profiles, personas):
            seen["profiles"], seen["personas"] = profiles.detach().numpy(), personas.detach().numpy()
            return super().losses(profiles, personas)

    loss = Recorder(model, scale=20.0)([{name.removeprefix("texts_"): value for name, value in batch.items()}], None)
    encoder = Encoder(model, "any", batch_size=4)
    vectors = encoder.encode(pairs[0].history_texts)
    by_hand = (vectors[0] + 0.5 * vectors[1] + 0.25 * vectors[2]) / 1.75
    np.testing.assert_allclose(seen["profiles"][0], by_hand, atol=5e-3)
    profiles = np.stack([user_profile(encoder.encode(pair.history_texts), 0.5) for pair in pairs])
    logits = 20 * profiles @ encoder.encode(["copper", "engine"]).T
    expected = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=1)))
    assert loss.item() == pytest.approx(expected, abs=0.05)


def test_a_pair_counts_by_its_weight_over_the_mean_of_all_and_equal_weights_change_nothing(model, tmp_path):
    def loss_of(weights, rows=(0, 1)):
        pairs = [
            TrainingPair("u0", "i0", ("a river",), "copper", 1.0, weights[0]),
            TrainingPair("u1", "i1", ("a lamp",), "engine", 1.0, weights[1]),
            TrainingPair("u2", "i2", ("a stone",), "meadow", 1.0, weights[2]),
        ]
        batch = BatchBuilder(pairs, model.eval(), settings(tmp_path).encoder)([{"pair": row} for row in rows])
        features = {name.removeprefix("texts_"): value for name, value in batch.items()}
        return _profile_loss_class()(model, scale=20.0)([features], None).item()

    equal, half = loss_of((1, 1, 1)), loss_of((0.5, 0.5, 0.5))
    assert half == pytest.approx(equal, abs=1e-6)
    # One weight is moved from the first pair to the second: 2 * equal is the sum of both losses.
    first, second = loss_of((1.999, 0.001, 1)), loss_of((0.001, 1.999, 1))
    assert (first + second) / 2 == pytest.approx(equal, abs=1e-4) and first != pytest.approx(second, abs=1e-2)
    # A batch of pairs that count little counts little as a whole, though they are equal among themselves.
    assert loss_of((0.5, 0.5, 2.0)) == pytest.approx(equal / 2, abs=1e-6)


def test_same_user_same_persona_and_chosen_items_are_never_negatives(model, tmp_path):
    pairs = [
        TrainingPair("u0", "i0", ("a river",), "copper", 1.0),
        TrainingPair("u0", "i1", ("a stone",), "engine", 1.0),  # same user
        TrainingPair("u1", "i2", ("a lamp",), "copper", 1.0),  # same persona text as the first
        TrainingPair("u2", "i0", ("a ladder",), "meadow", 1.0),  # same item as the first
        TrainingPair("u3", "i3", ("a window",), "signal", 1.0),  # shares nothing
    ]
    rows = [{"pair": number} for number in range(5)]
    excluded = BatchBuilder(pairs, model, settings(tmp_path).encoder)(rows)["texts_excluded"].numpy()
    assert excluded.tolist() == [
        [False, True, True, True, False],
        [True, False, True, True, False],  # u0 chose i0 and was explained by copper in another pair
        [True, False, False, False, False],
        [True, False, False, False, False],
        [False, False, False, False, False],
    ]


def test_what_is_no_negative_gets_no_gradient(model):
    import torch

    vectors = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    profiles, personas = vectors[:3], vectors[3:].clone().requires_grad_()
    loss = _profile_loss_class()(model, scale=20.0)
    loss._excluded = torch.tensor([[False, True, True], [True, False, True], [True, True, False]])
    value = loss.losses(profiles, personas).mean()
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert personas.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 100])
def test_no_step_is_wasted_on_a_learning_rate_of_zero(steps):
    factors = [learning_rate_factor(step, steps) for step in range(steps)]
    assert min(factors) > 0 and max(factors) == 1
    warm_up = steps // 10
    assert factors[:warm_up] == sorted(factors[:warm_up]) and factors[warm_up:] == sorted(
        factors[warm_up:], reverse=True
    )


def test_every_distinct_text_of_a_batch_is_encoded_once(model, tmp_path):
    pairs = [TrainingPair(f"u{n}", f"i{n}", ("a river", "a stone"), "copper", 1.0) for n in range(4)]
    batch = BatchBuilder(pairs, model, settings(tmp_path).encoder)([{"pair": number} for number in range(4)])
    assert len(batch["texts_input_ids"]) == 3
    assert batch["texts_segment"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_training_lowers_the_loss(trained):
    result, _, lines = trained
    losses = [loss for _, loss in result.losses]
    assert [step for step, _ in result.losses] == list(range(1, 13))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert result.pairs == 48 and any("loss" in line for line in lines)


def test_training_moves_held_out_choices_closer_to_their_persona_than_to_others(trained):
    result, _, _ = trained
    held_out = training_pairs(40, seed=99)

    def margin(encoder):
        profiles = np.stack([user_profile(encoder.encode(pair.history_texts), 0.9) for pair in held_out])
        cosines = profiles @ encoder.encode([pair.persona_text for pair in held_out]).T
        same = np.array([[a.persona_text[:12] == b.persona_text[:12] for b in held_out] for a in held_out])
        return cosines[same].mean() - cosines[~same].mean()

    assert margin(Encoder.load(result.path, 32)) > margin(Encoder.load(BASE, 32)) + 0.05


def test_equal_seeds_give_an_equal_model_and_another_seed_another(tmp_path):
    chosen = settings(tmp_path).encoder
    pairs = training_pairs(8)
    losses = [
        train_encoder(
            model_folder(BASE), pairs, chosen.model_copy(update={"seed": seed}), tmp_path / str(number)
        ).losses
        for number, seed in enumerate((3, 3, 4))
    ]
    losses = [[loss for _, loss in run] for run in losses]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    first, second = (Encoder.load(tmp_path / run / "model", 32).encode(["a river"]) for run in "01")
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert losses[0][0] != pytest.approx(losses[2][0], abs=1e-4)


def test_the_saved_model_is_a_plain_sentence_transformer_and_nothing_else_is_left(trained):
    from sentence_transformers import SentenceTransformer

    result, output, _ = trained
    plain = SentenceTransformer(str(result.path), local_files_only=True)
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Normalize"]
    assert plain.max_seq_length == 32
    assert [entry.name for entry in output.iterdir()] == ["model"]
    assert Encoder.load(result.path, 32).fingerprint == result.fingerprint != Encoder.load(BASE, 32).fingerprint


def test_pairs_that_cannot_be_trained_on_are_refused(tmp_path, encoder_settings):
    with pytest.raises(ValueError, match="at least two"):
        train_encoder(model_folder(BASE), training_pairs(1), encoder_settings, tmp_path)
    empty = TrainingPair("u", "i", (), "copper", 1.0)
    empty_of_weight = TrainingPair("u", "i", ("a river",), "copper", 1.0, 0.0)
    with pytest.raises(ValueError, match="weight above 0"):
        train_encoder(model_folder(BASE), [*training_pairs(2), empty_of_weight], encoder_settings, tmp_path)
    with pytest.raises(ValueError, match="without history"):
        train_encoder(model_folder(BASE), [*training_pairs(2), empty], encoder_settings, tmp_path)


def test_a_loss_that_is_not_finite_saves_no_model(tmp_path, encoder_settings):
    wild = encoder_settings.model_copy(update={"learning_rate": 1e30, "epochs": 2})
    with pytest.raises(EncoderError, match="not finite"):
        train_encoder(model_folder(BASE), training_pairs(8), wild, tmp_path)
    assert list(tmp_path.iterdir()) == []
