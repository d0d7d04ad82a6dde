"""The packaged model, converted once per session, or taken from PERSONA4REC_TEST_MODELS (a folder of models)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home_with_model(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    if given := os.environ.get("PERSONA4REC_TEST_MODELS"):
        (home / "models").symlink_to(Path(given).absolute())
    return home
