"""Settings of the encoder, chosen by validation within a budget.

Belongs here: what is varied, the trials, the record of them. Does not belong here: training (`encoder/`), the comparison on
the panel (`evaluation/contest.py`).

Every trial trains an encoder on the pairs that there are and lets it order the candidates of the panel's validation targets.
The search is Optuna's (tree-structured Parzen estimator, seeded), the first trial the settings as they are. Trials are stored
as they finish, under what they were made from: killed, it goes on with the trial it was at, and where data or the settings
that are not varied have changed it begins anew. Nothing that is served is touched.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona4rec_pipeline.encoder.pairs import pairs_fingerprint, read_training_pairs, training_key
from persona4rec_pipeline.encoder.stored import base_encoder
from persona4rec_pipeline.encoder.training import LEARNING_RATES, mined_negatives
from persona4rec_pipeline.encoder.trials import trial_encoder
from persona4rec_pipeline.evaluation.contest import Arena
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.settings import EncoderSettings, Settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import Database, open_warehouse

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

EXPERIMENT = "tuning"
# Peak learning rates that are tried, as multiples of the usual one of the method.
RATES = (0.1, 10.0)
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "recency_decay": (0.5, 0.7, 0.8, 0.9, 1.0),
    "max_history": (3, 5, 10, 20),
    "half_life_days": (None, 30.0, 180.0, 730.0),
    "targets": ("judge", "chosen", "against_siblings", "any"),
    "critical_negatives": (False, True),
    "mined_negatives": (0, 5, 20, 50),
}
TEMPERATURES = (0.02, 0.3)


@dataclass(frozen=True)
class Tried:
    """One finished trial: its settings, and NDCG@10 of each validation user, float64 (users,)."""

    settings: EncoderSettings
    ndcg: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.ndcg.mean())


@dataclass(frozen=True)
class Tuning:
    """current: the settings as they are. trials: all, best first. gain: of the best over the current ones."""

    current: Tried
    trials: Sequence[Tried]
    gain: Estimate

    @property
    def best(self) -> Tried:
        return self.trials[0]

    def changes(self) -> dict[str, Any]:
        """What to set to get the best of them; empty where that is the current one."""
        best, current = self.best.settings.model_dump(), self.current.settings.model_dump()
        return {name: value for name, value in best.items() if value != current[name]}


def tune(
    settings: Settings,
    trials: int,
    minutes: float | None = None,
    methods: Sequence[str] = (),
    on_log: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Try settings of the encoder until there are `trials` of them, or `minutes` are over; those made before count.

    methods: of `encoder.method`, default: the current one. Raises ValueError when there are too few pairs or nobody in the
    panel to compare on.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warehouse = open_warehouse(settings)
    methods = tuple(methods) or (settings.encoder.method,)
    pairs = read_training_pairs(warehouse, settings.encoder, settings.alignment)
    if len(pairs) < 2 or not Arena.read(warehouse, settings).slate.users:
        raise ValueError(
            f"Tuning needs alignment pairs and validation targets; there are {len(pairs)} pairs. Run the pipeline first, with "
            "splits.panel_fraction above 0."
        )
    folder = settings.home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'trials.db'}",
        study_name=_study_name(warehouse, settings, methods, pairs_fingerprint(pairs)),
        sampler=optuna.samplers.TPESampler(seed=settings.encoder.seed),
        direction="maximize",
        load_if_exists=True,
    )
    _take_up_again(study)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_varied(settings.encoder))
    ends = None if minutes is None else time.monotonic() + 60 * minutes

    def try_one(trial: Trial) -> float:
        chosen = settings.encoder.model_copy(update=_suggested(trial, methods))
        began = time.monotonic()
        ndcg = validation_ndcg(warehouse, settings, chosen, on_log)
        trial.set_user_attr("ndcg", ndcg.tolist())
        trial.set_user_attr("settings", chosen.model_dump())
        done = len(_finished(study)) + 1
        on_log(f"trial {done}/{trials}: NDCG@10 {ndcg.mean():.4f} in {time.monotonic() - began:.0f} s")
        return float(ndcg.mean())

    while len(_finished(study)) < trials and (ends is None or time.monotonic() < ends):
        study.optimize(try_one, n_trials=1)
    tried = [_tried(trial) for trial in _finished(study)]
    if not tried:
        raise ValueError("The budget was over before the first trial had finished; give more minutes.")
    first = tried[0]
    ranked = sorted(tried, key=lambda found: -found.mean)
    tuning = Tuning(first, ranked, Estimate.of(ranked[0].ndcg - first.ndcg))
    _log_to_mlflow(settings, study, tuning)
    return tuning


def _take_up_again(study: Study) -> None:
    """Queue what a killed process was at, first; its training then goes on from its checkpoint."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _suggested(trial: Trial, methods: Sequence[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: trial.suggest_categorical(name, values) for name, values in CHOICES.items()}
    chosen["method"] = trial.suggest_categorical("method", tuple(methods))
    chosen["temperature"] = trial.suggest_float("temperature", *TEMPERATURES, log=True)
    rate = trial.suggest_float("rate", *RATES, log=True)
    return chosen | {
        "learning_rate": LEARNING_RATES[chosen["method"]] * rate,
        "training_history": chosen["max_history"],
    }


def _varied(encoder: EncoderSettings) -> dict[str, Any]:
    """The current settings in the terms of the search; a value that the search does not know becomes its nearest."""
    values = encoder.model_dump() | {"mined_negatives": mined_negatives(encoder)}
    rate = (encoder.learning_rate or LEARNING_RATES[encoder.method]) / LEARNING_RATES[encoder.method]

    def nearest(name: str) -> Any:
        known, value = CHOICES[name], values[name]
        if value in known or not isinstance(value, int | float):
            return value if value in known else known[0]
        return min((entry for entry in known if entry is not None), key=lambda entry: abs(entry - value))

    return {
        **{name: nearest(name) for name in CHOICES},
        "method": encoder.method,
        "temperature": float(np.clip(encoder.temperature, *TEMPERATURES)),
        "rate": float(np.clip(rate, *RATES)),
    }


def validation_ndcg(
    warehouse: Database, settings: Settings, chosen: EncoderSettings, on_log: Callable[[str], None]
) -> np.ndarray:
    """NDCG@10 per validation user of an encoder that is trained with these settings."""
    base = base_encoder(warehouse, chosen, on_log)
    pairs = read_training_pairs(warehouse, chosen, settings.alignment)
    scratch = settings.home / "staging" / f"tuning-{training_key(base.fingerprint, pairs, chosen)}"
    arena = Arena.read(warehouse, settings.model_copy(update={"encoder": chosen}))
    with trial_encoder(warehouse, base, pairs, chosen, scratch, on_log) as trained:
        return arena.ndcg(trained)


def _finished(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _tried(trial: FrozenTrial) -> Tried:
    return Tried(EncoderSettings(**trial.user_attrs["settings"]), np.array(trial.user_attrs["ndcg"]))


def _study_name(warehouse: Database, settings: Settings, methods: Sequence[str], pairs: str) -> str:
    """Changes with all that a trial depends on and that is not varied."""
    varied = {*CHOICES, "method", "temperature", "learning_rate", "training_history"}
    tables = ("personas", "item_summaries", "candidates", "splits")
    parts = [
        pairs,
        sorted(methods),
        settings.encoder.model_dump(exclude=varied),
        settings.evaluation.main_generator,
        settings.evaluation.candidates,
        [warehouse.content_version(table) for table in tables],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _log_to_mlflow(settings: Settings, study: Study, tuning: Tuning) -> None:
    with Tracking(settings.mlflow_path).run(EXPERIMENT, f"tuning-{study.study_name[:8]}") as run:
        run.log_params({"trials": len(tuning.trials), **{f"best_{k}": v for k, v in tuning.changes().items()}})
        run.log_curve("ndcg_at_10", [(trial.number, float(trial.value or 0)) for trial in _finished(study)])
        run.log_metrics({"best_ndcg_at_10": tuning.best.mean, "current_ndcg_at_10": tuning.current.mean})
        rows = [tried.settings.model_dump() | {"ndcg_at_10": tried.mean} for tried in tuning.trials]
        run.log_text(json.dumps(rows, indent=2), "trials.json")
