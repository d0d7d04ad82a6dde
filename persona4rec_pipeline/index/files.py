"""The index on disk: which files there are, how they are published, and how one becomes sure of them.

Belongs here: names, dtypes and schemas of the files, checksums, the atomic publication, pruning, rollback. Does not
belong here: where the numbers come from (`build`) and what they answer (`reader`).

    <home>/index/
      current -> generations/000002           one symbolic link, switched by one atomic rename
      .lock                                   held (flock) while somebody publishes
      generations/000002/
        manifest.json                         see `Manifest`; the sha256 of every other file stands in it
        shards/catalog=<catalogue>/           one per catalogue, percent-encoded, of one or more segments
          segment=000001/                       its items, ordered by item_id; linked, not copied, into the next generation
            items.arrow                           `ITEMS`
            personas.arrow                        `PERSONAS`, ordered by item_id, persona_id
            offsets.npy      int64   (items + 1,)   personas of item i are rows offsets[i] to offsets[i + 1] (exclusive)
            polarity.npy     int8    (personas,)    1 appreciative, 0 mixed, -1 critical
            vectors.npy      float16 (personas, d)  unit persona vectors
            codes.npy        int8    (personas, d)  the same, coarser, for a scan: vector = code * scale, up to
            scales.npy       float32 (personas,)      an error of this
            errors.npy       float32 (personas,)      length
            item_vectors.npy float16 (items, d)     unit vectors of what one says who liked the item and says nothing; zeros
                                                    where the item has no text
            popularity.npy   int64   (items,)       positive train interactions; as of this generation
            dead.npy         int64   (dead,)        rows of items that were replaced by a later segment, or removed
        users.arrow                           `USERS`, ordered by user_id: users with positive train interactions, and how
                                              many these are
        profiles.npy        float16 (users, d)  their unit profiles, in the order of users.arrow, over all catalogues
        histories.arrow                       `HISTORIES`: what a profile is made of, by user, most recent first
        history_offsets.npy int64 (users + 1,)  user u has the rows history_offsets[u] to history_offsets[u + 1]
        history_vectors.npy float16 (rows, d)   unit vectors of these interactions
        seen.arrow                            `SEEN`, ordered by user_id: all train interactions, to be left out

`.npy` is numpy's format, `.arrow` Arrow's IPC file format, uncompressed: both are mapped into memory, so that opening reads
little and processes share it. A catalogue's items are those of its segments that are not dead; an item is alive in one
segment at most. Changed items come as a further segment until `compact` makes one of many.

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
from pydantic import BaseModel, ConfigDict, ValidationError

from persona4rec_pipeline.index.scoring import Blends

FORMAT_VERSION = 3
CURRENT = "current"
GENERATIONS = "generations"
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
# How every corruption can be mended.
MEND = (
    "Restore it from a backup, roll back with `persona4rec rollback-index`, or publish again: materialise the asset "
    "persona_index."
)
POLARITY = {"appreciative": 1, "mixed": 0, "critical": -1}

ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("summary", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("attributes", pa.string()),  # a JSON object of texts
        ("made_from", pa.string()),  # hash of all that is stored about the item; equal hash, equal item
    ]
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
HISTORIES = pa.schema(
    [("catalog", pa.string()), ("item_id", pa.string()), ("at", pa.timestamp("us"))]  # UTC
)
SEEN = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("catalog", pa.string())])

# Rows of a batch of a table on disk, but of the last one. Fixed, so that equal rows give equal bytes however they arrived,
# and that the batch of a row is known from its number.
BATCH_BITS = 16
BATCH_ROWS = 1 << BATCH_BITS


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


class SegmentCounts(Record):
    """What a segment holds: items and their personas, `dead` items and their personas among them."""

    items: int
    personas: int
    dead: int = 0


class CatalogCounts(Record):
    """What a shard holds: items and personas that are alive, and its segments by the names of their folders."""

    items: int
    personas: int
    segments: dict[str, SegmentCounts]


class Contents(Record):
    """What a generation says about itself, apart from its number, its time and its checksums.

    recency_decay, half_life_days, max_history: how a profile is made of a history, as all of its profiles were. blends: how
    candidates and personas are blended, as learned with this encoder; None where nothing was learned. interactions_through:
    by catalogue, the id of the last interaction of the queue (`interactions.py`) that the tables contained.
    """

    encoder: EncoderReference
    dimension: int
    recency_decay: float
    half_life_days: float | None
    max_history: int
    catalogs: dict[str, CatalogCounts]
    users: int
    history: int
    seen: int
    blends: Blends | None
    interactions_through: dict[str, int] = {}


class Manifest(Contents):
    """`manifest.json`. `content_hash` covers everything but `generation` and `created_at` (UTC, ISO 8601)."""

    format_version: int
    generation: int
    created_at: str
    files: dict[str, str]
    content_hash: str


@dataclass(frozen=True)
class Published:
    """A generation on disk that was verified."""

    path: Path
    manifest: Manifest


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


def segment_folder(generation: Path, catalog: str, segment: str) -> Path:
    """The folder of a segment of a catalogue's shard."""
    return shard_folder(generation, catalog) / segment


def segment_name(number: int) -> str:
    """The name of a shard's nth segment, from 1."""
    return f"segment={number:06d}"


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


def link_files(source: Path, target: Path) -> None:
    """Take a folder over into a new generation. Files never change after their publication: linked, not copied."""
    shutil.copytree(source, target, copy_function=os.link)


def publish(
    index_path: Path, write: Callable[[Path, Published | None], Contents], keep_generations: int
) -> Publication:
    """Let `write` fill an empty folder, then make it the current generation; readers see the old one or the new one.

    `write` is also given the current generation, None where there is none or it is damaged, to take over what is the same.

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
            known = _verified_current(index_path)
            contents = write(unfinished, known)
            checksums = _checksums(unfinished, known)
            if known is not None and known.manifest.content_hash == _content_hash(contents, checksums):
                return Publication(path=known.path, manifest=known.manifest, published=False)
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


def generation_folder(index_path: Path, number: int) -> Path:
    """The folder of a generation. Raises IndexMissing, listing those that there are, when it is not on disk."""
    folder = index_path / GENERATIONS / f"{number:06d}"
    if not folder.is_dir():
        raise IndexMissing(f"Generation {number} is not at {index_path}; there are: {generation_numbers(index_path)}.")
    return folder


def make_current(index_path: Path, number: int) -> Path:
    """Roll back (or forward) to a generation that is still on disk, after verifying it; returns its folder.

    Raises IndexMissing, listing the generations there are, when it is not on disk; IndexCorrupt when it is damaged.
    """
    folder = generation_folder(index_path, number)
    with _publisher_lock(index_path):
        verify(folder, read_manifest(folder))
        _switch(index_path, folder)
    return folder


def write_table(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Stream rows into an Arrow file whose bytes depend on the rows alone; returns their number."""
    rows = 0
    pending = schema.empty_table()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            rows += batch.num_rows
            pending = pa.concat_tables([pending, pa.Table.from_batches([batch]).cast(schema)])
            while pending.num_rows >= BATCH_ROWS:
                writer.write_table(pending.slice(0, BATCH_ROWS).combine_chunks())
                pending = pending.slice(BATCH_ROWS)
        if pending.num_rows:
            writer.write_table(pending.combine_chunks())
    return rows


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """An Arrow file, mapped into memory; raises IndexCorrupt when it cannot be read, or has other columns or batches."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException) as error:
        raise _corrupt(path, f"cannot be read ({error})") from error
    if not table.schema.equals(schema):
        raise _corrupt(path, f"has the columns {table.schema.names} where {schema.names} belong")
    if any(batch.num_rows != BATCH_ROWS for batch in table.to_batches()[:-1]):
        raise _corrupt(path, "is cut into other batches than this format's")
    return table


# Arrow's own ways to numpy and back import pandas where it is installed, a third of a second of a server's start.
def to_int64(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Whole numbers or truth values as int64; whatever number stands where there is null."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.empty(0, np.int64)]
    for chunk in filter(len, chunks):
        whole = chunk.cast(pa.int64())
        parts.append(np.frombuffer(whole.buffers()[1], np.int64, len(whole), whole.offset * 8))
    return np.concatenate(parts)


def from_int64(values: np.ndarray) -> pa.Array:
    """int64 as an Arrow array."""
    whole = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(whole), [None, pa.py_buffer(whole)])


def write_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A new .npy file of this shape, mapped for writing; `flush()` it when filled."""
    if 0 in shape:
        np.save(path, np.empty(shape, dtype), allow_pickle=False)
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)


def flush(array: np.ndarray) -> None:
    """Write what `write_array` gave to disk."""
    if isinstance(array, np.memmap):
        array.flush()


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _corrupt(path: Path, problem: str) -> IndexCorrupt:
    return IndexCorrupt(f"{path} {problem}. {MEND}")


def _content_hash(contents: Contents, checksums: dict[str, str]) -> str:
    stated = contents.model_dump(include=set(Contents.model_fields), mode="json")
    text = json.dumps([FORMAT_VERSION, stated, checksums], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _checksums(folder: Path, known: Published | None) -> dict[str, str]:
    """sha256 of every file; of those that are linked from the current generation, which has just been verified, its own."""
    linked = (
        {} if known is None else {_inode(known.path / name): digest for name, digest in known.manifest.files.items()}
    )
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): linked.get(_inode(path)) or file_sha256(path) for path in paths}


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _verified_current(index_path: Path) -> Published | None:
    """The current generation, or None where there is none that could be kept: a damaged one is worth replacing."""
    try:
        path = current_generation(index_path)
        manifest = read_manifest(path)
        verify(path, manifest)
    except IndexProblem:
        return None
    return Published(path, manifest)


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
