"""Ground floor: MLflow. Runs with their parameters, metrics and files, and the registry of trained encoders.

Belongs here: the store, the life of a run, registering an encoder, naming and finding the champion. Does not belong
here: what is logged, and when a challenger becomes champion (`encoder/`, `evaluation/`).

Everything lives under one folder: `mlflow.db` (SQLite) and `artifacts/`. Only the client is used, never MLflow's global
active run or tracking URI, so two stores in one process do not mix. MLflow is imported on first use (about 2 s, and as
much again to create a new store); asking for the champion of a store that does not exist costs nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ENCODER = "persona_encoder"
# Aliases of versions: in use; the newest that was trained; in use before.
CHAMPION, CHALLENGER, FORMER_CHAMPION = "champion", "challenger", "former_champion"
# Tag of a version that was taken out of use by hand: the day. It is never promoted again by itself.
ROLLED_BACK = "rolled_back"
# Tag of a champion: how the candidate order and its own are blended, as JSON (`Blends` of `index/scoring.py`).
BLENDS_TAG = "blends"
# Folder of the registered model, in the run's artifacts, and of the plain SentenceTransformer within it.
_ARTIFACT = "encoder"
_MODEL_FOLDER = "model.sentence_transformer"


class TrackingError(RuntimeError):
    """The registry names something that is not there, or cannot take what it is given."""


@dataclass(frozen=True)
class RegisteredEncoder:
    """A registered encoder. path: folder of a plain SentenceTransformer, to be loaded in place. tags: the version's."""

    version: str
    path: Path
    run_id: str
    fingerprint: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run that is going on; what it logs is stored at once."""

    run_id: str
    _client: MlflowClient

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters by name; values become text, cut at 6,000 characters as MLflow asks."""
        from mlflow.entities import Param

        entities = [Param(name, str(value)[:6000]) for name, value in params.items()]
        self._client.log_batch(self.run_id, params=entities)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Metrics by name; a name may not hold `@` (write `ndcg_at_10`)."""
        for name, value in metrics.items():
            self.log_curve(name, [(step, value)])

    def log_curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        """One metric over steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(name, float(value), now, step) for step, value in points]
        for begin in range(0, len(entities), 1000):  # MLflow's largest batch
            self._client.log_batch(self.run_id, metrics=entities[begin : begin + 1000])

    def log_figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure as the file `name`, such as `loss.png`."""
        self._client.log_figure(self.run_id, figure, name)

    def log_text(self, text: str, name: str) -> None:
        """Text as the file `name`, such as `report.md`."""
        self._client.log_text(self.run_id, text, name)


@dataclass(frozen=True)
class Tracking:
    """The MLflow store in the folder `path`, which is made on first use."""

    path: Path

    @contextmanager
    def run(self, experiment: str, run_name: str, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
        """A run that ends FINISHED, or FAILED when the body raises; the experiment is made when it is new."""
        client = self._client
        started = client.create_run(self._experiment(experiment), run_name=run_name, tags=dict(tags or {}))
        run = Run(started.info.run_id, client)
        try:
            yield run
        except BaseException:
            client.set_terminated(run.run_id, status="FAILED")
            raise
        client.set_terminated(run.run_id, status="FINISHED")

    def delete_files(self, experiment: str, names: Sequence[str]) -> int:
        """Delete the files of these names from every run of an experiment; returns how many. Parameters and metrics stay."""
        if not self._database.exists():
            return 0
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            return 0
        deleted = 0
        for name in names:
            for path in (self.path / "artifacts").glob(f"*/artifacts/{name}"):
                if self._client.get_run(path.parent.parent.name).info.experiment_id == found.experiment_id:
                    path.unlink()
                    deleted += 1
        return deleted

    def register_encoder(
        self, model_dir: Path, run_id: str, fingerprint: str, tags: Mapping[str, str] | None = None
    ) -> str:
        """Store a plain SentenceTransformer folder with a run and register it; returns the new version.

        `mlflow.sentence_transformers.load_model("models:/persona_encoder/VERSION")` then loads it offline. The files
        of the model are copied byte by byte, so its fingerprint stays what it was. Raises TrackingError for a folder
        that holds no such model.
        """
        if not (model_dir / "modules.json").exists():
            raise TrackingError(f"{model_dir} holds no SentenceTransformer (no modules.json).")
        client = self._client
        aside = Path(tempfile.mkdtemp(prefix="register-", dir=self.path))
        try:
            self._save(model_dir, aside / _ARTIFACT)
            client.log_artifacts(run_id, str(aside / _ARTIFACT), _ARTIFACT)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if not client.search_registered_models(f"name = '{ENCODER}'"):
            client.create_registered_model(ENCODER, description="Text encoder of users and personas.")
        source = f"{client.get_run(run_id).info.artifact_uri}/{_ARTIFACT}"
        version = client.create_model_version(
            ENCODER, source, run_id, tags={**(tags or {}), "fingerprint": fingerprint}
        )
        return str(version.version)

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias (`champion`, `challenger`) to a version of the encoder; it leaves its former version."""
        self._client.set_registered_model_alias(ENCODER, alias, version)

    def set_champion(self, version: str) -> None:
        """Put a version of the encoder in use; the one that was is kept as the former champion."""
        before = self.champion()
        if before is not None and before.version != version:
            self.set_alias(FORMER_CHAMPION, before.version)
        self.set_alias(CHAMPION, version)

    def set_tag(self, version: str, name: str, value: str) -> None:
        """Set a tag of a version, such as why it was promoted."""
        self._client.set_model_version_tag(ENCODER, version, name, value)

    def remove_tag(self, version: str, name: str) -> None:
        """Take a tag off a version; nothing happens if it has none."""
        if name in self._client.get_model_version(ENCODER, version).tags:
            self._client.delete_model_version_tag(ENCODER, version, name)

    def versions(self) -> list[RegisteredEncoder]:
        """All registered versions whose files are there, newest first; empty for a store that does not exist."""
        if not self._database.exists():
            return []
        found = self._client.search_model_versions(f"name = '{ENCODER}'", max_results=1000)
        newest_first = sorted(found, key=lambda version: int(version.version), reverse=True)
        return [_info(version) for version in newest_first if _folder(version).is_dir()]

    def champion(self) -> RegisteredEncoder | None:
        """The encoder that is in use; None when none has been registered yet."""
        return self.encoder(CHAMPION)

    def encoder(self, alias: str) -> RegisteredEncoder | None:
        """The encoder that an alias names, None without such an alias. Raises TrackingError if its files are gone."""
        if not self._database.exists():
            return None
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(ENCODER, alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "alias" in str(error):
                return None
            raise
        return _info(found)

    def version_of(self, training_key: str) -> RegisteredEncoder | None:
        """The newest version with this tag `training_key`, that is, made from exactly the same; None without one."""
        return next((found for found in self.versions() if found.tags.get("training_key") == training_key), None)

    @property
    def _database(self) -> Path:
        return self.path / "mlflow.db"

    @cached_property
    def _client(self) -> MlflowClient:
        for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            os.environ.setdefault(variable, "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # Each CREATE TABLE of a new store is a line otherwise.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient

        (self.path / "artifacts").mkdir(parents=True, exist_ok=True)
        store = f"sqlite:///{self._database.absolute()}"
        return MlflowClient(store, store)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = (self.path / "artifacts").absolute().as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    @staticmethod
    def _save(model_dir: Path, target: Path) -> None:
        import mlflow.sentence_transformers
        import sentence_transformers
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        model = sentence_transformers.SentenceTransformer(str(model_dir), local_files_only=True, device="cpu")
        # Stated requirements: inferring them would start a second interpreter.
        requirements = [f"sentence-transformers=={sentence_transformers.__version__}"]
        mlflow.sentence_transformers.save_model(model, str(target), pip_requirements=requirements)
        # MLflow saved the model anew; what was trained is what is registered, to the byte.
        shutil.rmtree(target / _MODEL_FOLDER)
        shutil.copytree(model_dir, target / _MODEL_FOLDER, ignore=shutil.ignore_patterns("onnx", "openvino", ".*"))


def _folder(version: ModelVersion) -> Path:
    return Path(unquote(urlparse(str(version.source)).path)) / _MODEL_FOLDER


def _info(version: ModelVersion) -> RegisteredEncoder:
    folder = _folder(version)
    if not folder.is_dir():
        raise TrackingError(f"The files of {ENCODER} version {version.version} are gone: {folder} does not exist.")
    return RegisteredEncoder(
        version=str(version.version),
        path=folder,
        run_id=str(version.run_id),
        fingerprint=str(version.tags.get("fingerprint", "")),
        tags=dict(version.tags),
    )
