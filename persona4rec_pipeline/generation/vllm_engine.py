"""Offline batches with vLLM, in a process of its own that lives exactly as long as it is wanted.

Belongs here: starting, feeding, watching and stopping that process. Does not belong here: anything that imports vLLM
(that is `vllm_process.py`, the other end of the pipe).

Why not `vllm.LLM` in this process: it starts children itself, and when their parent is killed they live on, holding
gigabytes (seen with kill -9: EngineCore and Worker stayed). Ours notices the closed pipe and takes its whole process
group with it. It also keeps vLLM's environment variables, its output and its need for a guarded `__main__` out of the
caller, and all memory is surely freed on close.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from persona4rec_pipeline.generation.engine import Answer, Prompt
from persona4rec_pipeline.generation.packaged_models import resolve_language_model
from persona4rec_pipeline.generation.records import GenerationError
from persona4rec_pipeline.generation.tokenizers import ModelTokenizer
from persona4rec_pipeline.settings import Settings

# How long the process may take to shut down in order before its group is killed, in seconds.
CLOSE_WITHIN_S = 20.0
# Lines of the process's output kept for the message when it dies.
REMEMBERED_LINES = 20

logger = logging.getLogger(__name__)


class VllmEngine:
    """The model of `settings.generation`, run by vLLM on this machine's GPUs, or on its CPU where vLLM is built so."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._tokenizer: ModelTokenizer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._listener: threading.Thread | None = None

    @property
    def tokenizer(self) -> ModelTokenizer:
        if self._tokenizer is None:
            self._tokenizer = ModelTokenizer(resolve_language_model(self._settings))
        return self._tokenizer

    def start(self) -> None:
        if self._process is not None:
            return
        if importlib.util.find_spec("vllm") is None:
            raise GenerationError(
                "generation.engine is `vllm`, which is not installed: pip install 'persona4rec[vllm]' on a machine with "
                "a GPU, 'persona4rec[cpu-llm]' on one without."
            )
        generation = self._settings.generation
        model = resolve_language_model(self._settings)
        self._output.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "persona4rec_pipeline.generation.vllm_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(model),
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        logger.info("Starting vLLM with %s.", model)
        try:
            self._send(
                {
                    "model": model,
                    "context_length": generation.context_length,
                    "max_concurrent_sequences": generation.max_concurrent_sequences,
                    "gpu_memory_utilization": generation.gpu_memory_utilization,
                    "kv_cache_gib": generation.kv_cache_gib,
                    "tensor_parallel_size": generation.tensor_parallel_size,
                }
            )
            self._receive()
        except BaseException:
            self._kill()
            raise

    def answer(self, prompts: Sequence[Prompt], on_answer: Callable[[int], None]) -> list[Answer]:
        self.start()
        try:
            self._send(
                [
                    {
                        "tokens": self.tokenizer.prompt_ids(prompt.messages),
                        "schema": prompt.schema,
                        "choices": prompt.choices,
                        "max_tokens": prompt.max_tokens,
                        "temperature": prompt.temperature,
                        "seed": prompt.seed,
                    }
                    for prompt in prompts
                ]
            )
            while isinstance(received := self._receive(), int):
                on_answer(received)
        except BaseException:
            # What is still on its way through the pipe would be taken for the answer to the next batch.
            self._kill()
            raise
        return [Answer(**answer) for answer in received]

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=CLOSE_WITHIN_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            logger.warning("vLLM did not shut down within %.0f s and is killed.", CLOSE_WITHIN_S)
        finally:
            self._kill()

    def _environment(self, model: str) -> dict[str, str]:
        environment = dict(os.environ)
        generation = self._settings.generation
        threads = generation.cpu_threads or len(os.sched_getaffinity(0))
        if generation.cpu_threads or "OMP_NUM_THREADS" not in environment:
            environment["OMP_NUM_THREADS"] = str(threads)
        defaults = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "PYTHONUNBUFFERED": "1",
            # Threads that spin while they wait make a machine with other work on it five times slower (measured).
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if Path(model).is_dir():
            defaults["HF_HUB_OFFLINE"] = "1"
        for name, value in defaults.items():
            environment.setdefault(name, value)
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(generation.kv_cache_gib)
        # So that the process finds this package from wherever it was found here.
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        return environment

    def _send(self, message: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def _receive(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        return json.loads(line)

    def _death(self) -> GenerationError:
        assert self._process is not None and self._listener is not None
        try:
            code = self._process.wait(timeout=CLOSE_WITHIN_S)
            how = f"was killed by signal {-code} (9: perhaps for memory)" if code < 0 else f"ended with status {code}"
        except subprocess.TimeoutExpired:
            how = "closed its pipe"
        self._listener.join(timeout=1)
        return GenerationError("\n".join([f"The vLLM process {how}. It last said:", *self._output]))

    def _kill(self) -> None:
        """End the process group, whatever is left of it."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._listener is not None:
            self._listener.join(timeout=1)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """vLLM says much that nobody needs: all of it goes to the debug log, errors higher, the end is remembered."""
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self._output.append(line)
            is_error = " ERROR " in line or " CRITICAL " in line
            logger.log(logging.ERROR if is_error else logging.DEBUG, "vLLM: %s", line)
