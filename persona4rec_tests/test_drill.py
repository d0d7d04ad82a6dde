"""The drill of scripts/drill.py at its smallest, with the real daemon and webserver and without a language model."""

import subprocess
import sys
from pathlib import Path


def test_arrival_and_nights_under_the_real_daemon(tmp_path):
    call = [sys.executable, "-m", "scripts.drill", "--home", str(tmp_path), "--engine", "extractive", "--items", "3"]
    project = Path(__file__).parent.parent
    result = subprocess.run(call, cwd=project, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("ok  ") == 11 and "FAILED" not in result.stdout
