"""One typed tree of settings: `persona4rec.toml`, overridden by the environment.

Belongs here: every value that a user may change, with its unit, its default and why. Does not belong here: anything
about one catalogue (that is stored with the catalogue in the warehouse) and any logic of a stage.

Precedence, strongest first: environment (`PERSONA4REC_GENERATION__ENGINE=extractive`), one TOML file
(`PERSONA4REC_CONFIG`, else `./persona4rec.toml`, else `persona4rec.toml` in the state directory), the defaults below.
A list in the environment is a JSON array or values separated by commas.
An unknown key is an error in both places: a misspelt setting that is silently ignored costs a night of generation.
"""

from __future__ import annotations

import json
import os
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

ENVIRONMENT_PREFIX = "PERSONA4REC_"
NESTING = "__"
FILE_NAME = "persona4rec.toml"
# Variables with our prefix that are not settings themselves.
RESERVED_VARIABLES = {"PERSONA4REC_CONFIG"}


class SettingsError(ValueError):
    """A setting is unknown or has a bad value; the message names it and says how to mend it."""


def _split_text(value: Any) -> Any:
    """A list that came as text, as from the environment: a JSON array, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


T = TypeVar("T")
ListSetting = Annotated[list[T], BeforeValidator(_split_text)]


class Group(BaseModel):
    """A group of settings; refuses unknown keys and cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReviewSettings(Group):
    """How source rows become items and reviews."""

    positive_rating: float = Field(
        4.0, description="Rating (on the source's own scale) from which a review is positive."
    )
    missing_rating_is_positive: bool = Field(
        True, description="Whether a review without rating and without a like counts as positive (implicit feedback)."
    )
    rating_min: float = Field(0.0, description="Lowest rating that is accepted; rows below are rejected.")
    rating_max: float = Field(5.0, description="Highest rating that is accepted; rows above are rejected.")
    max_reject_fraction: float = Field(
        0.05, ge=0, le=1, description="Fraction of unusable rows (0-1) above which an ingest fails and changes nothing."
    )


class IncomingSettings(Group):
    """The watched location in which catalogues arrive, a folder each."""

    watched: bool = Field(
        True, description="Whether the sensor is on at first; its switch in the Dagster UI wins afterwards."
    )
    location: str | None = Field(
        None, description="Path or fsspec URL (s3://..., gs://..., sftp://...) that is watched; none: <home>/incoming."
    )
    settle_s: float = Field(
        30.0, ge=0, description="Time in seconds for which a folder must stay the same before it counts as complete."
    )
    success_marker: str | None = Field(
        None, description="Name of a file, such as _SUCCESS, without which a folder does not count as complete."
    )
    check_every_s: int = Field(30, ge=5, description="Time between two looks at the location, in seconds.")


class ScheduleSettings(Group):
    """When the schedules run."""

    running: bool = Field(
        True, description="Whether the schedules are on at first; their switches in the Dagster UI win afterwards."
    )
    nightly: str = Field("0 2 * * *", description="Cron expression of the nightly persona refresh.")
    weekly: str = Field("0 4 * * 0", description="Cron expression of the weekly encoder training.")
    inventory: str = Field("0 7 * * *", description="Cron expression of the daily inventory of the catalogues.")
    timezone: str = Field("UTC", description="Time zone of all of them, such as Europe/Berlin.")
    late_after_h: float = Field(
        26.0,
        gt=0,
        description="Hours after which the index or a catalogue counts as late when no refresh has looked at it.",
    )


class SplitSettings(Group):
    """Which interactions are held out from everything that describes an item, a user or a popularity."""

    protocol: Literal["last_positive", "temporal"] = Field(
        "last_positive",
        description="last_positive: the last two liked items of each panel user are held out; temporal: everything from "
        "`as_of` on, of everybody. For a backtest; in production the latter would serve an old state.",
    )
    as_of: datetime | None = Field(
        None, description="Moment (UTC) from which `temporal` holds out the test; none: the last tenth of interactions."
    )
    valid_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the interactions before `as_of`, the last ones, that are for validation."
    )
    panel_fraction: float = Field(
        0.2, ge=0, le=1, description="Fraction (0-1) of users, chosen by hash, whose last interactions are held out."
    )
    min_interactions: int = Field(
        3, ge=3, description="Interactions a panel user must have, so that history, validation and test are all there."
    )


class GenerationSettings(Group):
    """The language model and how it is asked."""

    engine: Literal["vllm", "openai", "extractive"] = Field(
        "vllm", description="vllm: in-process batch; openai: any compatible endpoint; extractive: no model at all."
    )
    model: str = Field(
        "smollm2-135m-instruct",
        description="Hugging Face id, local path, or `smollm2-135m-instruct` for the packaged model.",
    )
    prompt_profile: Literal["auto", "compact", "full"] = Field(
        "auto",
        description="compact: few-shot prompts and short fields, for models up to about 1B; full: the paper's prompts. "
        "auto: compact for the packaged model, full for any other.",
    )
    context_length: int = Field(2048, ge=512, description="Longest prompt plus answer, in tokens.")
    max_concurrent_sequences: int = Field(64, ge=1, description="Requests that vLLM decodes at the same time.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Fraction of GPU memory vLLM may take.")
    kv_cache_gib: int = Field(2, ge=1, description="Memory for the KV cache on CPU, in GiB.")
    cpu_threads: int = Field(0, ge=0, description="Threads that vLLM uses on CPU; 0: all cores.")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs over which one model is split.")
    retry_temperature: float = Field(
        0.6, gt=0, le=2, description="Sampling temperature of a retry; the first try is greedy (temperature 0)."
    )
    max_retries: int = Field(1, ge=0, description="Further tries, each with another seed, for an unusable answer.")
    max_tokens_per_run: int | None = Field(
        None, ge=1, description="Tokens, prompts and answers together, after which a run stops cleanly; none: no limit."
    )
    prompt_price: float = Field(0.0, ge=0, description="Price of a million prompt tokens, for estimates.")
    completion_price: float = Field(0.0, ge=0, description="Price of a million generated tokens, for estimates.")
    checkpoint_every: int = Field(
        64,
        ge=1,
        description="Requests per chunk; a chunk is committed to the ledger at once, so a crash repeats at most one.",
    )


class OpenAISettings(Group):
    """An OpenAI-compatible endpoint, read when `generation.engine` is `openai`."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Address of the endpoint, with its /v1.")
    api_key_variable: str = Field("OPENAI_API_KEY", description="Name of the environment variable that holds the key.")
    concurrency: int = Field(16, ge=1, description="Requests in flight at the same time.")
    timeout_s: float = Field(120.0, gt=0, description="Time limit of one request, in seconds.")
    max_attempts: int = Field(5, ge=1, description="Tries of one request on 429, 5xx and broken connections.")
    max_wait_s: float = Field(30.0, gt=0, description="Longest pause between two tries, in seconds.")


class PersonaSettings(Group):
    """Persona construction."""

    domain: str = Field(
        "book", description="Domain words in prompts and names: book, movie, restaurant, hotel, product, game."
    )
    max_personas: int = Field(7, ge=1, le=7, description="Most personas per item.")
    max_null_fraction: float = Field(
        0.75, ge=0, le=1, description="An aspect tuple with a larger fraction of empty slots is no persona evidence."
    )
    language: str = Field(
        "en",
        pattern="^[a-z]{2}$",
        description="Language in which a model writes personas, as its ISO 639-1 code. The rules write English.",
    )
    encoder_languages: ListSetting[str] = Field(
        ["en"],
        description="Languages that `embedding_model` reads; reviews in others are quoted, but not matched with tastes. "
        "Empty: all of them, for a multilingual model.",
    )
    duplicate_similarity: float = Field(
        0.8, gt=0, le=1, description="Cosine similarity from which two personas of an item say the same and are one."
    )
    same_similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Cosine similarity from which a persona means the same as a former one, and keeps its id.",
    )
    min_support: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of what is said of other items that a persona's evidence must fit it better than, on average. "
        "Higher is stricter: on the sample of books 0.6 costs 13 points of recall for 3 points of precision.",
    )
    near_tie: float = Field(
        0.35,
        ge=0,
        description="Difference of two tastes, in nats per sentence of a group, within which a small model is asked.",
    )
    max_evidence_sentences: int = Field(
        120,
        ge=7,
        description="Sentences per item that are grouped; of larger items a sample, in which the rarer verdict keeps a place.",
    )
    embedding_model: str = Field(
        "all-minilm-l6-v2",
        description="Sentence-transformers id, local path, or `all-minilm-l6-v2` for the packaged model.",
    )


class AlignmentSettings(Group):
    """Which persona explains a past choice, and how many such pairs are made."""

    max_pairs_per_user: int = Field(
        5, ge=1, description="Most recent positive interactions per user that become pairs."
    )
    max_history: int = Field(5, ge=1, description="Most recent earlier interactions that the judge reads.")
    option_orders: int = Field(
        2,
        ge=1,
        le=2,
        description="Orders in which a language model is shown the options: 2 asks twice, the second time reversed, and "
        "averages, because a model favours a place.",
    )
    max_entropy: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Entropy over its highest value (1 is flat) up to which a model's verdict is taken; a flatter one is left "
        "to similarity.",
    )
    flat_pairs: Literal["keep", "weigh", "drop"] = Field(
        "keep",
        description="Pairs whose judge was unsure. keep: they train as the others do; weigh: they count for 1 less their "
        "entropy; drop: from `flat_entropy` on they do not train.",
    )
    flat_entropy: float = Field(
        0.9, gt=0, le=1, description="Entropy over its highest value (1 is flat) from which `drop` leaves a pair out."
    )


class EncoderSettings(Group):
    """The encoder of users and personas, and its training."""

    base_model: str = Field(
        "all-minilm-l6-v2",
        description="Sentence-transformers id, local path, or `all-minilm-l6-v2` for the packaged model.",
    )
    max_seq_length: int = Field(96, ge=16, description="Tokens after which a text is cut.")
    max_history: int = Field(10, ge=1, description="L: most recent interactions in a user profile.")
    recency_decay: float = Field(
        0.9, gt=0, le=1, description="g: weight of an interaction relative to the next newer one."
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        description="Days by which an interaction must be older than the newest one to count half; none: age counts by "
        "`recency_decay` alone.",
    )
    method: Literal["head", "lora", "full"] = Field(
        "head",
        description="head: a linear map behind the base model, minutes on a CPU; lora: low-rank updates of it; full: all "
        "weights. The last two want a GPU.",
    )
    targets: Literal["judge", "chosen", "against_siblings", "any"] = Field(
        "judge",
        description="Which personas of a chosen item are right. judge: each as far as the judge says; chosen: the judge's "
        "choice; against_siblings: it, and the item's others are wrong; any: whichever fits best.",
    )
    critical_negatives: bool = Field(
        False, description="Whether an item's critical personas are wrong for who chose it."
    )
    mined_negatives: int | None = Field(
        None,
        ge=0,
        description="Personas of unknown items, most similar first, that are added as wrong for each pair; none: 20 for "
        "head, 0 for lora and full, which would encode each of them in every batch.",
    )
    temperature: float = Field(0.05, gt=0, description="Temperature of InfoNCE.")
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of AdamW; none: 1e-3 for head, 2e-4 for lora, 2e-5 for full."
    )
    epochs: int = Field(20, ge=1, description="Most passes over the alignment pairs.")
    patience: int = Field(2, ge=1, description="Passes without a lower validation loss after which training stops.")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="Fraction (0-1) of users whose pairs tell when to stop and are not trained on."
    )
    batch_size: int = Field(128, ge=2, description="Alignment pairs per batch; their items are wrong for each other.")
    processes: int = Field(
        1,
        ge=1,
        description="Processes that train `lora` and `full` together, one per GPU, each with batches of its own. `head` "
        "needs one.",
    )
    max_training_pairs: int = Field(100_000, ge=2, description="Most recent alignment pairs used for training.")
    training_history: int = Field(10, ge=1, description="Most recent interactions of a profile while training.")
    lora_rank: int = Field(16, ge=1, description="Rank of the updates of `lora`.")
    lora_alpha: int = Field(32, gt=0, description="Scale of the updates of `lora`, over their rank.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the updates of `lora`.")
    encode_batch_size: int = Field(64, ge=1, description="Texts per forward pass when encoding.")
    seed: int = Field(7, ge=0, description="Seed of sampling and initialisation.")


class IndexSettings(Group):
    """The published persona index."""

    keep_generations: int = Field(
        5, ge=2, description="Index generations kept on disk for rollback, the current one included."
    )


class EvaluationSettings(Group):
    """Candidates and metrics of the held-out panel."""

    generators: ListSetting[Literal["popularity", "item_knn", "als", "bpr", "ease"]] = Field(
        ["popularity", "item_knn", "als", "bpr", "ease"],
        description="Generators whose candidates are stored and compared; EASE is left out above `ease_max_items`.",
    )
    main_generator: Literal["auto", "popularity", "item_knn", "als", "bpr", "ease", "file"] = Field(
        "auto",
        description="Generator whose candidates are reranked, in the contest between encoders and in the report. auto: "
        "`candidates_file` if there is one, else EASE up to `ease_max_items` items, else item-kNN.",
    )
    candidates_file: Path | None = Field(
        None,
        description="Candidates from elsewhere (.jsonl, .csv, each also with .gz, or .parquet): columns user_id, item_id and, "
        "where wanted, catalog, score, split; without scores in order of rank. None: no such file.",
    )
    candidates: int = Field(20, ge=1, description="Candidates per user that are reranked.")
    depth: int = Field(
        100, ge=1, description="Candidates stored per user and generator; never fewer than `candidates`."
    )
    ease_max_items: int = Field(
        8000, ge=1, description="Items up to which EASE is used; it inverts an items x items matrix."
    )
    ease_l2: float = Field(100.0, gt=0, description="L2 regularisation of EASE.")
    knn_neighbours: int = Field(50, ge=1, description="Neighbours per item of item-kNN.")
    als_factors: int = Field(64, ge=1, description="Latent factors of ALS.")
    als_iterations: int = Field(15, ge=1, description="Iterations of ALS.")
    als_regularization: float = Field(0.05, ge=0, description="L2 regularisation of ALS.")
    bpr_factors: int = Field(64, ge=1, description="Latent factors of BPR.")
    bpr_iterations: int = Field(100, ge=1, description="Iterations of BPR, each over as many samples as interactions.")
    bpr_learning_rate: float = Field(0.05, gt=0, description="Learning rate of BPR.")
    bpr_regularization: float = Field(0.01, ge=0, description="L2 regularisation of BPR.")
    seed: int = Field(7, ge=0, description="Seed of the first factors of ALS and BPR, and of BPR's samples.")
    rerankers: ListSetting[Literal["llm_pointwise", "llm_pointwise_few_shot", "llm_listwise", "llm_profile_score"]] = (
        Field(
            [],
            description="Language-model rerankers that the report compares with, on the model of `generation`; none, as each asks "
            "the model about every candidate of every compared user.",
        )
    )
    reranked_users: int = Field(
        100, ge=1, description="Users of the panel on whom they are compared, the same ones each time."
    )
    extractive_row: bool = Field(
        False,
        description="Whether the report compares with extractive personas, where a model writes the served ones. They are made "
        "for it alone, of every item among the main generator's candidates.",
    )
    learning_curve: bool = Field(
        True,
        description="Whether the report trains encoders on a part of the pairs, to show what more of them bring. Only where "
        "`encoder.method` is `head`, as it takes seconds there: about half the time of the training itself.",
    )
    training_seeds: int = Field(
        3,
        ge=1,
        description="Seeds of the training that the report compares, the one in use and those after it; 1: no other. Only "
        "where `encoder.method` is `head`; each costs a training.",
    )

    @field_validator("candidates_file")
    @classmethod
    def _stays_where_it_is(cls, path: Path | None) -> Path | None:
        """A later change of directory must not make it another file."""
        return None if path is None else path.expanduser().absolute()

    @model_validator(mode="after")
    def _has_its_file(self) -> EvaluationSettings:
        if self.main_generator == "file" and self.candidates_file is None:
            raise ValueError("main_generator is file, but there is no candidates_file; name one")
        return self


class ExperimentSettings(Group):
    """Two ways of answering side by side, told apart by a hash of the user id."""

    name: str | None = Field(
        None,
        pattern="^[A-Za-z0-9_.-]{1,100}$",
        description="Name of the experiment; none: there is none. Another name deals users anew.",
    )
    share: float = Field(
        0.5, ge=0, le=1, description="Share (0-1) of users in the treatment; the others are the control."
    )
    generation: int | None = Field(
        None, ge=1, description="Index generation of the treatment; none: the current one, as for the control."
    )
    weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the personas in the treatment (0-1); none: as learned, as for the control.",
    )
    tastes: Annotated[int, Field(ge=1, le=8)] | Literal["recent"] | None = Field(
        None,
        description="Tastes that a profile is told apart into in the treatment, or `recent`; none: as for the control.",
    )

    @model_validator(mode="after")
    def _has_a_treatment(self) -> ExperimentSettings:
        if self.name is not None and self.generation is None and self.weight is None and self.tastes is None:
            raise ValueError("an experiment needs a treatment; set generation, weight or tastes")
        return self


class ServingSettings(Group):
    """The HTTP service."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; beyond this machine only with API keys (`persona4rec api-key`)."
    )
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that answer, each with the index mapped into its memory."
    )
    require_key: bool = Field(False, description="Whether API keys are required on this machine's own address as well.")
    allowed_hosts: ListSetting[str] = Field(
        [], description="Names, besides localhost, under which a server without keys may be addressed, as by a proxy."
    )
    behind_proxy: bool = Field(
        False,
        description="Whether a proxy on this machine passes requests on, so that its X-Forwarded-For names the client for limits.",
    )
    tastes: Annotated[int, Field(ge=1, le=8)] | Literal["recent"] = Field(
        1,
        description="Distinct tastes that a profile is told apart into, or `recent` (the last three interactions beside all), where "
        "a request does not say.",
    )
    max_body_bytes: int = Field(2_097_152, ge=1024, description="Longest request body, in bytes.")
    max_candidates: int = Field(10_000, ge=1, le=100_000, description="Most candidates of one request.")
    max_concurrent_requests: int = Field(
        512, ge=1, description="Requests that one worker answers at the same time; further ones are told to come again."
    )
    requests_per_s: float | None = Field(
        None,
        gt=0,
        description="Requests per second of one key, or of one address where there are no keys; none: no limit.",
    )
    burst: int | None = Field(
        None, ge=1, description="Requests of one key or address that may come at once; none: those of two seconds."
    )
    body_timeout_s: float = Field(10.0, gt=0, description="Time within which a body must have arrived, in seconds.")
    access_log: bool = Field(
        True, description="Whether each request becomes a line of JSON on the standard error stream."
    )
    access_log_per_s: int = Field(
        200, ge=1, description="Lines of the access log per second; further ones are counted."
    )
    look_every_s: float = Field(
        1.0,
        gt=0,
        description="Time between two looks for a new index generation, changed keys and queued interactions, in seconds.",
    )
    retry_refused_s: float = Field(
        60.0,
        gt=0,
        description="Time after which a refused generation is tried again though it has not changed, in seconds.",
    )
    verify: bool = Field(True, description="Whether the checksums of a generation are compared before it is served.")
    threads: int = Field(
        2, ge=1, description="Threads for what would hold up the others: large requests and searches of the catalogue."
    )
    inline_candidates: int = Field(
        500, ge=0, description="Candidates up to which a request is answered without a thread."
    )
    inline_personas: int = Field(
        20_000, ge=0, description="Personas of an index up to which the catalogue is searched without a thread."
    )
    render_cache_mib: int = Field(
        32, ge=0, description="Memory for the parts of answers that are the same for everybody, in MiB."
    )
    encoder_queue: int = Field(
        32, ge=1, description="Requests that may wait for the encoder; further ones are told to come again."
    )
    encoder_threads: int = Field(
        1, ge=1, description="Threads of the encoder, so that it leaves the others their core."
    )
    shutdown_s: int = Field(
        10, ge=0, description="Time that requests in flight have to end when the service is stopped, in seconds."
    )
    experiment: ExperimentSettings = Field(default_factory=lambda: ExperimentSettings())


class WarehouseSettings(Group):
    """DuckDB."""

    lock_timeout_s: float = Field(
        120.0, gt=0, description="Longest wait for another process's transaction, in seconds."
    )
    memory_limit_gib: float = Field(
        2.0, gt=0, description="Memory that DuckDB may take before it spills to disk, in GiB."
    )
    threads: int = Field(0, ge=0, description="Threads of DuckDB; 0: all cores.")


class Settings(Group):
    """The whole tree. `home` holds all state: warehouse, ledger, queue, mlflow, index, reports, dagster, models, incoming."""

    home: Path = Field(Path("var"), description="Directory of all state; nothing is written elsewhere.")
    shared: Path | None = Field(
        None, description="Directory of ledger and language models, where several homes share them; none: `home`."
    )
    incoming: IncomingSettings = Field(default_factory=lambda: IncomingSettings())
    schedules: ScheduleSettings = Field(default_factory=lambda: ScheduleSettings())
    reviews: ReviewSettings = Field(default_factory=lambda: ReviewSettings())
    splits: SplitSettings = Field(default_factory=lambda: SplitSettings())
    generation: GenerationSettings = Field(default_factory=lambda: GenerationSettings())
    openai: OpenAISettings = Field(default_factory=lambda: OpenAISettings())
    personas: PersonaSettings = Field(default_factory=lambda: PersonaSettings())
    alignment: AlignmentSettings = Field(default_factory=lambda: AlignmentSettings())
    encoder: EncoderSettings = Field(default_factory=lambda: EncoderSettings())
    index: IndexSettings = Field(default_factory=lambda: IndexSettings())
    evaluation: EvaluationSettings = Field(default_factory=lambda: EvaluationSettings())
    serving: ServingSettings = Field(default_factory=lambda: ServingSettings())
    warehouse: WarehouseSettings = Field(default_factory=lambda: WarehouseSettings())

    @property
    def warehouse_path(self) -> Path:
        return self.home / "warehouse" / "warehouse.duckdb"

    @property
    def ledger_path(self) -> Path:
        return (self.shared or self.home) / "ledger" / "ledger.duckdb"

    @property
    def index_path(self) -> Path:
        return self.home / "index"

    @property
    def interactions_path(self) -> Path:
        return self.home / "interactions" / "queue.sqlite"

    @property
    def serving_path(self) -> Path:
        return self.home / "serving"

    @property
    def models_path(self) -> Path:
        return (self.shared or self.home) / "models"

    @property
    def mlflow_path(self) -> Path:
        return self.home / "mlflow"

    @property
    def reports_path(self) -> Path:
        return self.home / "reports"

    @property
    def dagster_path(self) -> Path:
        return self.home / "dagster"

    @property
    def incoming_location(self) -> str:
        return self.incoming.location or str(self.home / "incoming")


def load_settings(environment: dict[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from file and environment.

    `overrides` are nested dictionaries that win over both (`load_settings(generation={"engine": "extractive"})`).
    `home` is made absolute, so that a later change of directory cannot move the state.

    Raises SettingsError, naming every unknown key and bad value and where it came from.
    """
    environment = dict(os.environ) if environment is None else environment
    origins: dict[tuple[str, ...], str] = {}
    tree: dict[str, Any] = {}
    _merge(tree, _read_file(environment), origins)
    _merge(tree, _read_environment(environment), origins)
    _merge(tree, (overrides, "the call"), origins)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(dict(problem), origins) for problem in error.errors())) from error
    shared = settings.shared and settings.shared.expanduser().absolute()
    return settings.model_copy(update={"home": settings.home.expanduser().absolute(), "shared": shared})


def describe_settings(settings: Settings) -> list[tuple[str, Any, str]]:
    """(dotted name, effective value, description) of every setting, in the order of declaration."""
    rows: list[tuple[str, Any, str]] = []

    def describe(group: Group, prefix: str) -> None:
        for name, field in type(group).model_fields.items():
            value = getattr(group, name)
            if isinstance(value, Group):
                describe(value, f"{prefix}{name}.")
            else:
                rows.append((prefix + name, value, field.description or ""))

    describe(settings, "")
    return rows


def settings_file(environment: dict[str, str] | None = None) -> Path | None:
    """The file that settings are read from: `PERSONA4REC_CONFIG`, else ./persona4rec.toml, else the one in `home`.

    None when there is none. Raises SettingsError when PERSONA4REC_CONFIG names a file that does not exist.
    """
    environment = dict(os.environ) if environment is None else environment
    stated = environment.get("PERSONA4REC_CONFIG")
    if stated:
        if not Path(stated).is_file():
            raise SettingsError(f"PERSONA4REC_CONFIG names {stated}, which does not exist.")
        return Path(stated)
    home = Path(environment.get(f"{ENVIRONMENT_PREFIX}HOME") or Settings.model_fields["home"].default)
    return next((path for path in (Path(FILE_NAME), home.expanduser() / FILE_NAME) if path.is_file()), None)


def _read_file(environment: dict[str, str]) -> tuple[dict[str, Any], str]:
    path = settings_file(environment)
    if path is None:
        return {}, FILE_NAME
    try:
        return tomllib.loads(path.read_text()), str(path)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _read_environment(environment: dict[str, str]) -> tuple[dict[str, Any], str]:
    tree: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in RESERVED_VARIABLES:
            continue
        *groups, key = variable[len(ENVIRONMENT_PREFIX) :].lower().split(NESTING)
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[key] = environment[variable]
    return tree, "environment"


def _merge(
    tree: dict[str, Any],
    source: tuple[dict[str, Any], str],
    origins: dict[tuple[str, ...], str],
    path: tuple[str, ...] = (),
) -> None:
    values, origin = source
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            _merge(tree.setdefault(key, {}), (value, origin), origins, here)
        else:
            tree[key] = value
            origins[here] = origin


def _explain(problem: dict[str, Any], origins: dict[tuple[str, ...], str]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    # A bad value within a list has the list's origin.
    path = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in origins), path)
    origin = origins.get(path, "settings")
    name = ENVIRONMENT_PREFIX + NESTING.join(path).upper() if origin == "environment" else ".".join(path)
    if problem["type"] == "extra_forbidden":
        group: Any = Settings
        for part in path[:-1]:
            group = type(getattr(group(), part))
        known = ", ".join(group.model_fields)
        return f"{origin}: unknown setting {name}; known here: {known}."
    return f"{origin}: bad value for {name}: {problem['msg']} (given: {problem['input']!r})."
