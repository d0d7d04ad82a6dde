"""Ground floor: the general text encoder, loaded once when first needed.

Belongs here: one lazily loaded encoder shared by the steps of a run (grouping sentences, judging by similarity, the
untrained rows of the evaluation). Does not belong here: the encoder that is trained (`encoder/`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from persona4rec_pipeline.encoder.encoding import Encoder
from persona4rec_pipeline.settings import Settings


class TextEncoder:
    """The model `personas.embedding_model`; costs nothing until the first text is encoded."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def encode(self, texts: Sequence[str], on_progress: Callable[[str], None] | None = None) -> np.ndarray:
        """Unit vectors of texts: float32 (n, d), in their order; shape (0, d) for no text."""
        return self._encoder.encode(texts, on_progress)

    @cached_property
    def _encoder(self) -> Encoder:
        settings = self._settings
        return Encoder.load(
            settings.personas.embedding_model, settings.encoder.max_seq_length, settings.encoder.encode_batch_size
        )
