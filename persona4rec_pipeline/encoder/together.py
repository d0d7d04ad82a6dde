"""One training in several processes, one per GPU: started by torchrun, kept in step by accelerate.

Belongs here: starting the processes, what they are given and hand back, their end with that of the process that asked.
Does not belong here: the training itself (`training.py`), which runs in each of them as it does alone.

Each process takes batches of its own, of `encoder.batch_size` pairs, whose personas are wrong for each other; gradients are
averaged over all processes, so that a step sees `encoder.processes` times as many pairs.

    <output_dir>/together.json       base model, settings, pairs
    <output_dir>/together.npy        vectors of the base model, float32 (texts of the pairs, d), where negatives are mined
    <output_dir>/result.json         of the first process: the result, or the error
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from persona4rec_pipeline.embedding import EncoderError
from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.settings import EncoderSettings

if TYPE_CHECKING:
    from persona4rec_pipeline.encoder.training import TrainingResult

# What is not said by the training itself is kept for the case that it fails: that many lines.
KEPT_LINES = 30
# How long an orderly end may take, and between two looks for the parent, in seconds.
END_WITHIN_S, LOOK_EVERY_S = 10.0, 1.0
_INPUT, _VECTORS, _RESULT = "together.json", "together.npy", "result.json"
_SAID = "persona4rec: "


def train_together(
    base_model_path: Path,
    pairs: Sequence[TrainingPair],
    settings: EncoderSettings,
    output_dir: Path,
    on_log: Callable[[str], None],
    vectors: np.ndarray | None,
) -> TrainingResult:
    """`train_encoder` in `settings.processes` processes; returns when they have ended.

    vectors: float32 (texts, d) of the base model, needed where negatives are mined. Killed, it takes its processes along,
    and goes on from the last checkpoint when called again. Raises EncoderError, with the last lines of the processes, when
    they fail, and for more processes than GPUs where there are GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < settings.processes:
        raise EncoderError(f"encoder.processes is {settings.processes}, and there are {gpus} GPUs; lower it.")
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / _RESULT).unlink(missing_ok=True)
    given = {
        "base": str(base_model_path),
        "settings": settings.model_dump(),
        "pairs": [asdict(pair) for pair in pairs],
    }
    (output_dir / _INPUT).write_text(json.dumps(given), encoding="utf-8")
    if vectors is not None:
        np.save(output_dir / _VECTORS, vectors, allow_pickle=False)
    environment = dict(os.environ)
    if not gpus:
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // settings.processes)))
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(output_dir), str(settings.processes)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    other: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_SAID):
                on_log(line.removeprefix(_SAID).rstrip())
            else:
                other.append(line.rstrip())
        process.wait()
    finally:
        _end(process)
    result = output_dir / _RESULT
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    if process.returncode or not found:
        told = found.get("error") or "\n".join(other)
        raise EncoderError(f"The training in {settings.processes} processes failed: {told}")
    for name in (_INPUT, _VECTORS, _RESULT):
        (output_dir / name).unlink(missing_ok=True)
    from persona4rec_pipeline.encoder.training import TrainingResult

    curves = {name: [(int(step), loss) for step, loss in found.pop(name)] for name in ("losses", "validation_losses")}
    return TrainingResult(**{**found, **curves, "path": output_dir / "model"})


def delete_left_texts(folder: Path) -> None:
    """Delete the trainings below a folder that were killed, for the texts that they hold; such a training begins anew."""
    for given in list(folder.rglob(_INPUT)):
        shutil.rmtree(given.parent)


def _end(process: subprocess.Popen[str]) -> None:
    """The launcher ends its processes when it is asked to, and they end by themselves when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _launch(folder: str, processes: str) -> None:
    from torch.distributed import run

    run.main(["--standalone", "--nproc-per-node", processes, "-m", __spec__.name, folder, processes])


def _work(folder: Path) -> None:
    """What each process does; the first one tells, and hands back."""
    import torch
    from accelerate import PartialState

    from persona4rec_pipeline.encoder.training import train_here

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    is_first = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    given = json.loads((folder / _INPUT).read_text(encoding="utf-8"))
    pairs = [TrainingPair(**{name: _tuple(value) for name, value in pair.items()}) for pair in given["pairs"]]
    vectors = np.load(folder / _VECTORS, allow_pickle=False) if (folder / _VECTORS).exists() else None
    settings = EncoderSettings(**given["settings"])

    def say(line: str) -> None:
        if is_first:
            print(f"{_SAID}{line}", flush=True)

    def hand_back(result: dict[str, Any]) -> None:
        if is_first:
            (folder / _RESULT).write_text(json.dumps(result), encoding="utf-8")

    def failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        hand_back({"error": str(error) if kind is EncoderError else f"{kind.__name__}: {error}"})
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = failed
    result = asdict(train_here(Path(given["base"]), pairs, settings, folder, say, vectors))
    result.pop("path")
    hand_back(result)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _watch(parent: int) -> None:
    """A process whose parent was killed has nobody left to work for."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    if "LOCAL_RANK" in os.environ:
        _work(Path(sys.argv[1]))
    else:
        _launch(*sys.argv[1:])
