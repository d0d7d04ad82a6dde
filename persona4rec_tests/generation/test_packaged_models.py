"""Where models are found; that the language model is converted whole is shown in `test_vllm.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from persona4rec_pipeline.generation import GenerationError, resolve_embedding_model, resolve_language_model
from persona4rec_pipeline.generation.vllm_engine import VllmEngine
from persona4rec_tests.generation.scripted import settings_in


def test_other_names_are_left_alone(tmp_path):
    assert resolve_language_model(settings_in(tmp_path, model="Qwen/Qwen3-8B")) == "Qwen/Qwen3-8B"
    assert resolve_embedding_model("BAAI/bge-small-en") == "BAAI/bge-small-en"


def test_the_packaged_embedding_model_is_a_folder_of_its_package():
    assert (Path(resolve_embedding_model("all-minilm-l6-v2")) / "modules.json").is_file()


def test_a_converted_model_is_used_as_it_lies(tmp_path):
    (tmp_path / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    found = resolve_language_model(settings_in(tmp_path))
    assert found == str(tmp_path / "models" / "smollm2-135m-instruct")


def test_a_missing_package_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenerationError, match="cpu-llm"):
        resolve_language_model(settings_in(tmp_path))
    with pytest.raises(GenerationError, match="cpu-llm"):
        resolve_embedding_model("all-minilm-l6-v2")


def test_without_vllm_the_engine_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenerationError, match=r"persona4rec\[vllm\].*cpu-llm"):
        VllmEngine(settings_in(tmp_path)).start()
