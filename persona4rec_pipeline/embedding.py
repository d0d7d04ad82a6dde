"""Ground floor: texts in, unit vectors out. One encoder for users and personas, offline and online.

Belongs here: loading an encoder from a folder, telling which encoder it is, encoding fast. Does not belong here: how a
text is worded (`encoder/texts.py`), how vectors make a profile or a score (`index/scoring.py`), training (`encoder/`).
torch and sentence-transformers are imported on first use, so that importing this module costs nothing.

bfloat16 is used where the processor has instructions for it, float32 elsewhere: with MiniLM on two cores with avx512_bf16
that was 1.6 to 2.1 times as fast, and the lowest cosine between both was .99996.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona4rec_pipeline.generation.packaged_models import resolve_embedding_model
from persona4rec_pipeline.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Between two lines of progress, in seconds.
LINE_EVERY_S = 5.0
# Texts that are tokenised at once: bounds the memory for tokens, and still fills batches of one length.
WINDOW = 8192
# Other formats of the same weights that model repositories carry along; never loaded, so never fetched or hashed.
_OTHER_FORMATS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf"]
# What decides a vector, besides the weights: module list, pooling, architecture, tokeniser.
_CONFIGURATION = ("config.json", "modules.json", "tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")

logger = logging.getLogger(__name__)


class EncoderError(RuntimeError):
    """A model folder is missing or incomplete, or a model yields vectors that cannot be used."""


class Encoder:
    """A sentence-transformers model with a cut, a batch size and a fingerprint.

    fingerprint: 16 hexadecimal digits; equal fingerprints give equal vectors for equal texts (up to the rounding of the
    machine: bfloat16 here, float32 there, agree to a cosine above .9999).
    dimension: length of a vector.
    """

    def __init__(self, model: SentenceTransformer, fingerprint: str, batch_size: int):
        self._model = model
        self._batch_size = batch_size
        self.fingerprint = fingerprint
        dimension = model.get_embedding_dimension()
        if dimension is None:
            raise EncoderError("The model does not say how long its vectors are; is it a sentence encoder?")
        self.dimension = int(dimension)

    @classmethod
    def load(cls, path_or_name: str | Path, max_seq_length: int = 96, batch_size: int = 64) -> Encoder:
        """Load from a folder, a hub id, or the name of the packaged model (`all-minilm-l6-v2`).

        max_seq_length: tokens after which a text is cut; batch_size: texts per forward pass. A folder is loaded without
        network. Raises EncoderError when it holds no model, GenerationError when the packaged model is not installed.
        """
        folder = model_folder(path_or_name)
        model = load_model(folder, max_seq_length)
        return cls(model, fingerprint(folder, max_seq_length), batch_size)

    def encode(self, texts: Sequence[str], on_progress: Callable[[str], None] | None = None) -> np.ndarray:
        """Unit vectors of texts: float32 of shape (len(texts), dimension), in the order given.

        Equal texts are encoded once. A batch holds texts of one length in tokens: nothing is padded, and no vector
        depends on its neighbours, not even by rounding. Longest first, so that too little memory shows at once.
        `on_progress` gets a line every few seconds. Raises EncoderError on a vector that is not finite.
        """
        unique = list(dict.fromkeys(texts))
        vectors = np.empty((len(unique), self.dimension), dtype=np.float32)
        progress = _Progress(len(unique), on_progress)
        by_length = sorted(range(len(unique)), key=lambda row: len(unique[row]), reverse=True)
        for begin in range(0, len(by_length), WINDOW):
            window = by_length[begin : begin + WINDOW]
            tokens = self._model.tokenizer([unique[row] for row in window], truncation=True, padding=False)["input_ids"]
            of_length: dict[int, list[int]] = {}
            for place, ids in enumerate(tokens):
                of_length.setdefault(len(ids), []).append(place)
            batches = [
                of_length[length][first : first + self._batch_size]
                for length in sorted(of_length, reverse=True)
                for first in range(0, len(of_length[length]), self._batch_size)
            ]
            forwarded = self._forward_all([[tokens[place] for place in batch] for batch in batches])
            for batch, found in zip(batches, forwarded, strict=True):
                vectors[[window[place] for place in batch]] = found
                progress.advance(len(batch))
        if not np.isfinite(vectors).all():
            raise EncoderError("The encoder yielded vectors that are not finite; its weights are damaged.")
        if len(unique) == len(texts):
            return vectors
        place_of = {text: place for place, text in enumerate(unique)}
        return vectors[[place_of[text] for text in texts]]

    def _forward_all(self, batches: list[list[list[int]]]) -> Iterator[np.ndarray]:
        """Vectors of each batch, in order. On a CPU with several cores: a batch per core, each on one thread.

        That is a fifth faster than all cores on one batch, and ten times faster when another process wants a core too,
        because no core ever waits for another within a batch.
        """
        import torch

        threads = torch.get_num_threads()
        if self._model.device.type != "cpu" or min(threads, len(batches)) < 2:
            yield from map(self._forward, batches)
            return
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from pool.map(self._forward, batches)
        finally:
            pool.shutdown(cancel_futures=True)
            # Torch keeps the number per thread, but new threads start with the one that was set last.
            torch.set_num_threads(threads)

    def _forward(self, token_ids: list[list[int]]) -> np.ndarray:
        import torch

        ids = torch.tensor(token_ids, device=self._model.device)
        with torch.inference_mode(), fast_precision(ids.device.type):
            output = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        embedding = output["sentence_embedding"].float()
        return torch.nn.functional.normalize(embedding, dim=1).cpu().numpy()


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


def model_folder(path_or_name: str | Path) -> Path:
    """The local folder of a model: a folder as it is, the packaged model by its name, a hub id by its snapshot.

    A hub id is fetched when it is not in the Hugging Face cache. Raises EncoderError for what looks like a path and
    is no model folder.
    """
    name = resolve_embedding_model(str(path_or_name))
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
            raise EncoderError(f"{folder} holds no model (neither modules.json nor config.json).")
        return folder
    if isinstance(path_or_name, Path) or folder.is_absolute() or name.startswith((".", "~")):
        raise EncoderError(f"There is no model folder {name}.")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, ignore_patterns=_OTHER_FORMATS))


def load_model(folder: Path, max_seq_length: int, device: str | None = None) -> SentenceTransformer:
    """The plain model of a folder, in float32, for evaluation, cutting texts at `max_seq_length` tokens. Offline."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = SentenceTransformer(str(folder), local_files_only=True, device=device)
    model.max_seq_length = max_seq_length
    # `max_seq_length` may cap only the model's own `preprocess`; the tokeniser that `encode` calls must cut alike.
    model.tokenizer.model_max_length = max_seq_length
    return model.eval()


def fingerprint(folder: Path, max_seq_length: int) -> str:
    """Which encoder this is: the first 16 hexadecimal digits of SHA-256 over weights, configuration and cut."""
    weights = sorted(path for path in folder.rglob("*.safetensors") if path.parent.name not in ("onnx", "openvino"))
    weights = weights or sorted(folder.rglob("pytorch_model*.bin"))
    if not weights:
        raise EncoderError(f"{folder} holds no weights (neither *.safetensors nor pytorch_model.bin).")
    configuration = sorted(path for name in _CONFIGURATION for path in folder.rglob(name) if path.is_file())
    digest = hashlib.sha256(f"max_seq_length={max_seq_length}".encode())
    for path in weights + configuration:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def fast_precision(device_type: str) -> AbstractContextManager[Any]:
    """bfloat16 autocast where the device computes in it natively, else a context that does nothing."""
    import torch

    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    else:
        native = False
    return torch.autocast(device_type, dtype=torch.bfloat16) if native else nullcontext()


class _Progress:
    def __init__(self, total: int, say: Callable[[str], None] | None):
        self._total, self._say = total, say or logger.info
        self._done = 0
        self._began = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S or (self._done == self._total and self._last > self._began):
            self._last = now
            rate = self._done / (now - self._began)
            left = f", {(self._total - self._done) / rate:.0f} s left" if self._done < self._total else ""
            self._say(f"encoded {self._done}/{self._total} texts, {rate:.0f}/s{left}")
