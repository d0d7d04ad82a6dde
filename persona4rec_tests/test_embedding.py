"""Texts in, unit vectors out, with the real packaged model."""

import shutil

import numpy as np
import pytest

from persona4rec_pipeline.embedding import Encoder, EncoderError, fingerprint, model_folder
from persona4rec_tests.encoder.builders import BASE, WORDS

TEXTS = [" ".join(WORDS[: 1 + number % len(WORDS)]) + f" {number}" for number in range(20)]


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load(BASE, max_seq_length=32, batch_size=4)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


def test_vectors_are_unit_length_float32_one_per_text(encoder, vectors):
    assert vectors.shape == (len(TEXTS), encoder.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_order_of_the_texts_is_kept(encoder, vectors):
    backwards = encoder.encode(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], vectors, atol=1e-4)


def test_a_text_has_the_same_vector_alone_and_in_a_batch(encoder, vectors):
    for row in (0, 7, 19):
        np.testing.assert_allclose(encoder.encode([TEXTS[row]])[0], vectors[row], atol=1e-4)


def test_equal_texts_are_encoded_once(encoder, monkeypatch):
    forwarded = []
    forward = encoder._forward
    monkeypatch.setattr(encoder, "_forward", lambda batch: forwarded.extend(batch) or forward(batch))
    vectors = encoder.encode(["a river", "a stone", "a river"])
    assert len(forwarded) == 2
    assert np.array_equal(vectors[0], vectors[2]) and not np.array_equal(vectors[0], vectors[1])


def test_vectors_agree_with_those_of_sentence_transformers_itself(encoder, vectors):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(model_folder(BASE)), local_files_only=True).encode(
        TEXTS, normalize_embeddings=True
    )
    assert (vectors * theirs).sum(axis=1).min() > 0.9995


def test_a_text_is_cut_at_the_given_number_of_tokens(encoder):
    long = "winter " * 200
    assert np.array_equal(encoder.encode([long])[0], encoder.encode([long + "copper engine"])[0])


def test_no_text_gives_no_vector(encoder):
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_progress_is_said_in_lines(encoder, monkeypatch):
    monkeypatch.setattr("persona4rec_pipeline.embedding.LINE_EVERY_S", 0.0)
    lines = []
    encoder.encode(TEXTS, lines.append)
    assert lines[-1].startswith("encoded 20/20 texts")


def test_the_fingerprint_tells_models_and_cuts_apart_but_not_copies(tmp_path, encoder):
    folder = model_folder(BASE)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert fingerprint(copy, 32) == fingerprint(folder, 32) == encoder.fingerprint
    assert fingerprint(folder, 64) != encoder.fingerprint
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(copy, 32) != encoder.fingerprint


def test_a_missing_or_empty_model_folder_is_refused_by_name(tmp_path):
    with pytest.raises(EncoderError, match="no model folder"):
        Encoder.load(tmp_path / "nowhere")
    with pytest.raises(EncoderError, match="holds no model"):
        Encoder.load(tmp_path)


def test_encoding_leaves_torchs_number_of_threads_as_it_was(encoder):
    import torch

    before = torch.get_num_threads()
    encoder.encode(TEXTS)
    assert torch.get_num_threads() == before
