"""The `persona4rec` command: everything a user does without opening the Dagster UI.

Belongs here: arguments, printing, exit codes. Does not belong here: doing; each command calls one plain function. Heavy
modules are imported inside the commands, so that `persona4rec --help` answers at once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from persona4rec_pipeline import __version__
from persona4rec_pipeline.settings import Settings, SettingsError, describe_settings, load_settings

if TYPE_CHECKING:
    from persona4rec_pipeline.index import PersonaIndex
    from persona4rec_pipeline.runner import Finished
    from persona4rec_pipeline.serving.ask import Who

app = typer.Typer(
    help="Turn reviews into an index of personas, and rank with it, with reasons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
api_keys = typer.Typer(help="API keys of the HTTP service.", no_args_is_help=True)
app.add_typer(api_keys, name="api-key")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_HISTORY_HELP = "JSON list, most recent first: item ids, or objects with item_id or title, review, days_ago."
_SESSION_HELP = "Item seen just now, most recent first; may be given several times. Counts before the history."
# With less than this free, what fails is taken to fail for lack of room.
ROOM_NEEDED_BYTES = 16 * 2**20

# What a run tells of each asset on the command line, in this order, where the asset reports it.
_TOLD = {
    "reviews": "reviews", "items": "items", "rows": "rows", "kept": "kept", "rejected": "rejected",
    "duplicates": "duplicates", "users": "users",
    "panel_users": "panel users", "evidence": "evidence", "personas": "personas", "from_model": "from the model",
    "fallbacks": "fallbacks", "pairs": "pairs", "judged": "judged", "generated": "generated", "ledger_hits": "ledger hits",
    "failed": "failed", "tokens_per_second": "tokens/s", "training_pairs": "training pairs", "final_loss": "final loss",
    "encoded": "encoded", "vectors": "vectors", "generation": "generation", "candidates": "candidates",
}  # fmt: skip


def main() -> None:
    """Entry point: known problems become one clear line and exit code 1, unknown ones a traceback."""
    # vLLM's engine process and tokenisers speak at length; the user has asked for recommendations.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (SettingsError, OSError) as error:
        _fail(error)
    except RuntimeError as error:
        # Every error of ours is a RuntimeError or ValueError with a message for the user; anything else shows its origin.
        if not type(error).__module__.startswith("persona4rec_pipeline"):
            raise
        _fail(error)
    except ValueError as error:
        if type(error) is not ValueError and not type(error).__module__.startswith("persona4rec_pipeline"):
            raise
        _fail(error)
    except Exception as error:
        # Dagster and MLflow keep SQLite files beside ours; without room they fail in the words of their libraries.
        home = load_settings().home
        free = shutil.disk_usage(home).free if home.exists() else ROOM_NEEDED_BYTES
        if free >= ROOM_NEEDED_BYTES:
            raise
        message = (
            f"No room is left on the disk of {home} ({free // 2**10} KiB free): {str(error).splitlines()[0]}. "
            "What was finished is kept: make room and run again."
        )
        _fail(OSError(message))


def escape(text: str) -> str:
    """Strangers' text for the terminal: nothing in it is markup of Rich, or moves the cursor, or sets a colour or a title."""
    return escape_markup("".join(c if c in "\n\t" or c.isprintable() else "�" for c in text))


@app.command()
def settings() -> None:
    """Print the effective settings, with what each one means."""
    table = Table("setting", "value", "meaning", box=None, pad_edge=False)
    for name, value, meaning in describe_settings(load_settings()):
        table.add_row(name, escape(str(value)), escape(meaning))
    out.print(table)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


@app.command("add-catalog")
def add_catalog(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _; starts with a letter.")],
    reviews: Annotated[str, typer.Option(help="File, folder or glob of reviews; plain or .gz.")],
    items: Annotated[str | None, typer.Option(help="File, folder or glob of item metadata, if there is any.")] = None,
    format: Annotated[
        str | None, typer.Option(help="amazon_2023, amazon_2014, yelp, goodreads or generic; default: detected.")
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Columns of a generic source: user_id=reviewer,rating=stars,...")
    ] = None,
    limit_items: Annotated[int | None, typer.Option(help="Keep only the N items with the most reviews.")] = None,
    domain: Annotated[
        str | None, typer.Option(help="Domain words of this catalogue: book, movie, restaurant, hotel, product, game.")
    ] = None,
) -> None:
    """Register a catalogue of items and reviews, and read it in."""
    from persona4rec_pipeline.catalogs import add_catalog as add

    for outcome in add(load_settings(), name, reviews, items, format, _mapping(map), limit_items, domain):
        _tell(outcome)
    out.print(f"Catalogue [bold]{escape(name)}[/bold] is there. Next: [bold]persona4rec run[/bold]")


@app.command()
def catalogs() -> None:
    """List the registered catalogues."""
    from persona4rec_pipeline.reviews.catalogs import list_catalogs
    from persona4rec_pipeline.warehouse import open_warehouse

    found = list_catalogs(open_warehouse(load_settings()))
    if not found:
        out.print("No catalogue is registered. Add one with [bold]persona4rec add-catalog[/bold].")
        return
    table = Table(
        "catalogue", "items", "reviews", "users", "rejected", "format", "reviews from", box=None, pad_edge=False
    )
    for entry in found:
        table.add_row(
            entry.catalog.name, *(f"{n:,}" for n in (entry.items, entry.reviews, entry.users, entry.rejected)),
            entry.catalog.source_format, escape(entry.catalog.reviews_source),
        )  # fmt: skip
    out.print(table)


@app.command("remove-catalog")
def remove_catalog(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take a catalogue out everywhere: warehouse, ledger, index and partition key. Its source files stay."""
    from persona4rec_pipeline.catalogs import remove_catalog as remove

    if not yes:
        typer.confirm(f"Remove catalogue {name} and everything made from it?", abort=True)
    removal = remove(load_settings(), name)
    out.print(
        f"Removed {escape(name)}: {removal.rows:,} rows of the warehouse, {removal.generations:,} generations of the ledger"
        + (
            f", index generation {removal.index_generation} is published without it."
            if removal.index_generation
            else "."
        )
    )


@app.command()
def run(
    catalog: Annotated[list[str] | None, typer.Option(help="Only this catalogue; may be given several times.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, openai or extractive; default: the setting.")] = None,
) -> None:
    """Materialize what is out of date, through Dagster, in this process."""
    _run(_settings(engine), catalog)


@app.command()
def backfill(
    catalogs: Annotated[list[str], typer.Argument(help="Catalogues to make again, one after the other.")],
    engine: Annotated[str | None, typer.Option(help="vllm, openai or extractive; default: the setting.")] = None,
) -> None:
    """Make these catalogues again from their sources and publish, whether they are out of date or not; nothing that the
    ledger knows is paid for again. The same as a backfill of `refresh_catalog` in Dagster, in one process."""
    from persona4rec_pipeline.runner import NIGHTLY, Listener, run_stale

    listener = Listener(_tell_start, _tell, _note)
    # The index as well: from equal tables it publishes nothing, but its checks tell of the catalogues as they are now.
    always = ["persona_index"]
    _sum_up(run_stale(_settings(engine), catalogs, NIGHTLY, listener, command="backfill", force=True, always=always))


@app.command()
def tune(
    trials: Annotated[int, typer.Option(min=1, help="Trials in all; those made before count.")] = 30,
    minutes: Annotated[float | None, typer.Option(help="Begin no further trial after so many minutes.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="head, lora or full; may be given several times.")] = None,
) -> None:
    """Choose the settings of the encoder on the panel's validation targets. Killed, it goes on; nothing served is touched."""
    from persona4rec_pipeline.encoder.training import LEARNING_RATES
    from persona4rec_pipeline.tuning import tune as search

    for name in method or ():
        if name not in LEARNING_RATES:
            raise ValueError(f"There is no method {name!r}; take {', '.join(LEARNING_RATES)}.")
    found = search(load_settings(), trials, minutes, method or (), lambda line: out.print(f"  {escape(line)}"))
    out.print(
        f"{len(found.trials)} trials; NDCG@10 {found.best.mean:.4f}, with the current settings {found.current.mean:.4f}"
    )
    out.print(f"gain {found.gain.value:+.4f} (95 % interval {found.gain.low:+.4f} to {found.gain.high:+.4f})")
    if found.changes():
        out.print(
            "To take it over, in persona4rec.toml (the best of many looks better than it is; backtest it):\n\n\\[encoder]"
        )
        for name, value in found.changes().items():
            out.print(f"{name} = {escape(json.dumps(value))}")


@app.command()
def backtest(
    protocol: Annotated[
        str, typer.Option(help="temporal: what came after a date; loo: the last liked items of every user.")
    ] = "temporal",
    as_of: Annotated[
        datetime | None, typer.Option(help="Date (UTC) from which reviews are held out; default: the last tenth.")
    ] = None,
    catalog: Annotated[list[str] | None, typer.Option(help="Only this catalogue; may be given several times.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, openai or extractive; default: the setting.")] = None,
) -> None:
    """Build everything again from the reviews before a date, apart from what is served, and report how well it would have
    ranked what came after."""
    from persona4rec_pipeline.backtest import PROTOCOLS, run_backtest
    from persona4rec_pipeline.runner import Listener

    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no protocol {protocol!r}; take {' or '.join(PROTOCOLS)}.")
    listener = Listener(_tell_start, _tell, _note)
    found = run_backtest(_settings(engine), protocol, as_of, catalog, listener)
    out.print(f"The report: {escape(str(found.page))}\nAs JSON: {escape(str(found.report))}")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Catalogues, what is out of date and why, last runs, ledger, index and encoder."""
    from persona4rec_pipeline.overview import read_status

    state = read_status(load_settings())
    if as_json:
        index = state.index.model_dump(mode="json") if state.index else None
        _print_json(json.loads(json.dumps(asdict(replace(state, index=None)) | {"index": index}, default=str)))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("catalogue", "items", "reviews", "personas", "last run", "looked at"):
        table.add_column(heading, no_wrap=True)
    table.add_column("out of date")
    for entry in state.catalogs:
        health = entry.health
        stale = "; ".join(f"{asset}: {', '.join(reasons)}" for asset, reasons in entry.out_of_date.items()) or "no"
        counts = (entry.counts.items, entry.counts.reviews, entry.personas)
        told = f"{(health.status or 'none').lower()}{f', {_ago(health.ended)}' if health.ended else ''}"
        looked_at = f"{_ago(health.looked_at) if health.looked_at else 'never'}{', late' if health.is_late else ''}"
        table.add_row(entry.counts.catalog.name, *(f"{count:,}" for count in counts), told, looked_at, escape(stale))
    out.print(table if state.catalogs else "No catalogue is registered.")
    for entry in state.catalogs:
        if entry.health.problem:
            out.print(f"{entry.counts.catalog.name}: {escape(entry.health.problem)}")
        if entry.health.remedy:
            out.print(f"{entry.counts.catalog.name}: {escape(entry.health.remedy)}")
    for name, problem in state.arriving.items():
        out.print(f"arriving: {escape(name)}{f' ({escape(problem)})' if problem else ''}")
    for asset, reasons in state.out_of_date.items():
        out.print(f"{asset} is out of date: {escape(', '.join(reasons))}")
    cost = f", {state.cost:,.2f} at the prices of the settings" if state.cost else ""
    out.print(
        f"ledger: {state.generations:,} generations, {state.failed_generations:,} failed, {state.tokens:,} tokens{cost}"
    )
    if state.index is None:
        out.print(f"index: {escape(state.index_problem or 'none')}")
    else:
        personas = sum(counts.personas for counts in state.index.catalogs.values())
        out.print(
            f"index: generation {state.index.generation} of {state.index.created_at}, {personas:,} personas, {state.index.users:,} users"
        )
    champion = state.champion
    out.print(f"encoder: version {champion.version} ({champion.fingerprint})" if champion else "encoder: none yet")


@app.command()
def plan(
    catalog: Annotated[list[str] | None, typer.Option(help="Only this catalogue; may be given several times.")] = None,
) -> None:
    """What `run` would make and ask the model, with tokens, time and cost, before any of it is spent."""
    from persona4rec_pipeline.overview import read_plan

    effective = load_settings()
    found = read_plan(effective, catalog)
    for asset, reasons in found.steps.items():
        out.print(f"{asset}: {escape(', '.join(reasons))}")
    for name in found.unread:
        out.print(f"{escape(name)}: its source files must be read before more can be said")
    if not found.steps and not found.unread:
        out.print("Everything is up to date; a run would make nothing.")
    if "alignment_pairs" in found.steps:
        limit = effective.alignment.max_pairs_per_user
        out.print(
            f"alignment_pairs: {found.choices.explained:,} choices to explain; {found.choices.left_out:,} older ones are left "
            f"out by alignment.max_pairs_per_user = {limit}"
        )
    if found.planned:
        table = Table(box=None, pad_edge=False)
        for heading in ("catalogue", "task", "requests", "prompt", "answer", "tokens/s", "about", "cost"):
            table.add_column(heading, no_wrap=True)
        for entry in found.planned:
            numbers = (entry.requests, entry.prompt_tokens, entry.completion_tokens)
            table.add_row(
                entry.catalog,
                entry.task,
                *(f"{n:,}" for n in numbers),
                f"{entry.tokens_per_second:,.0f}{'' if entry.is_measured else ' (guess)'}",
                f"{entry.seconds:,.0f} s",
                f"{entry.cost:,.2f}",
            )
        out.print(table)
    budget = effective.generation.max_tokens_per_run
    tokens = sum(entry.prompt_tokens + entry.completion_tokens for entry in found.planned)
    if budget is not None and tokens > budget:
        out.print(f"The budget of {budget:,} tokens per run stops it before the end; running again goes on.")


@app.command("forget-user")
def forget_user(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete everything of a user, make again the personas that rested on their reviews, and publish without them."""
    from persona4rec_pipeline.forgetting import forget_user as forget
    from persona4rec_pipeline.runner import Listener

    if not yes:
        typer.confirm(f"Forget user {user} for good?", abort=True)
    gone = forget(load_settings(), user, Listener(_tell_start, _tell, _note))
    out.print(
        f"Forgotten: {gone.reviews:,} reviews, {gone.rows:,} rows, {gone.generations:,} generations, {gone.runs:,} runs of the log, "
        f"{gone.index_generations:,} old index generations; the personas of {gone.items:,} items were made again."
    )


@app.command("accept-queue")
def accept_queue(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on with the queue of posted interactions as it is, after its file was lost: what it lacks leaves the reviews."""
    from persona4rec_pipeline.reviews.posted import accept_queue as accept

    if not yes:
        typer.confirm("Go on without the interactions that the queue has lost?", abort=True)
    accept(load_settings())
    out.print("The next run makes the reviews of each catalogue with the queue as it is. Start the service again.")


@app.command("rollback-index")
def rollback_index(
    generation: Annotated[int, typer.Argument(help="Number of a generation that is still there.")],
) -> None:
    """Make an earlier index generation the current one; servers pick it up. The next run publishes a new one."""
    from persona4rec_pipeline.index.files import make_current

    out.print(f"Current is {make_current(load_settings().index_path, generation)}")


@app.command("rollback-encoder")
def rollback_encoder(
    version: Annotated[str | None, typer.Argument(help="Version in MLflow; default: the one in use before.")] = None,
) -> None:
    """Put an earlier encoder in use again, embed everything with it and publish."""
    from persona4rec_pipeline.rollback import rollback_encoder as roll_back
    from persona4rec_pipeline.runner import Listener

    encoder, _ = roll_back(load_settings(), version, Listener(_tell_start, _tell, _note))
    out.print(f"In use is version {encoder.version} ({encoder.fingerprint}); the index is made by it.")


@app.command()
def demo(
    engine: Annotated[str | None, typer.Option(help="vllm, openai or extractive; default: the setting.")] = None,
) -> None:
    """The bundled sample, from reviews to recommendations: add it, run everything, show five users."""
    from persona4rec_pipeline.catalogs import add_catalog as add
    from persona4rec_pipeline.demo import prepare_demo_settings
    from persona4rec_pipeline.reviews.catalogs import list_catalogs
    from persona4rec_pipeline.sample import sample_path
    from persona4rec_pipeline.warehouse import open_warehouse

    prepare_demo_settings(load_settings())
    effective = _settings(engine)
    if "books" not in {entry.catalog.name for entry in list_catalogs(open_warehouse(effective))}:
        folder = sample_path("books")
        reviews, items = str(folder / "reviews.jsonl"), str(folder / "items.jsonl")
        for outcome in add(effective, "books", reviews, items, "amazon_2023", domain="book"):
            _tell(outcome)
    _run(effective, None)
    _show_demo(effective)


@app.command()
def recommend(
    user: Annotated[str | None, typer.Option(help="Id of the user.")] = None,
    history: Annotated[Path | None, typer.Option(help=_HISTORY_HELP)] = None,
    session: Annotated[list[str] | None, typer.Option(help=_SESSION_HELP)] = None,
    catalog: Annotated[list[str] | None, typer.Option(help="Only this catalogue; may be given several times.")] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only items of this category; may be given several times.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The best items for a user that they have not seen, each with its reason."""
    from persona4rec_pipeline.index import Filters
    from persona4rec_pipeline.serving.ask import best_for

    effective = load_settings()
    index = _index(effective)
    who = _who(effective, index, user, history, session)
    found = best_for(index, who, k, filters=Filters(catalogs=catalog or None, categories=category or None))
    if as_json:
        _print_json({"user_id": user, "fallback": who.fallback, "items": [entry.to_dict() for entry in found]})
        return
    _tell_fallback(who)
    _show_recommendations(found)


@app.command()
def rerank(
    candidates: Annotated[
        Path,
        typer.Option(
            help="File with one item id per line, best first; with a tab and a score behind it, ordered by that."
        ),
    ],
    user: Annotated[str | None, typer.Option(help="Id of a user of the index.")] = None,
    history: Annotated[Path | None, typer.Option(help=_HISTORY_HELP)] = None,
    session: Annotated[list[str] | None, typer.Option(help=_SESSION_HELP)] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="How much personas count beside the candidate order; 1: alone. Default: as learned."
        ),
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="How many to print; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Order candidates for a user, a given history or a session: their own order and the personas' blended, as learned on held-out
    users. Unknown candidates keep their place and are flagged."""
    effective = load_settings()
    index = _index(effective)
    names, scores = _read_candidates(candidates)
    who = _who(effective, index, user, history, session)
    learned = weight is None
    if weight is None:
        weight = index.persona_weight(who.interactions, scores is not None)
    found = index.rerank(who.profile, names, k, scores=scores, weight=weight)
    if as_json:
        told = None if who.profile is None else weight
        items = [entry.to_dict() for entry in found]
        _print_json({"user_id": user, "fallback": who.fallback, "weight": told, "items": items})
        return
    _tell_fallback(who, "the candidates stay in their order")
    if who.profile is not None:
        how = "given" if not learned else "learned" if index.manifest.blends else "nothing learned yet"
        out.print(f"[dim]personas count {weight:.1f}, the candidates' own order {1 - weight:.1f} ({how})[/dim]")
    _show_recommendations(found)


@app.command()
def explain(
    item: Annotated[str, typer.Option(help="Id of the item.")],
    user: Annotated[str | None, typer.Option(help="Id of the user.")] = None,
    history: Annotated[Path | None, typer.Option(help=_HISTORY_HELP)] = None,
    session: Annotated[list[str] | None, typer.Option(help=_SESSION_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Why an item has its score for a user: the winning persona, the runner-up, and what speaks against it."""
    from persona4rec_pipeline.index import UnknownItem

    effective = load_settings()
    index = _index(effective)
    try:
        known = index.item(item)
    except UnknownItem as error:
        raise ValueError(str(error)) from error
    who = _who(effective, index, user, history, session)
    if who.profile is None:
        personas = index.personas_of(item)
        if as_json:
            _print_json({"user_id": user, "fallback": who.fallback, "item": known,
                         "personas": [persona.to_dict() for persona in personas]})  # fmt: skip
            return
        _tell_fallback(who, "these are all personas of the item")
        out.print(f"[bold]{escape(known['title'])}[/bold]")
        for persona in personas:
            _show_persona(persona.polarity, persona)
        return
    explanation = index.explain(who.profile, item)
    if as_json:
        _print_json({"user_id": user, "fallback": who.fallback, **explanation.to_dict()})
        return
    _tell_fallback(who)
    out.print(f"[bold]{escape(explanation.title)}[/bold]" + (f" for {escape(user)}" if user else ""))
    matches = {
        "closest": explanation.winner,
        "runner-up": explanation.runner_up,
        "against": explanation.nearest_critical,
    }
    for label, match in matches.items():
        if match is not None:
            _show_persona(label, match)


@app.command("export-personas")
def export_personas(
    file: Annotated[Path, typer.Argument(help="Where to write to; .csv or .parquet.")],
    catalog: Annotated[str | None, typer.Option(help="Only this catalogue; default: all.")] = None,
) -> None:
    """Write personas with their quotes to a file, for a spreadsheet (no cell of it runs as a formula) or a program."""
    from persona4rec_pipeline.exports import export_personas as export
    from persona4rec_pipeline.warehouse import open_warehouse

    out.print(f"{export(open_warehouse(load_settings()), file, catalog):,} personas are in {escape(str(file))}.")


@app.command("export-index")
def export_index(
    folder: Annotated[Path, typer.Argument(help="Where to write to; personas, items and users, a Parquet file each.")],
) -> None:
    """Write the published index with its vectors as Parquet, for nearest-neighbour libraries and other tools."""
    from persona4rec_pipeline.index.export import export_index as export

    written = export(_index(load_settings()), folder)
    for name, rows in written.items():
        out.print(f"{rows:,} rows are in {escape(str(folder / name))}")


@app.command("compact-index")
def compact_index() -> None:
    """Publish the index as one segment per catalogue, without what was replaced or removed; runs do so by themselves when it pays."""
    from persona4rec_pipeline.index import compact_index as compact

    effective = load_settings()
    found = compact(effective.index_path, effective.index.keep_generations)
    what = "Published" if found.published else "Nothing to compact in"
    out.print(f"{what} generation {found.generation}.")


@app.command()
def quality(
    catalog: Annotated[str | None, typer.Option(help="Only this catalogue; default: all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for page and JSON; default: <home>/reports.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another number draws other personas to read.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON.")] = False,
) -> None:
    """What the personas and the judge are like: a page with figures and 20 personas to read, JSON, a run in MLflow."""
    from persona4rec_pipeline.embedding import TextEncoder
    from persona4rec_pipeline.evaluation.quality_page import report_quality
    from persona4rec_pipeline.reviews.catalogs import get_catalog
    from persona4rec_pipeline.tracking import Tracking
    from persona4rec_pipeline.warehouse import open_warehouse

    effective = load_settings()
    warehouse = open_warehouse(effective)
    if catalog is not None:
        get_catalog(warehouse, catalog)
    of_one, named = ("WHERE catalog = ?", [catalog]) if catalog else ("", [])
    if not warehouse.rows(f"SELECT 1 FROM personas {of_one} LIMIT 1", named):
        raise ValueError("There are no personas to report on yet; make them with `persona4rec run`.")
    report = report_quality(
        effective, warehouse, Tracking(effective.mlflow_path), TextEncoder(effective), catalog, output, seed
    )
    if as_json:
        _print_json(report.quality.to_dict())
        return
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in report.quality.main_figures().items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:,.3f}")
    out.print(table)
    out.print(f"page: {escape(str(report.page))}\njson: {escape(str(report.json))}")
    out.print(f"MLflow: run {report.mlflow_run} of the experiment quality")


@app.command()
def ledger() -> None:
    """What was paid for, what was saved: size, hit rate, tokens by task and model."""
    from persona4rec_pipeline.generation import Ledger
    from persona4rec_pipeline.warehouse import open_ledger_database

    summary = Ledger(open_ledger_database(load_settings())).summary()
    out.print(
        f"{summary.generations:,} generations, {summary.failed:,} of them failed; {summary.hits:,} requests answered "
        f"from the ledger (hit rate {summary.hit_rate:.1%})"
    )
    if len(summary.by_task):
        table = Table(*summary.by_task.columns, box=None, pad_edge=False)
        for row in summary.by_task.itertuples(index=False):
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in row))
        out.print(table)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: the setting.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: the setting.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that answer; default: the setting.")] = None,
    require_key: Annotated[
        bool | None, typer.Option("--require-key/--no-require-key", help="Ask for API keys on this machine as well.")
    ] = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="A line of JSON per request.")
    ] = None,
) -> None:
    """Serve the published index over HTTP, with the explorer page. Beyond this machine only with API keys (`api-key add`)."""
    from persona4rec_pipeline.serving.run import run_server
    from persona4rec_pipeline.serving.security import check_door

    stated = {"HOST": host, "PORT": port, "WORKERS": workers, "REQUIRE_KEY": require_key, "ACCESS_LOG": access_log}
    # By the environment, as each worker reads its settings itself.
    os.environ |= {f"PERSONA4REC_SERVING__{name}": str(value) for name, value in stated.items() if value is not None}
    effective = load_settings()
    serving = effective.serving
    check_door(effective)
    err.print(f"Serving on http://{escape(serving.host)}:{serving.port}; Ctrl-C stops it.")
    run_server(effective)


@api_keys.command("add")
def add_api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in the access log.")],
    expires: Annotated[
        datetime | None, typer.Option(help="Moment (UTC) from which it is not valid any more; default: never.")
    ] = None,
) -> None:
    """Make a key and print it, once: only its hash is kept. Servers that run take it within seconds."""
    from persona4rec_pipeline.serving.security import ApiKeys

    ends = None if expires is None else expires.replace(tzinfo=expires.tzinfo or UTC)
    if ends is not None and ends <= datetime.now(UTC):
        raise ValueError(f"{ends:%Y-%m-%d %H:%M} is over already; name a moment to come.")
    key = ApiKeys(load_settings().serving_path).add(name, ends)
    err.print(f"The key of {escape(name)}; it is not shown again:")
    sys.stdout.write(f"{key}\n")


@api_keys.command("list")
def list_api_keys() -> None:
    """Whose keys there are, and which are valid."""
    from persona4rec_pipeline.serving.security import ApiKeys

    found, now = ApiKeys(load_settings().serving_path).all(), datetime.now(UTC)
    if not found:
        out.print("There is no key. Make one with [bold]persona4rec api-key add NAME[/bold].")
        return
    table = Table("name", "state", "made", "expires", "revoked", box=None, pad_edge=False)
    for key in found:
        state = "valid" if key.is_valid(now) else "revoked" if key.revoked_at else "expired"
        table.add_row(escape(key.name), state, key.created_at, key.expires_at or "never", key.revoked_at or "")
    out.print(table)


@api_keys.command("revoke")
def revoke_api_key(name: Annotated[str, typer.Argument(help="Whose key.")]) -> None:
    """Make a key invalid. Servers that run refuse it within seconds."""
    from persona4rec_pipeline.serving.security import ApiKeys

    ApiKeys(load_settings().serving_path).revoke(name)
    out.print(f"The key of {escape(name)} is not valid any more.")


@app.command()
def ui(
    dagster_port: Annotated[int, typer.Option(help="Port of Dagster.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = 5000,
) -> None:
    """Open Dagster's UI, with its daemon, and MLflow's beside it, on this machine."""
    from persona4rec_pipeline.ui import run_servers

    out.print(
        f"Dagster on http://127.0.0.1:{dagster_port}, MLflow on http://127.0.0.1:{mlflow_port}; Ctrl-C stops both."
    )
    raise typer.Exit(run_servers(load_settings(), dagster_port, mlflow_port))


def _settings(engine: str | None) -> Settings:
    return load_settings(**({"generation": {"engine": engine}} if engine else {}))


def _run(effective: Settings, catalog: Sequence[str] | None) -> None:
    from persona4rec_pipeline.runner import Listener, run_stale

    _sum_up(run_stale(effective, catalog, listener=Listener(_tell_start, _tell, _note)))


def _sum_up(finished: Sequence[Finished]) -> None:
    made = [outcome for outcome in finished if outcome.was_stale]
    seconds = sum(outcome.seconds for outcome in made)
    generated = sum(int(outcome.metadata.get("generated", 0)) for outcome in made)
    hits = sum(int(outcome.metadata.get("ledger_hits", 0)) for outcome in made)
    if made:
        share = f", ledger hit rate {hits / (hits + generated):.0%}" if hits + generated else ""
        out.print(f"{len(made)} of {len(finished)} assets made in {seconds:.0f} s; {generated:,} generations{share}.")
    else:
        out.print(f"All {len(finished)} assets are up to date; 0 generations.")


def _ago(moment: datetime) -> str:
    """How long ago a moment was, in its largest unit."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _tell_start(asset: str, catalog: str | None, _reasons: tuple[str, ...]) -> None:
    err.print(f"[dim]… {_where(asset, catalog)}[/dim]")


def _note(line: str) -> None:
    err.print(f"[yellow]{escape(line)}[/yellow]")


def _tell(outcome: Finished) -> None:
    if not outcome.was_stale:
        return
    told = []
    for key, label in _TOLD.items():
        value = outcome.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or (value == 0 and key in ("failed", "kept")):
            continue
        told.append(f"{value:,} {label}" if isinstance(value, int) else f"{value:,.3g} {label}")
    if "generation" in outcome.metadata:
        told.append(f"generation {outcome.metadata['generation']}")
    if "reason" in outcome.metadata:
        told.append(escape(str(outcome.metadata["reason"])))
    out.print(f"✓ {_where(outcome.asset, outcome.catalog):<32} {outcome.seconds:6.1f} s  {', '.join(told)}")
    table = outcome.metadata.get("report")
    if outcome.asset == "evaluation_report" and isinstance(table, str):
        out.print(_indented(table.replace("\\", "")))


def _where(asset: str, catalog: str | None) -> str:
    return f"{asset}\\[{catalog}]" if catalog else asset


def _indented(text: str) -> str:
    return "\n".join(f"    {escape(line)}" for line in text.splitlines())


def _index(effective: Settings) -> PersonaIndex:
    from persona4rec_pipeline.index import PersonaIndex

    return PersonaIndex.open(effective.index_path)


def _read_candidates(path: Path) -> tuple[list[str], list[float] | None]:
    """Item ids of a file, one per line, and their scores where a tab and a number stand behind each."""
    names, scores = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        name, tab, score = line.strip().rpartition("\t")
        if not line.strip():
            continue
        names.append(name.strip() if tab else score)
        if tab:
            try:
                scores.append(float(score))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: {score!r} is no score; write a number behind the tab."
                ) from error
    if not names:
        raise ValueError(f"{path} names no candidates; write one item id per line.")
    if scores and len(scores) != len(names):
        raise ValueError(f"{path} has scores for {len(scores)} of {len(names)} candidates; give all or none.")
    return names, scores or None


def _who(
    effective: Settings, index: PersonaIndex, user: str | None, history: Path | None, session: list[str] | None
) -> Who:
    """Who the recommendations are for; said on the way: items of the session that the index does not know."""
    from persona4rec_pipeline.serving.bodies import Question
    from persona4rec_pipeline.serving.history import parse_history
    from persona4rec_pipeline.serving.once import answer_question

    if user is None and history is None and not session:
        raise ValueError("Give --user, --history or --session.")
    if user is not None and history is not None:
        raise ValueError("Give either --user or --history: a history replaces that of the user.")
    past = None
    if history is not None:
        try:
            past = parse_history(json.loads(history.read_text()))
        except json.JSONDecodeError as error:
            raise ValueError(f"{history}, line {error.lineno}: not valid JSON ({error.msg}).") from error
        if not past:
            raise ValueError(f"{history} is an empty history; name at least one item.")
    who = answer_question(index, effective, Question(user_id=user, history=past, session=list(session or ())))
    if who.ignored:
        err.print(f"[yellow]Not in the index: {escape(', '.join(map(str, who.ignored)))}[/yellow]")
    return who


def _tell_fallback(who: Who, instead: str = "these are the most popular items") -> None:
    if who.fallback == "unknown_user":
        out.print(f"[yellow]User {escape(str(who.user_id))} is not known: {instead}.[/yellow]")
    elif who.fallback == "session":
        out.print("[yellow]By the items of the session alone.[/yellow]")
    elif who.fallback is not None:
        whom = f"User {escape(who.user_id)} has" if who.user_id else "There is"
        out.print(f"[yellow]{whom} no liked item to go by: {instead}.[/yellow]")


def _show_recommendations(found: Sequence[Any], quotes: int = 2) -> None:
    for place, entry in enumerate(found, start=1):
        score = f"{entry.score:.3f}" if entry.score is not None else "  –  "
        flags = f" [yellow]({', '.join(entry.flags)})[/yellow]" if entry.flags else ""
        moved = f"  [dim]was {entry.candidate_place}[/dim]" if entry.candidate_place not in (None, place) else ""
        title = escape(entry.title or entry.item_id)
        out.print(f"{place:>3}. [bold]{title}[/bold]  {score}  [dim]{escape(entry.item_id)}[/dim]{moved}{flags}")
        if entry.persona_name:
            out.print(f"     [cyan]{escape(entry.persona_name)}[/cyan]")
        out.print(f"     {escape(entry.why)}")
        for quote in entry.quotes[1 : quotes + 1]:
            out.print(f"     [dim]“{escape(quote)}”[/dim]")


def _show_persona(label: str, persona: Any) -> None:
    score = f"  {persona.score:.3f}" if persona.score is not None else ""
    out.print(f"  {label}: [cyan]{escape(persona.name)}[/cyan]{score}  [dim]{persona.polarity}, {persona.source}[/dim]")
    out.print(f"     {escape(persona.description)}")
    out.print(f"     {escape(persona.why)}")
    for quote in persona.quotes:
        out.print(f"     [dim]“{escape(quote)}”[/dim]")


def _show_demo(effective: Settings) -> None:
    from persona4rec_pipeline.demo import liked_titles, users_with_history

    index = _index(effective)
    for user in users_with_history(effective, 5):
        liked = liked_titles(effective, user, 4)
        out.print(f"\n[bold underline]{escape(user)}[/bold underline]  liked {escape(', '.join(liked))}")
        _show_recommendations(index.recommend(user, 3), quotes=1)
    out.print(
        "\nNext: [bold]persona4rec recommend --user ID[/bold], [bold]make ui[/bold] for Dagster, [bold]make serve[/bold] for HTTP."
    )


def _mapping(text: str | None) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        ours, separator, theirs = part.partition("=")
        if not separator or not ours.strip() or not theirs.strip():
            raise ValueError(f"--map: {part!r} is not of the form our_column=their_column.")
        mapping[ours.strip()] = theirs.strip()
    return mapping


def _print_json(document: Any) -> None:
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def _fail(error: BaseException) -> None:
    err.print(f"[red]error:[/red] {escape(str(error))}")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
