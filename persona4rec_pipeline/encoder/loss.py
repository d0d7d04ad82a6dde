"""Batches of alignment pairs and the loss on them.

Belongs here: what is right and what is wrong for a profile, as tensors, and the loss. Does not belong here: the training
loop (`training.py`), where pairs come from (`pairs.py`).

A user is the weighted mean of several texts, so a batch is flattened: every distinct text of a batch is encoded once, and
the collator adds which texts make which profile, with what weight. Only the loss knows this; the model stays plain.

What is compared with a profile are the personas of all items of the batch (its columns). Right are personas of the chosen
item, by `encoder.targets`: `judge`, each as much as the judge gave it; `chosen`, the judge's choice alone, the item's other
personas left out; `against_siblings`, the choice alone, the others wrong as far as the judge held them to be; `any`,
whichever fits best (the choice's probability is the sum over its personas, and no judge is needed). Wrong are the personas
of other items, unless the user chose or met that item, too, or it has the same words; optionally the item's critical
personas (`critical_negatives`) and the most similar personas of items that the user does not know (`mined_negatives`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from persona4rec_pipeline.embedding import fast_precision
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.index.scoring import history_weights
from persona4rec_pipeline.settings import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

# Texts per forward pass within a step: a chunk is padded to its own longest text only.
CHUNK = 32
# Of a sibling that the judge was sure of, so that its weight as a negative stays a number.
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class _Numbered:
    """A pair with its texts as numbers, int64: history (h,), options (o,), negatives (m,), with their weights and
    probabilities, float32 (h,) and (o,)."""

    user_id: str
    history: np.ndarray
    weights: np.ndarray
    options: np.ndarray
    probabilities: np.ndarray
    negatives: np.ndarray
    importance: float


class Batching:
    """The pairs with all that does not change from batch to batch.

    texts: every distinct text; a text's number is its place. pairs: numbered. known: user -> numbers of the personas of
    every item that the user chose or met. personas: numbers of the personas that may explain a choice, ascending.
    """

    def __init__(self, pairs: Sequence[TrainingPair], settings: EncoderSettings):
        number: dict[str, int] = {}

        def numbers(texts: Iterable[str]) -> np.ndarray:
            return np.array([number.setdefault(text, len(number)) for text in texts], np.int64)

        self.settings = settings
        mean = sum(pair.weight for pair in pairs) / len(pairs)
        self.pairs = [
            _Numbered(
                user_id=pair.user_id,
                history=numbers(pair.history_texts[: settings.training_history]),
                weights=_weights(pair, settings),
                options=numbers(pair.options),
                probabilities=np.asarray(pair.probabilities, np.float32) / np.float32(sum(pair.probabilities)),
                negatives=numbers(pair.critical if settings.critical_negatives else ()),
                importance=pair.weight / mean,
            )
            for pair in pairs
        ]
        self.texts = list(number)
        of_item: dict[str, np.ndarray] = {
            pair.item: numbered.options for pair, numbered in zip(pairs, self.pairs, strict=True)
        }
        nothing = np.empty(0, np.int64)
        met: dict[str, list[np.ndarray]] = {}
        for pair in pairs:
            for item in (pair.item, *pair.history_items):
                met.setdefault(pair.user_id, []).append(of_item.get(item, nothing))
        self.known: Mapping[str, np.ndarray] = {user: np.unique(np.concatenate(found)) for user, found in met.items()}
        self.personas = np.unique(np.concatenate([pair.options for pair in self.pairs]))

    def with_negatives(self, negatives: Sequence[np.ndarray]) -> Batching:
        """The same with more negatives, int64 (m,) text numbers, for each pair."""
        if not any(map(len, negatives)):
            return self
        self.pairs = [
            replace(pair, negatives=np.union1d(pair.negatives, more))
            for pair, more in zip(self.pairs, negatives, strict=True)
        ]
        return self


class BatchBuilder:
    """Collator: rows of pair positions to one flat batch of tensors.

    Texts (t of them, distinct), n pairs, h history entries, c columns: `texts_input_ids` and its companions (t, tokens),
    or with `vectors` `texts_sentence_embedding` float32 (t, d); `texts_history` int64 (h,), which text; `texts_segment`
    int64 (h,), which pair; `texts_weight` float32 (h,), sums to 1 per pair; `texts_column` int64 (c,), which text;
    `texts_target` float32 (n, c), how right, rows sum to 1 (with targets `any`: 1 for each that may be right);
    `texts_offset` float32 (n, c), log of how much a column counts, -inf where it takes no part; `texts_importance`
    float32 (n,), the pair's weight over the mean of all pairs.

    vectors: float32 (texts of `batching`, d), unit vectors of the base model; then no text is tokenised or encoded.
    """

    # What the trainer asks any collator for.
    valid_label_columns: tuple[str, ...] = ()
    include_prompt_lengths = False

    def __init__(self, batching: Batching, model: SentenceTransformer, vectors: np.ndarray | None = None):
        self._batching = batching
        self._model = model
        self._vectors = vectors

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        import torch

        batch = [self._batching.pairs[row["pair"]] for row in rows]
        columns = np.unique(np.concatenate([np.concatenate([pair.options, pair.negatives]) for pair in batch]))
        history = np.concatenate([pair.history for pair in batch])
        texts = np.unique(np.concatenate([history, columns]))
        if self._vectors is None:
            # Longest first, so that chunks hold texts of about one length.
            texts = np.array(sorted(texts, key=lambda number: -len(self._batching.texts[number])), np.int64)
        order = np.argsort(texts)
        target, offset = self._right_and_wrong(batch, columns)
        return {
            **self._features(texts),
            "texts_history": torch.from_numpy(order[np.searchsorted(texts, history, sorter=order)]),
            "texts_segment": torch.from_numpy(np.repeat(np.arange(len(batch)), [len(pair.history) for pair in batch])),
            "texts_weight": torch.from_numpy(np.concatenate([pair.weights for pair in batch])),
            "texts_column": torch.from_numpy(order[np.searchsorted(texts, columns, sorter=order)]),
            "texts_target": torch.from_numpy(target),
            "texts_offset": torch.from_numpy(offset),
            "texts_importance": torch.tensor([pair.importance for pair in batch], dtype=torch.float32),
        }

    def _features(self, texts: np.ndarray) -> dict[str, Tensor]:
        import torch

        if self._vectors is not None:
            return {"texts_sentence_embedding": torch.from_numpy(self._vectors[texts])}
        features = self._model.preprocess([self._batching.texts[number] for number in texts])
        return {f"texts_{name}": value for name, value in features.items() if isinstance(value, torch.Tensor)}

    def _right_and_wrong(self, batch: Sequence[_Numbered], columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        targets = self._batching.settings.targets
        target = np.zeros((len(batch), len(columns)), np.float32)
        offset = np.zeros((len(batch), len(columns)), np.float32)
        # Critical personas are there only as somebody's own negatives.
        offset[:, ~np.isin(columns, self._batching.personas)] = -np.inf
        for row, pair in enumerate(batch):
            offset[row, np.isin(columns, self._batching.known[pair.user_id])] = -np.inf
            offset[row, np.searchsorted(columns, pair.negatives)] = 0
            own = np.searchsorted(columns, pair.options)
            best = own[np.argmax(pair.probabilities)]
            if targets == "judge":
                # Two personas of an item may have the same words.
                np.add.at(target[row], own, pair.probabilities)
                offset[row, own] = 0
            elif targets == "any":
                target[row, own] = 1
                offset[row, own] = 0
            else:
                target[row, best] = 1
                if targets == "against_siblings":
                    offset[row, own] = np.log(np.maximum(1 - pair.probabilities, LEAST_WEIGHT))
                offset[row, best] = 0
        return target, offset


@lru_cache(maxsize=1)
def profile_loss_class() -> type:
    """The loss, declared on first use: its base class takes seconds to import."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim
    from torch.nn.functional import log_softmax, normalize
    from torch.utils.checkpoint import checkpoint

    class ProfileRankingLoss(MultipleNegativesRankingLoss):
        """InfoNCE (arXiv 1807.03748) where the query is a profile, sum_l w_l e_l of unit vectors, and the right answer a
        distribution over the columns of the batch.

        With z the cosines over temperature plus the offsets: - sum_j t_j log softmax(z)_j; `marginal`:
        - log sum_j t_j softmax(z)_j. Pairs count by their importance.
        """

        def __init__(self, model: SentenceTransformer, scale: float, marginal: bool = False):
            super().__init__(model, scale=scale, similarity_fct=cos_sim)
            self._marginal = marginal

        def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
            features = dict(next(iter(sentence_features)))
            history, segment, weight = (features.pop(name) for name in ("history", "segment", "weight"))
            column, target, offset = (features.pop(name) for name in ("column", "target", "offset"))
            importance = features.pop("importance")
            vectors = self._embed(features)
            profiles = torch.zeros(len(target), vectors.shape[1], device=vectors.device)
            profiles = profiles.index_add(0, segment, vectors[history] * weight[:, None])
            return (self.losses(profiles, vectors[column], target, offset) * importance).mean()

        def losses(self, profiles: Tensor, personas: Tensor, target: Tensor, offset: Tensor) -> Tensor:
            """The loss of each pair of the batch, (n,)."""
            # At minus infinity a persona takes no part in the softmax and gets no gradient from this profile.
            logs = log_softmax(cos_sim(profiles, personas) * self.scale + offset, dim=1)
            if self._marginal:
                return -torch.logsumexp(logs.masked_fill(target == 0, -torch.inf), dim=1)
            return -(target * logs.masked_fill(target == 0, 0)).sum(dim=1)

        def _embed(self, features: dict[str, Tensor]) -> Tensor:
            if "sentence_embedding" in features:
                return normalize(self.model(features)["sentence_embedding"], dim=1)
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

    return ProfileRankingLoss


def _weights(pair: TrainingPair, settings: EncoderSettings) -> np.ndarray:
    count = min(len(pair.history_texts), settings.training_history)
    days = np.array(pair.history_days[:count]) if pair.history_days else np.zeros(count)
    weights = history_weights(np.array([0, count]), settings.recency_decay, days, settings.half_life_days)
    return (weights / weights.sum()).astype(np.float32)
