"""Alignment pairs in, a fine-tuned encoder out.

Belongs here: what is trained and how it is saved, checkpoints, early stopping. Does not belong here: which pairs there are
(`pairs.py`), batches and the loss (`loss.py`), how texts are worded (`texts.py`), the registry (`tracking.py`).

Three methods, one loss and one loop (the sentence-transformers trainer):
- `head`: a linear map behind the base encoder, which stays as it is. Every text is encoded once and never again, so that a
  training takes seconds to minutes on a CPU, and a map is all that few pairs can teach anyway.
- `lora`: low-rank updates of the transformer (arXiv 2106.09685), merged into it at the end.
- `full`: all weights.
What is saved is a plain SentenceTransformer in each case.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from persona4rec_pipeline.embedding import Encoder, EncoderError, fingerprint, load_model
from persona4rec_pipeline.encoder.loss import BatchBuilder, Batching, profile_loss_class
from persona4rec_pipeline.encoder.mining import mine_negatives
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.encoder.together import train_together
from persona4rec_pipeline.settings import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Encode = Callable[[Sequence[str]], np.ndarray]

WARM_UP_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0
# Peak learning rate of each method where the settings name none.
LEARNING_RATES = {"head": 1e-3, "lora": 2e-4, "full": 2e-5}
# Mined negatives of each pair where the settings name no number. A head maps their stored vectors, which costs nothing;
# the others would run the base model on 20 more texts per pair.
MINED_NEGATIVES = {"head": 20, "lora": 0, "full": 0}
# Fewer pairs than these say nothing about when to stop.
MIN_VALIDATION_PAIRS = 20
# A checkpoint and a look at the validation loss at least after so many steps.
MOST_STEPS_BETWEEN = 50
_WEIGHTS = "trained.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    path: folder of a plain SentenceTransformer. losses, validation_losses: (step, mean loss), step counting from 1;
    the latter empty where there were too few users to hold some out. best_step: of the weights that were kept.
    pairs: trained on; validation_pairs: held out. resumed_at: step of the checkpoint from which it went on, 0 without
    one. seconds: wall time of this process with loading and saving. fingerprint: of the saved model.
    """

    path: Path
    losses: list[tuple[int, float]]
    validation_losses: list[tuple[int, float]]
    best_step: int
    pairs: int
    validation_pairs: int
    resumed_at: int
    seconds: float
    fingerprint: str


def train_encoder(
    base_model_path: Path,
    pairs: Sequence[TrainingPair],
    settings: EncoderSettings,
    output_dir: Path,
    on_log: Callable[[str], None] | None = None,
    encode: Encode | None = None,
) -> TrainingResult:
    """Fine-tune the model of a folder on alignment pairs and save it in `output_dir / "model"`.

    The loss is that of `loss.py`; AdamW with linear warm-up over a tenth of the steps and linear decay, gradient norm
    clipped at 1. The pairs of a part of the users, `settings.validation_fraction`, chosen by hash, are held out: training
    stops when their loss has not fallen for `settings.patience` epochs, and the weights with the lowest are kept. Equal
    pairs, settings and machine give an equal model.

    Killed at any moment and called again with the same `output_dir`, pairs and settings, it goes on from its last
    checkpoint, at most an epoch or 50 steps back. Writes nothing outside `output_dir`; uses no network.

    encode: texts -> unit vectors of the base model, float32 (n, d), where the caller keeps such; default: the model itself.
    With `settings.processes` above 1 `lora` and `full` train in as many processes (`together.py`).

    Raises ValueError for fewer than two pairs in each process, a pair without history or one whose weight is not above 0,
    EncoderError when the loss is not finite or one of several processes fails.
    """
    if len(pairs) < 2:
        raise ValueError(f"In-batch negatives need at least two alignment pairs, not {len(pairs)}.")
    if any(not pair.history_texts for pair in pairs):
        raise ValueError("An alignment pair without history texts has no profile to train on.")
    if any(not pair.weight > 0 for pair in pairs):
        raise ValueError("An alignment pair must have a weight above 0; leave out what should not count.")
    say = on_log or logger.info
    vectors = None
    if settings.method == "head" or mined_negatives(settings):
        texts = Batching(pairs, settings).texts
        if encode is None:
            base = load_model(base_model_path, settings.max_seq_length)
            encode = Encoder(base, "", settings.encode_batch_size).encode
        vectors = encode(texts)
    if settings.processes > 1 and settings.method != "head":
        if len(_held_out(pairs, settings)[0]) < 2 * settings.processes:
            raise ValueError(
                f"{len(pairs)} pairs are too few for {settings.processes} processes; lower encoder.processes."
            )
        return train_together(base_model_path, pairs, settings, output_dir, say, vectors)
    return train_here(base_model_path, pairs, settings, output_dir, say, vectors)


def train_here(
    base_model_path: Path,
    pairs: Sequence[TrainingPair],
    settings: EncoderSettings,
    output_dir: Path,
    say: Callable[[str], None],
    vectors: np.ndarray | None,
) -> TrainingResult:
    """`train_encoder` in this process, which may be one of several that train together: they share `output_dir`, and the
    first one writes there. vectors: float32 (t, d) of the texts of `Batching(pairs, settings)`, by the base model; needed
    for `head` and where negatives are mined."""
    import torch
    from accelerate import PartialState
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
    from transformers import EarlyStoppingCallback, set_seed
    from transformers.trainer_callback import PrinterCallback

    began = time.monotonic()
    together = PartialState(cpu=not torch.cuda.is_available())
    # It warns of file systems that it sorts checkpoints by name on, as it should.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    set_seed(settings.seed)
    base = load_model(base_model_path, settings.max_seq_length)
    batching = Batching(pairs, settings)
    if vectors is not None:
        batching = batching.with_negatives(mine_negatives(batching, vectors, mined_negatives(settings)))
    model, finish = _trainable(base, settings)
    training, validation = _held_out(pairs, settings)
    # As many batches as the setting asks for, but equally large: a last batch of one pair would have no negatives.
    count = together.num_processes
    batches = math.ceil(len(training) / (settings.batch_size * count))
    batch_size = math.ceil(len(training) / batches)
    if count > 1:
        # What does not fill a batch of each process is left out of an epoch: one that waits for others that have nothing
        # left would wait for ever.
        batches = min(batches, len(training) // (2 * count))
        batch_size = len(training) // (batches * count)
    steps = batches * settings.epochs
    every = min(batches, MOST_STEPS_BETWEEN)
    checkpoints = output_dir / "checkpoints"
    with together.main_process_first():
        resumed_at = _last_checkpoint(checkpoints)
    try:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(checkpoints),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate or LEARNING_RATES[settings.method],
            max_grad_norm=MAX_GRADIENT_NORM,
            optim="adamw_torch",
            seed=settings.seed,
            data_seed=settings.seed,
            eval_strategy="steps" if validation else "no",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=bool(validation),
            metric_for_best_model="eval_loss" if validation else None,
            greater_is_better=False if validation else None,
            prediction_loss_only=True,
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        # Several GPUs of one process would cut a batch where its texts are told apart from its pairs.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        log = _loss_log(say, steps)
        # A look at the validation loss happens every `every` steps; patience is counted in epochs.
        patience = settings.patience * math.ceil(batches / every)
        trainer = _trainer_class()(
            model=model,
            args=arguments,
            # Rows are positions; the collator holds the pairs, which Arrow would only copy.
            train_dataset=Dataset.from_dict({"pair": training}),
            eval_dataset=Dataset.from_dict({"pair": validation}) if validation else None,
            loss=profile_loss_class()(model, scale=1 / settings.temperature, marginal=settings.targets == "any"),
            data_collator=cast(Any, BatchBuilder(batching, base, vectors if settings.method == "head" else None)),
            callbacks=[log, *([EarlyStoppingCallback(patience)] if validation else [])],
        )
        trainer.remove_callback(PrinterCallback)
        where = f", going on after step {resumed_at}" if resumed_at else ""
        say(
            f"training ({settings.method}) on {len(training)} pairs, {len(validation)} held out, at most {steps} steps of "
            f"up to {batch_size * count} pairs{where}"
        )
        trainer.train(resume_from_checkpoint=bool(resumed_at))
        losses, validation_losses = _curves(trainer.state.log_history)
        if not all(math.isfinite(loss) for _, loss in losses):
            raise EncoderError(
                "The training loss is not finite; lower encoder.learning_rate or raise encoder.temperature."
            )
    except EncoderError:
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise
    path = output_dir / "model"
    together.wait_for_everyone()
    if together.is_main_process:
        if path.exists():
            shutil.rmtree(path)
        finish().eval().save_pretrained(str(path), create_model_card=False)
        shutil.rmtree(checkpoints)
    together.wait_for_everyone()
    seconds = time.monotonic() - began
    best = trainer.state.best_global_step if validation else trainer.state.global_step
    say(f"trained in {seconds:.0f} s, loss {losses[0][1]:.3f} -> {losses[-1][1]:.3f}, kept step {best}")
    return TrainingResult(
        path,
        losses,
        validation_losses,
        int(best or trainer.state.global_step),
        len(training),
        len(validation),
        resumed_at,
        seconds,
        fingerprint(path, settings.max_seq_length),
    )


def mined_negatives(settings: EncoderSettings) -> int:
    """Mined negatives of each pair: the setting, or what suits the method."""
    return MINED_NEGATIVES[settings.method] if settings.mined_negatives is None else settings.mined_negatives


def learning_rate_factor(step: int, steps: int) -> float:
    """Fraction of the peak learning rate at `step` (from 0) of `steps`: linear up over a tenth of them, linear down.

    Never 0: the usual schedule starts at 0, and a training of one step would then train nothing.
    """
    warm_up = int(WARM_UP_FRACTION * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return max(steps - step, 0) / (steps - warm_up)


def _held_out(pairs: Sequence[TrainingPair], settings: EncoderSettings) -> tuple[list[int], list[int]]:
    """Positions of the pairs to train on and of those of held-out users; nobody is held out where there would be few."""

    def place(user_id: str) -> float:
        return int(hashlib.sha256(f"validation/{user_id}".encode()).hexdigest()[:8], 16) / 2**32

    held = {user for user in {pair.user_id for pair in pairs} if place(user) < settings.validation_fraction}
    validation = [row for row, pair in enumerate(pairs) if pair.user_id in held]
    if len(validation) < MIN_VALIDATION_PAIRS or len(pairs) - len(validation) < 2:
        return list(range(len(pairs))), []
    return [row for row, pair in enumerate(pairs) if pair.user_id not in held], validation


def _trainable(
    base: SentenceTransformer, settings: EncoderSettings
) -> tuple[SentenceTransformer, Callable[[], SentenceTransformer]]:
    """The model to train, and what makes the model to save of it afterwards."""
    if settings.method == "full":
        return base, lambda: base
    if settings.method == "lora":
        from peft import LoraConfig, get_peft_model

        transformer = cast(Any, base[0])
        transformer.model = get_peft_model(
            transformer.model,
            LoraConfig(
                r=settings.lora_rank,
                lora_alpha=settings.lora_alpha,
                lora_dropout=settings.lora_dropout,
                target_modules="all-linear",
            ),
        )

        def merged() -> SentenceTransformer:
            transformer.model = transformer.model.merge_and_unload()
            return base

        return base, merged
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    width = base.get_embedding_dimension()
    assert width is not None
    head = Dense(width, width, bias=False, activation_function=torch.nn.Identity(), init_weight=torch.eye(width))
    return (
        SentenceTransformer(modules=[head], device=str(base.device)),
        lambda: SentenceTransformer(modules=[*base.children(), head, Normalize()], device=str(base.device)),
    )


def _last_checkpoint(folder: Path) -> int:
    """Step of the newest complete checkpoint, 0 without one; one that was being written is deleted."""
    steps = [0]
    for checkpoint in folder.glob("checkpoint-*"):
        # Written last.
        if (checkpoint / "trainer_state.json").exists():
            steps.append(int(checkpoint.name.rsplit("-", 1)[1]))
        else:
            shutil.rmtree(checkpoint)
    return max(steps)


def _curves(history: Sequence[dict[str, float]]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    training = [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    validation = [(int(entry["step"]), float(entry["eval_loss"])) for entry in history if "eval_loss" in entry]
    return training, validation


@lru_cache(maxsize=1)
def _trainer_class() -> type:
    from safetensors.torch import load_file, save_file
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
    from torch.optim.lr_scheduler import LambdaLR

    class Trainer(SentenceTransformerTrainer):
        """The library's trainer with our learning rate, checkpoints of what is trained alone, and no model card."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_training_steps))
            return self.lr_scheduler

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """No model card, no callback: it would encode samples of the data set first."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(str(output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
            save_file({name: value.detach().contiguous() for name, value in trained.items()}, folder / _WEIGHTS)

        def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
            missing = self.model.load_state_dict(load_file(Path(checkpoint_path) / _WEIGHTS), strict=False)
            if missing.unexpected_keys:
                raise EncoderError(f"{checkpoint_path} is of another training; delete it.")

        def _load_best_model(self) -> None:
            # The library's own only logs when it fails.
            assert self.state.best_model_checkpoint is not None
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    return Trainer


def _loss_log(say: Callable[[str], None], steps: int) -> Any:
    from transformers import TrainerCallback

    class LossLog(TrainerCallback):
        _last_line = 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            now = time.monotonic()
            if now - self._last_line >= 5 or state.global_step == steps:
                self._last_line = now
                say(f"step {state.global_step}/{steps}, loss {logs['loss']:.3f}")

    return LossLog()
