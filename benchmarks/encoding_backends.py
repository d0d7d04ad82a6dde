"""Texts per second of the encoder as it is, and of the same model through OpenVINO and ONNX Runtime, on the CPU.

    pip install openvino                          # one of them is enough; what is missing is left out
    pip install onnxruntime onnx onnxscript
    python -m benchmarks.encoding_backends --model all-minilm-l6-v2

The texts are personas and interactions worded from the bundled reviews, of 20 to 120 tokens before the cut. Every backend
gets the same batches: texts of one length, a batch per core, each on one thread. In a round all of them encode the same
texts in turn, every second round backwards, so that a noisy machine is noisy for each; printed is the median of the ratios
within rounds, with the lowest and the highest. Differences are the largest of a component of unit vectors. Ten rounds of
3,000 texts take some eight minutes on two cores.

The encoder takes bfloat16 where the processor has it, so a peer in float32 is to be compared with torch in float32 as well:
that is what the encoder is on other processors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from persona4rec_pipeline import embedding
from persona4rec_pipeline.embedding import Encoder, fingerprint, load_model, model_folder
from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text

SAMPLE = Path(embedding.__file__).parent / "sample" / "books"
CUT, BATCH = 96, 64
FLOAT32 = "torch, float32"
Forward = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="all-minilm-l6-v2", help="A folder, a hub id or the packaged model.")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # converters talk about everything that they trace

    folder = model_folder(given.model)
    model = load_model(folder, CUT, device="cpu")
    ours = Encoder(model, fingerprint(folder, CUT), BATCH)
    texts = worded_texts(model.tokenizer, given.texts)
    peers: dict[str, Encoder] = {FLOAT32: _InFloat32(model, ours.fingerprint, BATCH)}
    for name, forward in forwards(model):
        peers[name] = _Through(model, ours.fingerprint, BATCH, forward)

    encoders = {"the encoder": ours, **peers}
    vectors = {name: encoder.encode(texts) for name, encoder in encoders.items()}  # and all shapes are warm
    rounds = measured(encoders, model.tokenizer, texts, given.rounds)
    print(f"{len(texts):,} texts, {torch.get_num_threads()} cores, {given.rounds} rounds")
    print(f"{'':22}{'texts/s':>8}{'x encoder':>20}{'x float32':>20}{'apart':>10}{'from float32':>14}{'cosine':>10}")
    for name, rates in rounds.items():
        row = f"{name:22}{statistics.median(rates):8.0f}{ratio(rates, rounds['the encoder']):>20}{ratio(rates, rounds[FLOAT32]):>20}"
        row += f"{apart(vectors[name], vectors['the encoder']):10.1e}{apart(vectors[name], vectors[FLOAT32]):14.1e}"
        print(f"{row}{(vectors[name] * vectors[FLOAT32]).sum(axis=1).min():10.6f}")


def measured(encoders: dict[str, Encoder], tokenizer: Any, texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Texts per second of each encoder, by round. A round takes every fifth length, all texts of it, for full batches."""
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(rounds):
        part = [text for text, length in zip(texts, lengths, strict=True) if length % 5 == turn % 5]
        for name in list(encoders)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            encoders[name].encode(part)
            rates[name].append(len(part) / (time.perf_counter() - began))
    return rates


def ratio(rates: list[float], base: list[float]) -> str:
    found = [mine / theirs for mine, theirs in zip(rates, base, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def apart(found: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(found - other).max())


def worded_texts(tokenizer: Any, count: int) -> list[str]:
    """`count` different texts of 20 to 120 tokens, half of them interactions and half personas, always the same ones."""
    draw = random.Random(7)
    items = _rows("items")
    clauses = sorted(
        {part for row in _rows("reviews") for part in re.split(r"(?<=[.!?])\s+", row["text"]) if len(part) > 15}
    )
    texts: dict[str, None] = {}
    while len(texts) < count:
        item = draw.choice(items)
        said = {slot: draw.choice(clauses) for slot in draw.sample(ASPECT_SLOTS, draw.randint(1, len(ASPECT_SLOTS)))}
        rationale = " ".join(draw.sample(clauses, draw.randint(1, 4)))
        made = (
            interaction_text(item["title"], " ".join(item["description"]), said)
            if len(texts) % 2
            else persona_text(f"The Reader of {item['title']}", draw.choice(clauses), rationale)
        )
        if 20 <= len(tokenizer(made)["input_ids"]) <= 120:
            texts[made] = None
    return list(texts)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / f"{name}.jsonl").read_text().splitlines()]


class _InFloat32(Encoder):
    """The encoder without bfloat16."""

    def encode(self, *given: Any) -> np.ndarray:
        with _replaced(embedding, "fast_precision", lambda device_type: nullcontext()):
            return super().encode(*given)


class _Through(Encoder):
    """The encoder with another program for the forward pass: token ids of one length in, unit vectors out."""

    def __init__(self, model: Any, fingerprint: str, batch_size: int, forward: Forward):
        super().__init__(model, fingerprint, batch_size)
        self._run = forward

    def _forward(self, token_ids: list[list[int]]) -> np.ndarray:
        return self._run(np.asarray(token_ids, dtype=np.int64))


def forwards(model: Any) -> Iterator[tuple[str, Forward]]:
    """Each program that is installed and the forward pass through it."""
    whole = _Whole(model).eval()
    example = torch.randint(1000, 2000, (3, 17))
    if importlib.util.find_spec("openvino"):
        # With this package, which it depends on, OpenVINO reports its import and each conversion to its maker, and does
        # not ask before. Here nobody is told.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        yield from through_openvino(whole, example)
    else:
        print("openvino is not installed: left out")
    if all(map(importlib.util.find_spec, ("onnxruntime", "onnx", "onnxscript"))):
        yield "onnxruntime, float32", through_onnxruntime(whole, example)
    else:
        print("onnxruntime, onnx and onnxscript are not all installed: left out")


class _Whole(torch.nn.Module):
    """All modules of the model, the mask (nothing is padded) and the norm included, as a function of token ids."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        output = self.model({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})
        return torch.nn.functional.normalize(output["sentence_embedding"].float(), dim=1)


def through_openvino(whole: torch.nn.Module, example: torch.Tensor) -> Iterator[tuple[str, Forward]]:
    import openvino

    began = time.perf_counter()
    with torch.no_grad():
        converted = openvino.convert_model(whole, example_input=(example,))
    print(f"openvino {openvino.__version__}: converted in {time.perf_counter() - began:.1f} s")
    cores = torch.get_num_threads()
    native = isinstance(embedding.fast_precision("cpu"), torch.autocast)
    for precision, hint in {"float32": "f32", **({"bfloat16": "bf16"} if native else {})}.items():
        streams = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": hint}
        compiled = openvino.Core().compile_model(converted, "CPU", streams)
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(cores):
            idle.put(compiled.create_infer_request())

        def forward(ids: np.ndarray, idle: SimpleQueue[Any] = idle) -> np.ndarray:
            request = idle.get()
            try:
                return request.infer([ids])[0].copy()  # the next text overwrites what it returns
            finally:
                idle.put(request)

        yield f"openvino, {precision}", forward


def through_onnxruntime(whole: torch.nn.Module, example: torch.Tensor) -> Forward:
    import onnxruntime

    began = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    shape = {"input_ids": {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=512)}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            whole, (example,), file, input_names=["input_ids"], dynamic_shapes=shape, external_data=False, verbose=False
        )
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    print(f"onnxruntime {onnxruntime.__version__}: converted in {time.perf_counter() - began:.1f} s")
    return lambda ids: session.run(None, {"input_ids": ids})[0]


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


if __name__ == "__main__":
    main()
