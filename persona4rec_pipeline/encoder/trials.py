"""An encoder that is trained to be looked at once: nothing is registered, and nothing of it stays.

Belongs here: a training aside and its end. Does not belong here: the training itself (`training.py`), what the encoder is
held against (`tuning.py`, `evaluation/learning.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from persona4rec_pipeline.embedding import model_folder
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.encoder.stored import BASE_FINGERPRINT, METHOD, StoredEncoder, registered_encoder
from persona4rec_pipeline.encoder.training import train_encoder
from persona4rec_pipeline.settings import EncoderSettings
from persona4rec_pipeline.tracking import RegisteredEncoder
from persona4rec_pipeline.warehouse import Database


@contextmanager
def trial_encoder(
    warehouse: Database,
    base: StoredEncoder,
    pairs: Sequence[TrainingPair],
    settings: EncoderSettings,
    scratch: Path,
    on_log: Callable[[str], None] | None = None,
) -> Iterator[StoredEncoder]:
    """An encoder trained on these pairs with these settings, for as long as the block lasts.

    `scratch` is deleted at the end of a block that went well. Killed before, it stays: called again with the same
    arguments the training goes on from its last checkpoint. Errors: those of `train_encoder`.
    """
    result = train_encoder(model_folder(settings.base_model), pairs, settings, scratch, on_log, base.encode)
    tags = {METHOD: settings.method, BASE_FINGERPRINT: base.fingerprint}
    yield registered_encoder(warehouse, settings, RegisteredEncoder("", result.path, "", result.fingerprint, tags))
    shutil.rmtree(scratch)
