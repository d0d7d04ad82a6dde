"""The watched location: a folder per catalogue, in which items and reviews arrive.

Belongs here: what lies there, whether it is complete, and making it a catalogue that can be ingested. Does not belong
here: the reading of rows (`sources.py`), the table of catalogues (`catalogs.py`), and when to look (`automation.py`).

A folder `NAME/` holds `reviews*` and, if there is metadata, `items*` (.jsonl, .json, .csv, .tsv or .parquet, each also
with .gz), and may hold a `catalog.toml` with `format`, `domain`, `limit_items` and a table `columns` (our column = that
of the source). The location is a path or any fsspec URL (s3://bucket/path, gs://, sftp://, memory://); what is not on
this machine is copied to the state directory before it is read. Deleting a folder deletes nothing here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from persona4rec_pipeline.reviews.catalogs import (
    AUTO,
    Catalog,
    CatalogError,
    find_catalog,
    has_new_data,
    register_catalog,
    validate_catalog_name,
)
from persona4rec_pipeline.reviews.files import EXTENSIONS, SourceError, extension_of
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

STATEMENT = "catalog.toml"
# What a listing may say of a file beside its size, by file system; whichever is there tells one version from the next.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_VERSIONS = ("ETag", "etag", "md5Hash", *_TIMES)
# Name, within the local copy of a remote folder, of the fingerprint of what was copied.
_COPIED = ".copied"


class IncomingUnreadable(RuntimeError):
    """The watched location, or a folder in it, cannot be listed: an error, and never "nothing is there"."""


@dataclass(frozen=True)
class Arrival:
    """One folder of the watched location.

    fingerprint: of names, sizes and versions of its files; another one means that something changed.
    problem: why it cannot become a catalogue, and how to mend that; None if it can.
    is_marked: whether the configured marker file lies there (always true if none is configured).
    newest: when the newest of its files was written, in seconds since 1970; None where the file system does not tell.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    fingerprint: str
    problem: str | None
    is_marked: bool
    newest: float | None

    def is_complete(self, settings: Settings) -> bool:
        """Whether it can be read now: marked, or, without a marker, not written to for `incoming.settle_s`."""
        if settings.incoming.success_marker is not None or self.newest is None:
            return self.is_marked
        return time.time() - self.newest >= settings.incoming.settle_s


class Statement(BaseModel):
    """What a catalog.toml may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = AUTO
    domain: str | None = None
    limit_items: int | None = Field(None, ge=1)
    columns: dict[str, str] = Field(default_factory=dict)


def scan(settings: Settings) -> list[Arrival]:
    """The folders of the watched location, by name; hidden ones are left out.

    Raises IncomingUnreadable when the location or one of its folders cannot be listed.
    """
    filesystem, root = _location(settings)
    try:
        entries = filesystem.ls(root, detail=True)
        arrivals = [
            _arrival(filesystem, entry["name"], settings)
            for entry in entries
            if entry["type"] == "directory" and not _base(entry["name"]).startswith((".", "_"))
        ]
    # Whatever a file system's library raises (its own errors among them) means the same: it could not be looked at.
    except Exception as error:
        raise IncomingUnreadable(
            f"The watched location {settings.incoming_location} cannot be read ({type(error).__name__}: {error}). "
            "Make it reachable, or correct incoming.location."
        ) from error
    return sorted(arrivals, key=lambda arrival: arrival.name)


def needs_ingest(warehouse: Database, arrival: Arrival) -> bool:
    """Whether a folder holds something that the warehouse has not taken in yet."""
    taken = warehouse.rows("SELECT arrival FROM catalogs WHERE catalog = ?", [arrival.name])
    return not taken or taken[0][0] != arrival.fingerprint or has_new_data(warehouse, arrival.name)


def take_in(settings: Settings, warehouse: Database, name: str) -> Catalog | None:
    """Register what lies in the folder of a catalogue, copied to this machine if it is remote; ingests nothing.

    None when the location has no such folder: the catalogue, if there is one, came in another way or its folder was
    deleted, which deletes nothing. Raises CatalogError for a folder that cannot become a catalogue, SourceError when a
    file cannot be read, and IncomingUnreadable.
    """
    filesystem, _ = _location(settings)
    arrival = next((found for found in scan(settings) if found.name == name), None)
    if arrival is None:
        return None
    if arrival.problem is not None:
        raise CatalogError(arrival.problem)
    folder = Path(arrival.folder) if _is_local(settings) else _copy(filesystem, arrival, settings)
    statement = _read_statement((folder / STATEMENT).read_bytes()) if STATEMENT in arrival.files else Statement()
    has_items = any(_is_data(file, "items") for file in arrival.files)
    catalog = Catalog(
        name,
        str(folder / "reviews*"),
        str(folder / "items*") if has_items else None,
        statement.format,
        dict(statement.columns),
        statement.limit_items,
        statement.domain,
    )
    known = find_catalog(warehouse, name)
    if known is not None and known.reviews_source != catalog.reviews_source:
        raise CatalogError(
            f"Catalogue {name} is registered with reviews from {known.reviews_source}, and a folder of that name lies in "
            f"{settings.incoming_location}. Rename the folder, or take the catalogue out with "
            f"`persona4rec remove-catalog {name}` first."
        )
    registered = register_catalog(warehouse, catalog, replace_existing=True)
    with warehouse.write() as connection:
        connection.execute("UPDATE catalogs SET arrival = ? WHERE catalog = ?", [arrival.fingerprint, name])
    return registered


def drop_copy(settings: Settings, name: str) -> None:
    """Delete the local copy of a remote folder, if there is one."""
    shutil.rmtree(_copy_folder(settings, name), ignore_errors=True)


def _location(settings: Settings) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(settings.incoming_location)
    except (ValueError, ImportError) as error:
        raise IncomingUnreadable(f"incoming.location {settings.incoming_location}: {error}.") from error
    # Another process writes there; what was listed a moment ago is not what is there now.
    filesystem.invalidate_cache()
    if settings.incoming.location is None:  # the folder of the state directory is ours to make
        Path(root).mkdir(parents=True, exist_ok=True)
    return filesystem, root


def _is_local(settings: Settings) -> bool:
    return isinstance(_location(settings)[0], LocalFileSystem)


def _base(path: str) -> str:
    return PurePosixPath(path.rstrip("/")).name


def _arrival(filesystem: Any, folder: str, settings: Settings) -> Arrival:
    entries = [entry for entry in filesystem.ls(folder, detail=True) if entry["type"] == "file"]
    entries = sorted((entry for entry in entries if not _base(entry["name"]).startswith(".")), key=lambda e: e["name"])
    names = tuple(_base(entry["name"]) for entry in entries)
    parts = []
    times: list[float] = []
    for name, entry in zip(names, entries, strict=True):
        if name == STATEMENT or _is_data(name, "items") or _is_data(name, "reviews"):
            parts.append(f"{name}\0{entry['size']}\0{_first(entry, _VERSIONS)}")
            written = _first(entry, _TIMES)
            if isinstance(written, datetime):
                times.append(written.timestamp())
            elif isinstance(written, int | float):
                times.append(float(written))
    marker = settings.incoming.success_marker
    return Arrival(
        name=_base(folder),
        folder=folder,
        files=names,
        fingerprint=hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        problem=_problem(filesystem, folder, names),
        is_marked=marker is None or marker in names,
        newest=max(times, default=None),
    )


def _first(entry: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _problem(filesystem: Any, folder: str, names: tuple[str, ...]) -> str | None:
    try:
        validate_catalog_name(_base(folder))
        if STATEMENT in names:
            _read_statement(filesystem.cat_file(f"{folder.rstrip('/')}/{STATEMENT}"))
    except CatalogError as error:
        return f"{folder}: {error}"
    if not any(_is_data(name, "reviews") for name in names):
        return (
            f"{folder} holds no reviews: a file named reviews* with the ending {', '.join(EXTENSIONS)} (each also with "
            ".gz) is needed."
        )
    return None


def _read_statement(text: bytes) -> Statement:
    try:
        return Statement.model_validate(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{STATEMENT} is not valid TOML: {error}.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise CatalogError(f"{STATEMENT}: {problems}. Known: {', '.join(Statement.model_fields)}.") from error


def _is_data(name: str, kind: str) -> bool:
    return name.startswith(kind) and extension_of(Path(name)) in EXTENSIONS


def _copy_folder(settings: Settings, name: str) -> Path:
    return settings.home / "arrivals" / name


def _copied(copy: Path) -> str | None:
    try:
        return (copy / _COPIED).read_text()
    except FileNotFoundError:
        return None


def _copy(filesystem: Any, arrival: Arrival, settings: Settings) -> Path:
    """The local copy of a remote folder; whole or as it was before, whatever happens in between."""
    copy = _copy_folder(settings, arrival.name)
    if _copied(copy) == arrival.fingerprint:
        return copy
    aside = copy.with_name(f".{copy.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for name in arrival.files:
            if name == STATEMENT or _is_data(name, "items") or _is_data(name, "reviews"):
                filesystem.get_file(f"{arrival.folder.rstrip('/')}/{name}", str(aside / name))
        (aside / _COPIED).write_text(arrival.fingerprint)
        former = copy.with_name(f".{copy.name}-former")
        shutil.rmtree(former, ignore_errors=True)
        if copy.exists():
            copy.rename(former)
        aside.rename(copy)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise SourceError(f"{arrival.folder} could not be copied to {copy}: {error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return copy
