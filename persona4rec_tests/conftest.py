"""What all tests share: no network, no usage reports, and one converted copy of the packaged model per session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; each taking all of them for itself is slower for all.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Converted models that are there already; no setting, and so nothing that `load_settings` may meet.
_MODELS = os.environ.pop("PERSONA4REC_TEST_MODELS", None)
# A developer's own settings must not decide whether tests pass; a test that needs one sets it.
for _variable in [name for name in os.environ if name.startswith("PERSONA4REC_")]:
    del os.environ[_variable]


@pytest.fixture(scope="session")
def home_with_model(tmp_path_factory) -> Path:
    """A state directory that holds the packaged model, converted once, or a folder given by PERSONA4REC_TEST_MODELS."""
    home = tmp_path_factory.mktemp("home")
    if _MODELS:
        (home / "models").symlink_to(Path(_MODELS).absolute())
    else:
        # Whoever needs the model first converts it here, whichever tests run.
        (home / "models").mkdir()
    return home
