"""Alignment pairs in, a fine-tuned encoder out.

Belongs here: the pair, the loss, the training loop, the saved model. Does not belong here: where pairs come from
(`assets.py`), how texts are worded (`texts.py`), the registry (`tracking.py`).

A user is the weighted mean of several texts, so a batch is flattened: every distinct text of a batch is encoded once,
and the collator adds which texts make which profile, with what weight. Only the loss knows this. The model that is
saved is a plain SentenceTransformer, without any module of ours.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from persona4rec_pipeline.embedding import EncoderError, fast_precision, fingerprint, load_model
from persona4rec_pipeline.settings import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

WARM_UP_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0
# Texts per forward pass within a step: a chunk is padded to its own longest text only.
CHUNK = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPair:
    """One past choice: who chose what, after which interactions, and the persona that explains it.

    history_texts: of `texts.interaction_text`, most recent first, at least one. persona_text: of `texts.persona_text`.
    probability: the judge's, of this persona (0-1). weight: how much it counts in the loss, relative to the others;
    above 0.
    """

    user_id: str
    item_id: str
    history_texts: tuple[str, ...]
    persona_text: str
    probability: float
    weight: float = 1.0


@dataclass(frozen=True)
class TrainingResult:
    """path: folder of a plain SentenceTransformer. losses: (step, mean loss of its batch), step counting from 1.
    pairs: pairs per epoch. seconds: wall time with loading and saving. fingerprint: of the saved model."""

    path: Path
    losses: list[tuple[int, float]]
    pairs: int
    seconds: float
    fingerprint: str


def train_encoder(
    base_model_path: Path,
    pairs: Sequence[TrainingPair],
    settings: EncoderSettings,
    output_dir: Path,
    on_log: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Fine-tune the model of a folder on alignment pairs and save it in `output_dir / "model"`.

    InfoNCE over in-batch negatives (arXiv 1807.03748): cosine of profile and persona over `settings.temperature`, each
    pair counting by its weight over the mean weight of all pairs, so that equal weights change nothing; AdamW
    with linear warm-up over a tenth of the steps and linear decay, gradient norm clipped at 1. Equal pairs, settings
    and machine give an equal model. Writes nothing outside `output_dir`; uses no network.

    Raises ValueError for fewer than two pairs, a pair without history or one whose weight is not above 0, EncoderError
    when the loss is not finite.
    """
    if len(pairs) < 2:
        raise ValueError(f"In-batch negatives need at least two alignment pairs, not {len(pairs)}.")
    if any(not pair.history_texts for pair in pairs):
        raise ValueError("An alignment pair without history texts has no profile to train on.")
    if any(not pair.weight > 0 for pair in pairs):
        raise ValueError("An alignment pair must have a weight above 0; leave out what should not count.")
    import torch
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    began = time.monotonic()
    say = on_log or logger.info
    set_seed(settings.seed)
    model = load_model(base_model_path, settings.max_seq_length)
    # As many batches as the setting asks for, but equally large: a last batch of one pair would have no negatives.
    batches = math.ceil(len(pairs) / settings.batch_size)
    steps = batches * settings.epochs
    output_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="trainer-", dir=output_dir))
    try:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(scratch),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=math.ceil(len(pairs) / batches),
            learning_rate=settings.learning_rate,
            max_grad_norm=MAX_GRADIENT_NORM,
            optim="adamw_torch",
            seed=settings.seed,
            data_seed=settings.seed,
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        log = _loss_log(say, steps)
        trainer = _trainer_class()(
            model=model,
            args=arguments,
            # Rows are positions; the collator holds the pairs, which Arrow would only copy.
            train_dataset=Dataset.from_dict({"pair": list(range(len(pairs)))}),
            loss=_profile_loss_class()(model, scale=1 / settings.temperature),
            data_collator=cast(Any, BatchBuilder(pairs, model, settings)),
            callbacks=[log],
        )
        trainer.remove_callback(PrinterCallback)
        say(f"training on {len(pairs)} pairs, {steps} steps of up to {arguments.per_device_train_batch_size} pairs")
        trainer.train()
        if not all(math.isfinite(loss) for _, loss in log.losses):
            raise EncoderError(
                "The training loss is not finite; lower encoder.learning_rate or raise encoder.temperature."
            )
        path = output_dir / "model"
        if path.exists():
            shutil.rmtree(path)
        model.eval().save_pretrained(str(path), create_model_card=False)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.monotonic() - began
    say(f"trained in {seconds:.0f} s, loss {log.losses[0][1]:.3f} -> {log.losses[-1][1]:.3f}")
    return TrainingResult(path, log.losses, len(pairs), seconds, fingerprint(path, settings.max_seq_length))


class BatchBuilder:
    """Collator: rows of pair positions to one flat batch of tensors.

    Texts (t of them, distinct, longest first), n pairs, h history entries: `texts_input_ids` and its companions
    (t, tokens); `texts_history` int64 (h,), which text; `texts_segment` int64 (h,), which pair; `texts_weight` float32
    (h,), g^(l-1) / sum g^(l-1), l = 1 the most recent; `texts_persona` int64 (n,), which text; `texts_excluded` bool
    (n, n), True where persona j is no negative for profile i; `texts_importance` float32 (n,), the pair's weight over the
    mean of all pairs.
    """

    # What the trainer asks any collator for.
    valid_label_columns: tuple[str, ...] = ()
    include_prompt_lengths = False

    def __init__(self, pairs: Sequence[TrainingPair], model: SentenceTransformer, settings: EncoderSettings):
        self._pairs = pairs
        self._model = model
        self._history = settings.training_history
        self._decay = settings.recency_decay
        self._mean_weight = sum(pair.weight for pair in pairs) / len(pairs)
        self._items: dict[str, set[str]] = {}
        self._personas: dict[str, set[str]] = {}
        for pair in pairs:
            self._items.setdefault(pair.user_id, set()).add(pair.item_id)
            self._personas.setdefault(pair.user_id, set()).add(pair.persona_text)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        import torch

        batch = [self._pairs[row["pair"]] for row in rows]
        histories = [pair.history_texts[: self._history] for pair in batch]
        wanted = [text for history in histories for text in history] + [pair.persona_text for pair in batch]
        texts = sorted(set(wanted), key=lambda text: (-len(text), text))
        place = {text: position for position, text in enumerate(texts)}
        features = {f"texts_{name}": value for name, value in self._model.preprocess(texts).items()}
        weights = [weight for history in histories for weight in recency_weights(len(history), self._decay)]
        return {
            **{name: value for name, value in features.items() if isinstance(value, torch.Tensor)},
            "texts_history": torch.tensor([place[text] for history in histories for text in history]),
            "texts_segment": torch.tensor([pair for pair, history in enumerate(histories) for _ in history]),
            "texts_weight": torch.tensor(weights, dtype=torch.float32),
            "texts_persona": torch.tensor([place[pair.persona_text] for pair in batch]),
            "texts_importance": torch.tensor([pair.weight / self._mean_weight for pair in batch], dtype=torch.float32),
            "texts_excluded": torch.tensor(
                [
                    [i != j and self._is_no_negative(batch[i], batch[j]) for j in range(len(batch))]
                    for i in range(len(batch))
                ]
            ),
        }

    def _is_no_negative(self, pair: TrainingPair, other: TrainingPair) -> bool:
        """Whether the persona of `other` may well fit the user of `pair`: then it must not be pushed away from them.

        So it is when the user chose that item or was explained by those words, in this pair or any other.
        """
        return (
            other.user_id == pair.user_id
            or other.item_id in self._items[pair.user_id]
            or other.persona_text in self._personas[pair.user_id]
        )


def recency_weights(count: int, decay: float) -> list[float]:
    """g^(l-1) / sum g^(l-1) for l = 1 (most recent) to `count`; sums to 1 (arXiv 2602.21756, user embedding)."""
    weights = [decay**age for age in range(count)]
    return [weight / sum(weights) for weight in weights]


def learning_rate_factor(step: int, steps: int) -> float:
    """Fraction of the peak learning rate at `step` (from 0) of `steps`: linear up over a tenth of them, linear down.

    Never 0: the usual schedule starts at 0, and a training of one step would then train nothing.
    """
    warm_up = int(WARM_UP_FRACTION * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return max(steps - step, 0) / (steps - warm_up)


@lru_cache(maxsize=1)
def _trainer_class() -> type:
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
    from torch.optim.lr_scheduler import LambdaLR

    class Trainer(SentenceTransformerTrainer):
        """The library's trainer with our learning rate, and without the samples of a model card that nobody reads."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_training_steps))
            return self.lr_scheduler

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """No model card, no callback: it would encode samples of the data set first."""

    return Trainer


@lru_cache(maxsize=1)
def _profile_loss_class() -> type:
    """The loss, declared on first use: its base class takes seconds to import."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim
    from torch.nn.functional import cross_entropy, normalize
    from torch.utils.checkpoint import checkpoint

    class ProfileRankingLoss(MultipleNegativesRankingLoss):
        """In-batch InfoNCE where the query is a profile, sum_l w_l e_l of unit vectors, and false negatives are out."""

        def __init__(self, model: SentenceTransformer, scale: float):
            super().__init__(model, scale=scale, similarity_fct=self._similarity)
            self._excluded: Tensor | None = None

        def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
            features = dict(next(iter(sentence_features)))
            history, segment = features.pop("history"), features.pop("segment")
            weight, persona = features.pop("weight"), features.pop("persona")
            importance = features.pop("importance")
            self._excluded = features.pop("excluded")
            vectors = self._embed(features)
            profiles = torch.zeros(len(persona), vectors.shape[1], device=vectors.device)
            profiles = profiles.index_add(0, segment, vectors[history] * weight[:, None])
            return (self.losses(profiles, vectors[persona]) * importance).mean()

        def losses(self, profiles: Tensor, personas: Tensor) -> Tensor:
            """The loss of each pair of the batch, (n,): persona i is right for profile i, the others are not."""
            right = torch.arange(len(profiles), device=profiles.device)
            return cross_entropy(self._similarity(profiles, personas) * self.scale, right, reduction="none")

        def _embed(self, features: dict[str, Tensor]) -> Tensor:
            chunks = []
            for begin in range(0, len(features["input_ids"]), CHUNK):
                part = {name: value[begin : begin + CHUNK] for name, value in features.items()}
                longest = int(part["attention_mask"].sum(dim=1).max())
                part = {name: value[:, :longest] if value.ndim == 2 else value for name, value in part.items()}
                chunks.append(part)
            with fast_precision(features["input_ids"].device.type):
                # A text of 96 tokens leaves about 25 MB of activations behind, a batch some GB. Kept is only the result
                # of a chunk; its activations are computed again when its gradient is due, for a third more time.
                vectors = [checkpoint(self._embed_chunk, part, use_reentrant=False) for part in chunks]
            return normalize(torch.cat(vectors).float(), dim=1)

        def _embed_chunk(self, part: dict[str, Tensor]) -> Tensor:
            return self.model(dict(part))["sentence_embedding"]

        def _similarity(self, profiles: Tensor, personas: Tensor) -> Tensor:
            cosines = cos_sim(profiles, personas)
            # At minus infinity a persona takes no part in the softmax and gets no gradient from this profile.
            return cosines if self._excluded is None else cosines.masked_fill(self._excluded, -torch.inf)

    return ProfileRankingLoss


def _loss_log(say: Callable[[str], None], steps: int) -> Any:
    from transformers import TrainerCallback

    class LossLog(TrainerCallback):
        def __init__(self) -> None:
            self.losses: list[tuple[int, float]] = []
            self._last_line = 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            self.losses.append((state.global_step, float(logs["loss"])))
            now = time.monotonic()
            if now - self._last_line >= 5 or state.global_step == steps:
                self._last_line = now
                say(f"step {state.global_step}/{steps}, loss {logs['loss']:.3f}")

    return LossLog()
