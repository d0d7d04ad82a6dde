"""Batches and the loss: the profile, what is right, what is wrong and what is left out."""

import numpy as np
import pytest

from persona4rec_pipeline.embedding import Encoder, load_model, model_folder
from persona4rec_pipeline.encoder.loss import BatchBuilder, Batching, profile_loss_class
from persona4rec_pipeline.encoder.mining import mine_negatives
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.index.scoring import user_profile
from persona4rec_tests.encoder.builders import BASE, settings


@pytest.fixture(scope="module")
def model():
    return load_model(model_folder(BASE), max_seq_length=32).eval()


def pair(user, item, options, history=("a river",), probabilities=None, **more):
    probabilities = probabilities or (1.0,) + (0.0,) * (len(options) - 1)
    return TrainingPair(user, item, history, options, probabilities, **more)


def batch_of(pairs, model, tmp_path, rows=None, **chosen):
    """The tensors of a batch without their prefix, and the columns as texts."""
    batching = Batching(pairs, settings(tmp_path, **chosen).encoder)
    found = BatchBuilder(batching, model)([{"pair": row} for row in rows or range(len(pairs))])
    batch = {name.removeprefix("texts_"): value for name, value in found.items()}
    numbers = sorted({number for each in batching.pairs for number in (*each.options, *each.negatives)})
    return batch, [batching.texts[number] for number in numbers]


def taking_part(pairs, model, tmp_path, **chosen):
    """For each pair the columns that take part, with how right each is."""
    batch, columns = batch_of(pairs, model, tmp_path, **chosen)
    return [
        {text: float(t) for text, t, o in zip(columns, target, offset, strict=True) if o > -np.inf}
        for target, offset in zip(batch["target"].numpy(), batch["offset"].numpy(), strict=True)
    ]


def test_the_profile_in_the_loss_is_the_one_that_is_served(model, tmp_path):
    pairs = [
        pair("u0", "i0", ("copper",), ("a river", "a stone wall", "winter in the harbour")),
        pair("u1", "i1", ("engine",), ("a lamp",)),
    ]
    batch, _ = batch_of(pairs, model, tmp_path, training_history=3, recency_decay=0.5)
    seen = {}

    class Recorder(profile_loss_class()):
        def losses(self, profiles, personas, target, offset):
            seen["profiles"] = profiles.detach().numpy()
            return super().losses(profiles, personas, target, offset)

    loss = Recorder(model, scale=20.0)([batch], None)
    encoder = Encoder(model, "any", batch_size=4)
    vectors = encoder.encode(pairs[0].history_texts)
    np.testing.assert_allclose(seen["profiles"][0], (vectors[0] + vectors[1] / 2 + vectors[2] / 4) / 1.75, atol=5e-3)
    profiles = np.stack([user_profile(encoder.encode(each.history_texts), 0.5) for each in pairs])
    logits = 20 * profiles @ encoder.encode(["copper", "engine"]).T
    expected = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=1)))
    assert loss.item() == pytest.approx(expected, abs=0.05)


def test_an_interaction_counts_half_when_it_is_a_half_life_older_than_the_newest(model, tmp_path):
    pairs = [
        pair("u0", "i0", ("copper",), ("a river", "a stone"), history_days=(100.0, 70.0)),
        pair("u1", "i1", ("x",)),
    ]
    batch, _ = batch_of(pairs, model, tmp_path, recency_decay=1.0, half_life_days=30.0)
    assert batch["weight"][:2].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_vectors_of_the_base_model_stand_in_for_texts(model, tmp_path):
    pairs = [pair("u0", "i0", ("copper",)), pair("u1", "i1", ("engine",), ("a lamp",))]
    batching = Batching(pairs, settings(tmp_path).encoder)
    vectors = np.eye(len(batching.texts), 8, dtype=np.float32)
    batch = BatchBuilder(batching, model, vectors)([{"pair": 1}])
    assert "texts_input_ids" not in batch
    chosen = batch["texts_sentence_embedding"].numpy()
    read = [batching.texts[row] for row in chosen[batch["texts_history"].numpy()].argmax(axis=1)]
    assert read == ["a lamp"]
    assert [batching.texts[row] for row in chosen[batch["texts_column"].numpy()].argmax(axis=1)] == ["engine"]


def test_a_pair_counts_by_its_weight_over_the_mean_of_all_and_equal_weights_change_nothing(model, tmp_path):
    def loss_of(weights, rows=(0, 1)):
        pairs = [
            pair("u0", "i0", ("copper",), ("a river",), weight=weights[0]),
            pair("u1", "i1", ("engine",), ("a lamp",), weight=weights[1]),
            pair("u2", "i2", ("meadow",), ("a stone",), weight=weights[2]),
        ]
        return profile_loss_class()(model, scale=20.0)([batch_of(pairs, model, tmp_path, rows)[0]], None).item()

    equal, half = loss_of((1, 1, 1)), loss_of((0.5, 0.5, 0.5))
    assert half == pytest.approx(equal, abs=1e-6)
    # One weight is moved from the first pair to the second: 2 * equal is the sum of both losses.
    first, second = loss_of((1.999, 0.001, 1)), loss_of((0.001, 1.999, 1))
    assert (first + second) / 2 == pytest.approx(equal, abs=1e-4) and first != pytest.approx(second, abs=1e-2)
    # A batch of pairs that count little counts little as a whole, though they are equal among themselves.
    assert loss_of((0.5, 0.5, 2.0)) == pytest.approx(equal / 2, abs=1e-6)


def test_same_user_same_words_and_items_that_the_user_met_are_never_wrong(model, tmp_path):
    pairs = [
        pair("u0", "i0", ("copper",)),
        pair("u0", "i1", ("engine",), history_items=("i4",)),  # same user, who met i4 before
        pair("u1", "i2", ("copper",)),  # same words as the first
        pair("u2", "i0", ("copper",)),  # same item as the first
        pair("u3", "i3", ("signal",)),
        pair("u4", "i4", ("meadow",)),
    ]
    assert taking_part(pairs, model, tmp_path) == [
        {"copper": 1.0, "signal": 0.0},
        {"engine": 1.0, "signal": 0.0},
        {"copper": 1.0, "engine": 0.0, "signal": 0.0, "meadow": 0.0},
        {"copper": 1.0, "engine": 0.0, "signal": 0.0, "meadow": 0.0},
        {"copper": 0.0, "engine": 0.0, "signal": 1.0, "meadow": 0.0},
        {"copper": 0.0, "engine": 0.0, "signal": 0.0, "meadow": 1.0},
    ]


def test_what_is_right_follows_the_setting(model, tmp_path):
    pairs = [pair("u0", "i0", ("copper", "engine"), probabilities=(0.75, 0.25)), pair("u1", "i1", ("signal",))]
    first = {
        targets: taking_part(pairs, model, tmp_path, targets=targets)[0]
        for targets in ("judge", "chosen", "against_siblings", "any")
    }
    assert first["judge"] == {"copper": 0.75, "engine": 0.25, "signal": 0.0}
    assert first["chosen"] == {"copper": 1.0, "signal": 0.0}
    assert first["against_siblings"] == {"copper": 1.0, "engine": 0.0, "signal": 0.0}
    assert first["any"] == {"copper": 1.0, "engine": 1.0, "signal": 0.0}
    batch, columns = batch_of(pairs, model, tmp_path, targets="against_siblings")
    assert np.exp(batch["offset"][0, columns.index("engine")].item()) == pytest.approx(0.75)


def test_critical_personas_are_wrong_for_who_chose_the_item_and_nothing_to_others(model, tmp_path):
    pairs = [pair("u0", "i0", ("copper",), critical=("thunder",)), pair("u1", "i1", ("signal",))]
    assert taking_part(pairs, model, tmp_path)[0] == {"copper": 1.0, "signal": 0.0}
    first, second = taking_part(pairs, model, tmp_path, critical_negatives=True)
    assert first == {"copper": 1.0, "signal": 0.0, "thunder": 0.0} and second == {"copper": 0.0, "signal": 1.0}


def test_mined_are_the_most_similar_personas_of_unknown_items_that_are_less_similar_than_the_own(tmp_path):
    pairs = [
        pair("u0", "i0", ("right",), ("h0",)),
        pair("u0", "i1", ("known",), ("h1",)),
        pair("u1", "i2", ("near",), ("h2",)),
        pair("u2", "i3", ("as good",), ("h2",)),
        pair("u3", "i4", ("far",), ("h2",)),
    ]
    batching = Batching(pairs, settings(tmp_path).encoder)
    cosine = {"h0": 1.0, "right": 0.9, "known": 0.8, "near": 0.6, "as good": 0.88, "far": -0.5}
    vectors = np.array([[cosine.get(text, 0), np.sqrt(1 - cosine.get(text, 0) ** 2)] for text in batching.texts])
    mined = mine_negatives(batching, vectors.astype(np.float32), 2)
    assert [batching.texts[number] for number in mined[0]] == ["near", "far"]


def test_the_marginal_loss_asks_only_that_one_persona_of_the_item_fits():
    import torch

    def loss(marginal, *rows):
        made = profile_loss_class()(torch.nn.Identity(), scale=1.0, marginal=marginal)
        return made.losses(*(torch.tensor(row, dtype=torch.float32) for row in rows)).item()

    profile, personas = [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    z = np.exp([1, 0, -1])
    none = [[0.0, 0.0, 0.0]]
    assert loss(True, profile, personas, [[1, 1, 0]], none) == pytest.approx(-np.log((z[0] + z[1]) / z.sum()), abs=1e-6)
    expected = -(0.25 * np.log(z[0] / z.sum()) + 0.75 * np.log(z[1] / z.sum()))
    assert loss(False, profile, personas, [[0.25, 0.75, 0]], none) == pytest.approx(expected, abs=1e-6)
    weighed = -np.log(z[0] / (z[0] + 0.5 * z[1]))
    offset = [[0.0, np.log(0.5), -np.inf]]
    assert loss(False, profile, personas, [[1, 0, 0]], offset) == pytest.approx(weighed, abs=1e-6)


def test_what_is_left_out_gets_no_gradient():
    import torch

    vectors = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    profiles, personas = vectors[:3], vectors[3:].clone().requires_grad_()
    offset = torch.full((3, 3), -torch.inf).fill_diagonal_(0)
    loss = profile_loss_class()(torch.nn.Identity(), scale=20.0)
    value = loss.losses(profiles, personas, torch.eye(3), offset).mean()
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert personas.grad.abs().max().item() == pytest.approx(0, abs=1e-6)
