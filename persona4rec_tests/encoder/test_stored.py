"""Vectors that are kept: no text is read twice, not after a kill, and a head costs no reading at all."""

import numpy as np
import pytest

from persona4rec_pipeline.embedding import Encoder, model_folder
from persona4rec_pipeline.encoder import stored
from persona4rec_pipeline.encoder.stored import (
    BASE_FINGERPRINT,
    METHOD,
    base_encoder,
    forget_orphans,
    forget_others,
    registered_encoder,
)
from persona4rec_pipeline.encoder.training import train_encoder
from persona4rec_pipeline.encoder.vectors import refresh_interaction_vectors
from persona4rec_pipeline.tracking import RegisteredEncoder
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.encoder.builders import BASE, WORDS, filled_warehouse, settings, training_pairs


@pytest.fixture
def read(monkeypatch):
    """Every text that a model reads, in order."""
    texts = []
    encode = Encoder.encode

    def noted(self, wanted, on_progress=None):
        texts.extend(wanted)
        return encode(self, wanted, on_progress)

    monkeypatch.setattr(Encoder, "encode", noted)
    return texts


def test_a_text_is_read_once_and_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch, read):
    chosen = settings(tmp_path).encoder
    warehouse = open_warehouse(settings(tmp_path))
    monkeypatch.setattr(stored, "CHUNK", 4)
    store = stored.StoredEncoder._store

    def killed(self, hashes, vectors):
        if len(read) > 8:
            raise KeyboardInterrupt
        store(self, hashes, vectors)

    monkeypatch.setattr(stored.StoredEncoder, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        base_encoder(warehouse, chosen).encode(WORDS)
    monkeypatch.setattr(stored.StoredEncoder, "_store", store)
    read.clear()
    vectors = base_encoder(warehouse, chosen).encode([*WORDS, WORDS[0]])
    assert read == WORDS[8:], "two chunks were stored before the kill"
    np.testing.assert_allclose(vectors, Encoder.load(BASE, 32).encode([*WORDS, WORDS[0]]), atol=1e-6)
    read.clear()
    base_encoder(warehouse, chosen).encode(WORDS)
    assert not read


def test_a_head_is_computed_from_the_vectors_of_its_base_and_agrees_with_its_model(tmp_path, read):
    chosen = settings(tmp_path, epochs=3, learning_rate=1e-2).encoder
    warehouse = open_warehouse(settings(tmp_path))
    result = train_encoder(model_folder(BASE), training_pairs(16), chosen, tmp_path / "training")
    base = base_encoder(warehouse, chosen)
    base.encode(WORDS)
    read.clear()
    tags = {METHOD: "head", BASE_FINGERPRINT: base.fingerprint}
    trained = registered_encoder(warehouse, chosen, RegisteredEncoder("2", result.path, "", result.fingerprint, tags))
    vectors = trained.encode(WORDS)
    assert not read and trained.fingerprint == result.fingerprint
    np.testing.assert_allclose(vectors, Encoder.load(result.path, 32).encode(WORDS), atol=3e-3)
    assert np.abs(vectors - base.encode(WORDS)).max() > 0.01
    of_another_base = tags | {BASE_FINGERPRINT: "another"}
    other = RegisteredEncoder("3", result.path, "", result.fingerprint, of_another_base)
    read.clear()
    registered_encoder(warehouse, chosen, other).encode(WORDS[:1])
    assert read == WORDS[:1], "a head behind another base is an encoder like any other"


def test_what_encoders_out_of_use_made_is_deleted(tmp_path):
    chosen = settings(tmp_path).encoder
    warehouse = open_warehouse(settings(tmp_path))
    base = base_encoder(warehouse, chosen)
    base.encode(WORDS[:3])
    forget_others(warehouse, [base.fingerprint])
    assert warehouse.rows("SELECT count(*) FROM encoded_texts") == [(3,)]
    forget_others(warehouse, ["another"])
    assert warehouse.rows("SELECT count(*) FROM encoded_texts") == [(0,)]


def test_what_was_made_of_a_forgotten_users_words_is_deleted(tmp_path):
    warehouse = filled_warehouse(tmp_path, users=1)
    base = base_encoder(warehouse, settings(tmp_path).encoder)
    refresh_interaction_vectors(warehouse, "books", 2, base.fingerprint, base.encode)
    base.encode(["words of a forgotten user"])
    forget_orphans(warehouse)
    hashes = {digest for (digest,) in warehouse.rows("SELECT text_hash FROM encoded_texts")}
    assert hashes == {digest for (digest,) in warehouse.rows("SELECT text_hash FROM interaction_vectors")} != set()
