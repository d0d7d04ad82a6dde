"""Real trainings in two processes: one model comes of them, and none of them outlives who asked for it."""

import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from persona4rec_pipeline.embedding import Encoder, EncoderError, model_folder
from persona4rec_pipeline.encoder.training import train_encoder
from persona4rec_tests.encoder.builders import BASE, settings, training_pairs

PAIRS, EPOCHS = 48, 4
# 48 pairs by two processes with batches of 8.
STEPS = 3 * EPOCHS
SCRIPT = """
import sys
from pathlib import Path
from persona4rec_tests.encoder.test_together import *
train_encoder(model_folder(BASE), training_pairs(PAIRS), chosen(sys.argv[1]), Path(sys.argv[1]) / "out")
"""


def chosen(home, **changes):
    options = {"method": "lora", "epochs": EPOCHS, "learning_rate": 3e-3, "processes": 2, "mined_negatives": 2}
    return settings(home, **(options | changes)).encoder


def working_on(folder):
    """Processes that train in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(folder) in words and "persona4rec_pipeline.encoder.together" in words:
            found.append(process)
    return found


def test_killed_it_takes_its_processes_along_and_goes_on_when_asked_again_to_one_plain_model(tmp_path):
    folder = tmp_path / "out"
    asking = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert asking.poll() is None and time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.1)
    assert working_on(folder)
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    while working_on(folder):
        assert time.monotonic() < until, "a process outlives the one that asked for it"
        time.sleep(0.1)

    lines = []
    result = train_encoder(model_folder(BASE), training_pairs(PAIRS), chosen(tmp_path), folder, lines.append)
    assert 0 < result.resumed_at < STEPS and result.pairs == PAIRS
    assert lines[0] == (
        f"training (lora) on {PAIRS} pairs, 0 held out, at most {STEPS} steps of up to 16 pairs, going on after step "
        f"{result.resumed_at}"
    )
    assert len([line for line in lines if "trained in" in line]) == 1, "one of them speaks"
    losses = [loss for _, loss in result.losses]
    assert [step for step, _ in result.losses] == list(range(1, STEPS + 1))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert [entry.name for entry in folder.iterdir()] == ["model"] and not working_on(folder)
    assert Encoder.load(result.path, 32).fingerprint == result.fingerprint != Encoder.load(BASE, 32).fingerprint


def test_what_stops_the_processes_is_told(tmp_path):
    (tmp_path / "no-model").mkdir()
    with pytest.raises(EncoderError, match=r"in 2 processes failed: \w+Error: .*no-model"):
        train_encoder(
            tmp_path / "no-model", training_pairs(PAIRS), chosen(tmp_path, mined_negatives=0), tmp_path / "out"
        )


def test_too_few_pairs_for_the_processes_are_refused_before_any_is_started(tmp_path):
    with pytest.raises(ValueError, match=r"7 pairs are too few for 4 processes; lower encoder\.processes"):
        train_encoder(model_folder(BASE), training_pairs(7), chosen(tmp_path, processes=4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
