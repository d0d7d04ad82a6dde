"""Vectors that are kept, so that no encoder reads a text twice.

Belongs here: looking up and storing vectors by encoder and text, and the short cut of a trained head. Does not belong here:
the model itself (`embedding.py`), which texts there are (`vectors.py`, `evaluation/`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from persona4rec_pipeline.embedding import Encoder, fingerprint, model_folder
from persona4rec_pipeline.encoder.texts import text_hash
from persona4rec_pipeline.settings import EncoderSettings
from persona4rec_pipeline.tracking import RegisteredEncoder
from persona4rec_pipeline.warehouse import Database

# Texts that are encoded before their vectors are stored: what a kill costs at most, about half a minute on two cores.
CHUNK = 4096
# Tags of a registered encoder that is a head behind another one.
METHOD, BASE_FINGERPRINT = "method", "base_fingerprint"

_KNOWN = """
SELECT text_hash, any_value(vector) AS vector FROM (
    SELECT text_hash, vector FROM encoded_texts WHERE encoder = $encoder
    UNION ALL SELECT text_hash, vector FROM persona_vectors WHERE encoder = $encoder
    UNION ALL SELECT text_hash, vector FROM interaction_vectors WHERE encoder = $encoder
    UNION ALL SELECT text_hash, vector FROM item_vectors WHERE encoder = $encoder
) SEMI JOIN wanted USING (text_hash) GROUP BY 1
"""


class StoredEncoder:
    """An encoder whose vectors are looked up in the warehouse first; the model is loaded when there is one to make.

    New vectors are stored every CHUNK texts, so a run that is killed goes on where it was. With `base`, `folder` is a head
    behind that encoder: its vectors are the base's times a matrix, which costs nothing and is not stored.
    """

    def __init__(
        self,
        warehouse: Database,
        folder: Path,
        settings: EncoderSettings,
        on_progress: Callable[[str], None] | None = None,
        base: StoredEncoder | None = None,
    ):
        self._warehouse = warehouse
        self._folder = folder
        self._settings = settings
        self._say = on_progress
        self._base = base
        self.fingerprint = fingerprint(folder, settings.max_seq_length)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts: float32 (n, d), in their order; equal texts are encoded once."""
        hashes = [text_hash(text) for text in texts]
        text_of = dict(zip(hashes, texts, strict=True))
        known, vectors = self._known(list(text_of))
        missing = [digest for digest in text_of if digest not in known]
        for begin in range(0, len(missing), CHUNK):
            part = missing[begin : begin + CHUNK]
            made = self._make([text_of[digest] for digest in part])
            known |= {digest: len(known) + place for place, digest in enumerate(part)}
            vectors = np.concatenate([vectors, made]) if len(vectors) else made
            if self._base is None:
                self._store(part, made)
        return vectors[[known[digest] for digest in hashes]] if hashes else np.empty((0, 0), np.float32)

    def _make(self, texts: Sequence[str]) -> np.ndarray:
        if self._base is None:
            return self._model.encode(texts, self._say)
        vectors = self._base.encode(texts) @ self._head
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _known(self, hashes: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
        """Row of each text hash in a float32 matrix (n, d) of the vectors that this encoder made."""
        with self._warehouse.read() as connection:
            connection.register("wanted", pd.DataFrame({"text_hash": pd.Series(hashes, dtype=str)}))
            stored = connection.execute(_KNOWN, {"encoder": self.fingerprint}).to_arrow_table()
        if not stored.num_rows:
            return {}, np.empty((0, 0), np.float32)
        flat = stored["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        known = {digest: row for row, digest in enumerate(stored["text_hash"].to_pylist())}
        return known, flat.reshape(stored.num_rows, -1)

    def _store(self, hashes: Sequence[str], vectors: np.ndarray) -> None:
        rows = pd.DataFrame({"encoder": self.fingerprint, "text_hash": hashes, "vector": list(vectors)})
        with self._warehouse.write() as connection:
            connection.register("made", rows)
            connection.execute("INSERT OR IGNORE INTO encoded_texts BY NAME FROM made")

    @cached_property
    def _model(self) -> Encoder:
        return Encoder.load(self._folder, self._settings.max_seq_length, self._settings.encode_batch_size)

    @cached_property
    def _head(self) -> np.ndarray:
        """The matrix, float32 (d, d), by which the base's vectors are multiplied."""
        from safetensors.numpy import load_file

        modules = json.loads((self._folder / "modules.json").read_text())
        [head] = [module["path"] for module in modules if module["type"].endswith(".Dense")]
        return np.ascontiguousarray(load_file(self._folder / head / "model.safetensors")["linear.weight"].T)


def base_encoder(
    warehouse: Database, settings: EncoderSettings, on_progress: Callable[[str], None] | None = None
) -> StoredEncoder:
    """The untrained encoder of the settings."""
    return StoredEncoder(warehouse, model_folder(settings.base_model), settings, on_progress)


def registered_encoder(
    warehouse: Database,
    settings: EncoderSettings,
    encoder: RegisteredEncoder,
    on_progress: Callable[[str], None] | None = None,
) -> StoredEncoder:
    """An encoder of the registry; a head is computed from the vectors of the base encoder, if it is still the same."""
    base = base_encoder(warehouse, settings, on_progress)
    is_head = encoder.tags.get(METHOD) == "head" and encoder.tags.get(BASE_FINGERPRINT) == base.fingerprint
    return StoredEncoder(warehouse, encoder.path, settings, on_progress, base if is_head else None)


def forget_others(warehouse: Database, encoders: Sequence[str]) -> None:
    """Delete the stored vectors of all encoders but those of these fingerprints, and those that an asset holds as well."""
    with warehouse.write() as connection:
        connection.execute(
            """
            DELETE FROM encoded_texts WHERE encoder NOT IN (SELECT unnest($encoders)) OR (encoder, text_hash) IN (
                SELECT (encoder, text_hash) FROM persona_vectors UNION SELECT (encoder, text_hash) FROM interaction_vectors
                UNION SELECT (encoder, text_hash) FROM item_vectors
            )
            """,
            {"encoders": list(encoders)},
        )


def forget_orphans(warehouse: Database) -> None:
    """Delete the stored vectors of texts that no persona, no recent interaction and no item has; training may make some anew."""
    with warehouse.write() as connection:
        connection.execute(
            "DELETE FROM encoded_texts WHERE text_hash NOT IN "
            "(SELECT text_hash FROM persona_vectors UNION SELECT text_hash FROM interaction_vectors "
            "UNION SELECT text_hash FROM item_vectors)"
        )
