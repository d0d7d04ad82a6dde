"""The index on disk: which files there are, how they are published, and how one becomes sure of them.

Belongs here: names, dtypes and schemas of the files, checksums, the atomic publication, pruning, rollback. Does not
belong here: where the numbers come from (`build`) and what they answer (`reader`).

    <home>/index/
      current -> generations/000002           one symbolic link, switched by one atomic rename
      .lock                                   held (flock) while somebody publishes
      generations/000002/
        manifest.json                         see `Manifest`; the sha256 of every other file stands in it
        shards/catalog=<catalogue>/           one per catalogue, percent-encoded
          vectors.npy    float16 (personas, d)   unit persona vectors, grouped by item, in the order of personas.parquet
          offsets.npy    int64   (items + 1,)    personas of item i are rows offsets[i] to offsets[i + 1] (exclusive)
          polarity.npy   int8    (personas,)     1 appreciative, 0 mixed, -1 critical
          items.parquet                          `ITEMS`, ordered by item_id; popularity: positive train interactions
          personas.parquet                       `PERSONAS`, ordered by item_id, persona_id
        users.parquet                         `USERS`, ordered by user_id: users with positive train interactions, and
                                              how many these are
        profiles.npy     float16 (users, d)   their unit profiles, in the order of users.parquet, over all catalogues
        seen.parquet                          `SEEN`, ordered by user_id: all train interactions, to be left out

Nothing is pickled. A generation never changes after its publication, so a reader may map its files into memory and keep
answering from them while newer generations are published and this one is pruned.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from persona4rec_pipeline.index.scoring import Blends

FORMAT_VERSION = 2
CURRENT = "current"
GENERATIONS = "generations"
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
POLARITY = {"appreciative": 1, "mixed": 0, "critical": -1}

ITEMS = pa.schema(
    [("item_id", pa.string()), ("title", pa.string()), ("summary", pa.string()), ("train_popularity", pa.int64())]
)
PERSONAS = pa.schema(
    [
        ("item_id", pa.string()),
        ("persona_id", pa.string()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("preference_rationale", pa.string()),
        ("polarity", pa.string()),
        ("quotes", pa.list_(pa.string())),
        ("evidence_review_ids", pa.list_(pa.string())),
        ("source", pa.string()),
    ]
)
USERS = pa.schema([("user_id", pa.string()), ("interactions", pa.int64())])
SEEN = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("catalog", pa.string())])

# Fixed, so that equal rows give equal bytes, however the rows arrived.
ROWS_PER_GROUP = 65_536
HASH_BLOCK_BYTES = 1 << 20


class IndexProblem(RuntimeError):
    """The index cannot be used; the message says how to mend it."""


class IndexMissing(IndexProblem):
    """There is no published index at this path."""


class IndexCorrupt(IndexProblem):
    """A file of the index is missing, damaged, or of a format that this version does not read."""


class Record(BaseModel):
    """A part of the manifest; refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderReference(Record):
    """The encoder that made all vectors of a generation; `path` and `version` say where to load it, where known."""

    fingerprint: str
    path: str | None = None
    version: str | None = None


class CatalogCounts(Record):
    """What a shard holds."""

    items: int
    personas: int


class Contents(Record):
    """What a generation says about itself, apart from its number, its time and its checksums.

    recency_decay, half_life_days, max_history: how a profile is made of a history, as all of its profiles were. blends: how
    candidates and personas are blended, as learned with this encoder; None where nothing was learned.
    """

    encoder: EncoderReference
    dimension: int
    recency_decay: float
    half_life_days: float | None
    max_history: int
    catalogs: dict[str, CatalogCounts]
    users: int
    seen: int
    blends: Blends | None


class Manifest(Contents):
    """`manifest.json`. `content_hash` covers everything but `generation` and `created_at` (UTC, ISO 8601)."""

    format_version: int
    generation: int
    created_at: str
    files: dict[str, str]
    content_hash: str


@dataclass(frozen=True)
class Publication:
    """What `publish` did: the current generation, and whether it is new (`published`) or had the content already."""

    path: Path
    manifest: Manifest
    published: bool

    @property
    def generation(self) -> int:
        """Number of the current generation."""
        return self.manifest.generation


def shard_folder(generation: Path, catalog: str) -> Path:
    """The folder of a catalogue's shard."""
    return generation / "shards" / f"catalog={quote(catalog, safe='')}"


def current_link(index_path: Path) -> Path:
    """Where the link to the current generation leads, there or not. Raises IndexMissing when there is no link."""
    link = index_path / CURRENT
    try:
        return index_path / link.readlink()
    except OSError:
        raise IndexMissing(
            f"No persona index at {index_path}: {link} is not there. Publish one: materialise the asset persona_index."
        ) from None


def current_generation(index_path: Path) -> Path:
    """The folder of the current generation.

    Raises IndexMissing when nothing was published here, IndexCorrupt when the link leads nowhere.
    """
    target = current_link(index_path)
    if not target.is_dir():
        raise IndexCorrupt(
            f"{index_path / CURRENT} points to {target}, which is not there. Restore that folder, or publish again: "
            "materialise the asset persona_index."
        )
    return target


def generation_numbers(index_path: Path) -> list[int]:
    """Numbers of the finished generations on disk, ascending."""
    folder = index_path / GENERATIONS
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()) if folder.is_dir() else []


def read_manifest(generation: Path) -> Manifest:
    """The manifest of a generation; raises IndexCorrupt when it is absent, unreadable, altered or of another format."""
    path = generation / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        stated = json.loads(text)
    except (OSError, ValueError) as error:
        raise _corrupt(path, f"cannot be read ({error})") from error
    if not isinstance(stated, dict) or stated.get("format_version") != FORMAT_VERSION:
        found = stated.get("format_version") if isinstance(stated, dict) else None
        raise IndexCorrupt(
            f"{path} has format {found!r}, this version reads format {FORMAT_VERSION}. Use the persona4rec that "
            "published it, or publish again: materialise the asset persona_index."
        )
    try:
        manifest = Manifest.model_validate(stated)
    except ValidationError as error:
        raise _corrupt(path, f"does not say what it must ({error.error_count()} problems)") from error
    if manifest.content_hash != _content_hash(manifest, manifest.files):
        raise _corrupt(path, "was altered after its publication")
    return manifest


def verify(generation: Path, manifest: Manifest, checksums: bool = True) -> None:
    """Raise IndexCorrupt, naming the first file that is missing or, with `checksums`, differs from its sha256."""
    for name, stated in manifest.files.items():
        path = generation / name
        try:
            differs = file_sha256(path) != stated if checksums else not path.is_file()
        except OSError as error:
            raise _corrupt(path, f"cannot be read ({error})") from error
        if differs:
            raise _corrupt(path, "is not the file that manifest.json states")


def keep_shard(index_path: Path, folder: Path, catalog: str, fingerprint: str) -> CatalogCounts | None:
    """Take a catalogue's shard of the current generation over into a new one; None if it has none by this encoder.

    For use within `publish`. The files never change after their publication, so they are linked and not copied.
    """
    known = _current_manifest(index_path)
    if known is None or known[1].encoder.fingerprint != fingerprint or catalog not in known[1].catalogs:
        return None
    shutil.copytree(shard_folder(known[0], catalog), shard_folder(folder, catalog), copy_function=os.link)
    return known[1].catalogs[catalog]


def publish(index_path: Path, write: Callable[[Path], Contents], keep_generations: int) -> Publication:
    """Let `write` fill an empty folder, then make it the current generation; readers see the old one or the new one.

    The folder is written beside its place, every file is hashed and synced to disk, then one rename gives it its number
    (highest on disk plus 1) and one rename of a symbolic link makes it current. Whatever fails before that last rename
    leaves the old generation current. Content equal to the current generation's is thrown away. Afterwards the oldest
    generations beyond `keep_generations` are removed, never the current one. Publishers wait for one another.
    """
    folder = index_path / GENERATIONS
    folder.mkdir(parents=True, exist_ok=True)
    with _publisher_lock(index_path):
        for left_by_a_crash in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left_by_a_crash)
        unfinished = folder / f"{UNFINISHED}{os.getpid()}"
        unfinished.mkdir()
        try:
            contents = write(unfinished)
            checksums = _checksums(unfinished)
            known = _current_manifest(index_path)
            if known is not None and known[1].content_hash == _content_hash(contents, checksums):
                return Publication(path=known[0], manifest=known[1], published=False)
            number = max(generation_numbers(index_path), default=0) + 1
            manifest = Manifest(
                **dict(contents),
                format_version=FORMAT_VERSION,
                generation=number,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                files=checksums,
                content_hash=_content_hash(contents, checksums),
            )
            (unfinished / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _sync_tree(unfinished)
            finished = folder / f"{number:06d}"
            unfinished.rename(finished)
            _sync(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        _switch(index_path, finished)
        _prune(index_path, keep_generations)
    return Publication(path=finished, manifest=manifest, published=True)


def make_current(index_path: Path, number: int) -> Path:
    """Roll back (or forward) to a generation that is still on disk, after verifying it; returns its folder.

    Raises IndexMissing, listing the generations there are, when it is not on disk; IndexCorrupt when it is damaged.
    """
    folder = index_path / GENERATIONS / f"{number:06d}"
    if not folder.is_dir():
        raise IndexMissing(f"Generation {number} is not at {index_path}; there are: {generation_numbers(index_path)}.")
    with _publisher_lock(index_path):
        verify(folder, read_manifest(folder))
        _switch(index_path, folder)
    return folder


def write_table(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Stream rows into a Parquet file whose bytes depend on the rows alone; returns their number."""
    rows = 0
    pending = schema.empty_table()
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            rows += batch.num_rows
            pending = pa.concat_tables([pending, pa.Table.from_batches([batch]).cast(schema)])
            while pending.num_rows >= ROWS_PER_GROUP:
                writer.write_table(pending.slice(0, ROWS_PER_GROUP).combine_chunks())
                pending = pending.slice(ROWS_PER_GROUP)
        writer.write_table(pending.combine_chunks())
    return rows


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A Parquet file as one chunk per column; raises IndexCorrupt when it cannot be read or has other columns."""
    try:
        return pq.read_table(path).select(schema.names).cast(schema).combine_chunks()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _corrupt(path, f"cannot be read ({error})") from error


def write_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A new .npy file of this shape, mapped for writing; `flush()` it when filled."""
    if 0 in shape:
        np.save(path, np.empty(shape, dtype), allow_pickle=False)
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)


def read_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A .npy file, mapped read-only; raises IndexCorrupt when it cannot be read or is not of this shape and dtype."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(path, f"cannot be read ({error})") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise _corrupt(path, f"holds {array.dtype} {array.shape} where manifest.json promises {dtype} {shape}")
    # The plain view is still mapped; numpy's memmap class would cost time in every small operation.
    return np.asarray(array)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _corrupt(path: Path, problem: str) -> IndexCorrupt:
    return IndexCorrupt(
        f"{path} {problem}. Restore it from a backup, roll back with persona4rec_pipeline.index.files.make_current, or "
        "publish again: materialise the asset persona_index."
    )


def _content_hash(contents: Contents, checksums: dict[str, str]) -> str:
    stated = contents.model_dump(include=set(Contents.model_fields), mode="json")
    text = json.dumps([FORMAT_VERSION, stated, checksums], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def _current_manifest(index_path: Path) -> tuple[Path, Manifest] | None:
    """The current generation, or None where there is none that could be kept: a damaged one is worth replacing."""
    try:
        path = current_generation(index_path)
        manifest = read_manifest(path)
        verify(path, manifest)
    except IndexProblem:
        return None
    return path, manifest


def _switch(index_path: Path, generation: Path) -> None:
    aside = index_path / f".{CURRENT}-{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(Path(GENERATIONS) / generation.name)
    aside.replace(index_path / CURRENT)
    _sync(index_path)


def _prune(index_path: Path, keep: int) -> None:
    current = current_generation(index_path).name
    for number in generation_numbers(index_path)[: -max(keep, 1)]:
        folder = index_path / GENERATIONS / f"{number:06d}"
        if folder.name != current:
            # Renamed first, so that nobody finds half a generation under a number.
            condemned = folder.with_name(f"{UNFINISHED}{folder.name}")
            folder.rename(condemned)
            shutil.rmtree(condemned)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _publisher_lock(index_path: Path) -> Iterator[None]:
    descriptor = os.open(index_path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
