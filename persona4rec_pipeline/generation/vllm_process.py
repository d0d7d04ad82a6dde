"""The process in which vLLM runs: a model description in, then batches of prompts in and answers out, one JSON a line.

Belongs here: everything that imports vLLM, and dying in time. Does not belong here: starting this process
(`vllm_engine.py`). It ends when its standard input closes or its parent is gone, and with it every process that vLLM
started: in order when idle, at once when at work.

Lines in: first `{"model", "context_length", "max_concurrent_sequences", "gpu_memory_utilization", "kv_cache_gib",
"tensor_parallel_size"}`; then per batch a list of `{"tokens", "schema", "choices", "max_tokens", "temperature",
"seed"}`.
Lines out: `"ready"`; then per batch, numbers of answers as they finish, and at last the list of all answers.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from persona4rec_pipeline.generation.engine import (
    choice_begun_by,
    choice_probabilities,
    prefixes,
    told_apart_by_first_character,
)

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

# Most candidates for a first token that are asked for; choices with more beginnings lose the unlikely ones.
MAX_LOGPROBS = 128
# How long an orderly end may take, in seconds, before the process group is killed.
END_WITHIN_S = 10.0
# Between two looks for the parent, in seconds.
LOOK_EVERY_S = 1.0


def main() -> None:
    # vLLM and its libraries print to standard output: the pipe gets a number of its own, and their words go to stderr.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str | None] = queue.Queue()
    idle = threading.Event()
    threading.Thread(target=_read, args=(lines, idle), daemon=True).start()
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()

    first = lines.get()
    if first is None:
        return
    model = load(json.loads(first))
    _write(out, "ready")
    while True:
        idle.set()
        line = lines.get()
        if line is None:
            break
        idle.clear()
        _write(out, answer(model, json.loads(line), lambda n: _write(out, n)))
    model.llm_engine.engine_core.shutdown()


def load(description: dict[str, Any]) -> LLM:
    """The model, on the device that this build of vLLM is for."""
    from vllm import LLM
    from vllm.platforms import current_platform

    options: dict[str, Any] = {
        "model": description["model"],
        "max_model_len": description["context_length"],
        "max_num_seqs": description["max_concurrent_sequences"],
        "enable_prefix_caching": True,
        # Small models would spend all their tokens on line breaks between JSON tokens.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "max_logprobs": MAX_LOGPROBS,
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        # One process instead of three: half the start time, and nothing to leave behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        options |= {
            "dtype": "bfloat16",
            "enforce_eager": True,
            # Prompts share a few hundred tokens at most; blocks of the default 128 would cache little of that.
            "block_size": 32,
            "kv_cache_memory_bytes": description["kv_cache_gib"] * 2**30,
            # A seeded request whose prompt is prefilled in chunks ends vLLM 0.32 on CPU ("CPU Generator does not use
            # offset"), so prompts are prefilled whole.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(description["context_length"], 4096),
        }
    else:
        options |= {
            "gpu_memory_utilization": description["gpu_memory_utilization"],
            "tensor_parallel_size": description["tensor_parallel_size"],
        }
    return LLM(**options)


def answer(model: LLM, prompts: Sequence[dict[str, Any]], on_answer: Callable[[int], None]) -> list[dict[str, Any]]:
    """The fields of one `Answer` per prompt."""
    from vllm import TokensPrompt

    outputs = model.generate(
        [TokensPrompt(prompt_token_ids=prompt["tokens"]) for prompt in prompts],
        [_sampling(prompt) for prompt in prompts],
        use_tqdm=lambda *arguments, **_: _Counter(on_answer, *arguments),
    )
    return [_read_output(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]


def _sampling(prompt: dict[str, Any]) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    options: dict[str, Any] = {
        "temperature": prompt["temperature"],
        "seed": prompt["seed"],
        "max_tokens": prompt["max_tokens"],
    }
    if prompt["schema"] is not None:
        options["structured_outputs"] = StructuredOutputsParams(json=prompt["schema"])
    elif prompt["choices"] is not None:
        options["structured_outputs"] = StructuredOutputsParams(choice=prompt["choices"])
        if told_apart_by_first_character(prompt["choices"]):
            # The first token decides; its probabilities come after the grammar's mask, so they are the choices' own.
            options |= {"max_tokens": 1, "logprobs": min(len(prefixes(prompt["choices"])), MAX_LOGPROBS)}
    return SamplingParams(**options)


def _read_output(prompt: dict[str, Any], output: RequestOutput) -> dict[str, Any]:
    completion = output.outputs[0]
    text = completion.text
    probabilities = None
    if prompt["choices"] is not None and completion.logprobs:
        candidates = completion.logprobs[0].values()
        probabilities = choice_probabilities(
            prompt["choices"], [(candidate.decoded_token or "", candidate.logprob) for candidate in candidates]
        )
        text = choice_begun_by(prompt["choices"], text)
    return {
        "text": text,
        "finished": completion.finish_reason == "stop",
        "prompt_tokens": len(output.prompt_token_ids or ()),
        "completion_tokens": len(completion.token_ids),
        "probabilities": probabilities,
    }


class _Counter:
    """What vLLM takes for a progress bar."""

    def __init__(self, on_answer: Callable[[int], None], over: Iterable[Any] = ()):
        self._on_answer = on_answer
        self._over = over
        self.n = 0
        self.postfix = ""
        self.format_dict = {"elapsed": 1.0}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._over)

    def update(self, n: int = 1) -> None:
        self.n += n
        self._on_answer(n)

    def refresh(self) -> None: ...

    def close(self) -> None: ...


def _read(lines: queue.Queue[str | None], idle: threading.Event) -> None:
    """Pass lines on; when they end, see to it that this process does too."""
    for line in sys.stdin:
        lines.put(line)
    if not idle.is_set():
        _kill_group()
    lines.put(None)
    # A timer thread is a daemon: it kills only if the process is still there.
    timer = threading.Timer(END_WITHIN_S, _kill_group)
    timer.daemon = True
    timer.start()


def _watch(parent: int) -> None:
    """The pipe stays open if the parent forked and its other child lives on; its own death shows here."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    _kill_group()


def _kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


def _write(out: TextIO, message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
