"""The users of a generation: their profiles, what these are made of, and what they have seen.

Belongs here: from a user_id to rows of the files. Does not belong here: items, scores, answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona4rec_pipeline.index import files
from persona4rec_pipeline.index.files import IndexCorrupt, Manifest
from persona4rec_pipeline.index.segments import Column, Segment

DAY_S = 86_400


class People:
    """Open files of one generation, mapped from disk; safe to share between threads."""

    def __init__(self, folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> None:
        """Raises IndexCorrupt, naming the file, when something is wrong with one."""
        users = files.read_table(folder / "users.arrow", files.USERS)
        # In alphabetical order of their bytes, as they were written.
        self.ids: tuple[str, ...] = tuple(users.column("user_id").to_pylist())
        self._interactions = users.column("interactions").to_numpy()
        self._rows = {user_id: row for row, user_id in enumerate(self.ids)}
        shape = (len(self.ids), manifest.dimension)
        self._profiles = files.read_array(folder / "profiles.npy", shape, "float16")
        self._offsets = files.read_array(folder / "history_offsets.npy", (len(self.ids) + 1,), "int64")
        history_shape = (manifest.history, manifest.dimension)
        self._vectors = files.read_array(folder / "history_vectors.npy", history_shape, "float16")
        history = files.read_table(folder / "histories.arrow", files.HISTORIES)
        self._past = {name: Column(history, name) for name in files.HISTORIES.names}
        if (self._offsets[0], self._offsets[-1], history.num_rows) != (0, manifest.history, manifest.history):
            raise IndexCorrupt(f"The histories of {folder} do not fit each other. {files.MEND}")
        self._open_seen(files.read_table(folder / "seen.arrow", files.SEEN), segments)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._rows

    def profile(self, user_id: str) -> np.ndarray | None:
        """float32 (d,) of unit length, or None."""
        row = self._rows.get(user_id)
        return None if row is None else np.asarray(self._profiles[row], np.float32)

    def interactions(self, user_id: str) -> int:
        """Positive train interactions; 0 without a profile."""
        row = self._rows.get(user_id)
        return 0 if row is None else int(self._interactions[row])

    def vectors(self, user_id: str) -> tuple[np.ndarray, np.ndarray]:
        """What the profile is made of, most recent first: float32 (l, d), and float64 (l,), times in days since 1970."""
        own = self._own(user_id)
        times = [self._past["at"][row] for row in range(own.start, own.stop)]
        days = [(at - datetime(1970, 1, 1)).total_seconds() / DAY_S for at in times]
        return np.asarray(self._vectors[own], np.float32), np.array(days, np.float64)

    def past(self, user_id: str) -> list[tuple[str, str, datetime]]:
        """(catalogue, item_id, time) of the same interactions."""
        own = self._own(user_id)
        return [
            (self._past["catalog"][row], self._past["item_id"][row], self._past["at"][row])
            for row in range(own.start, own.stop)
        ]

    def has_seen(self, user_id: str) -> bool:
        """Whether the user has any train interaction, positive or not, with an item that is still there or not."""
        return user_id in self._seen_of

    def seen(self, user_id: str) -> np.ndarray:
        """Rows, int64, of the items that the user has interacted with in train."""
        start, stop = self._seen_of.get(user_id, (0, 0))
        return self._seen[start:stop]

    def starting_with(self, prefix: str, limit: int) -> list[str]:
        """The first ids with a profile that begin with `prefix`, in alphabetical order."""
        first = bisect_left(self.ids, prefix.encode(errors="surrogatepass"), key=lambda name: name.encode())
        found = self.ids[first : first + max(limit, 0)]
        return [user_id for user_id in found if user_id.startswith(prefix)]

    def _own(self, user_id: str) -> slice:
        row = self._rows.get(user_id)
        return slice(0, 0) if row is None else slice(int(self._offsets[row]), int(self._offsets[row + 1]))

    def _open_seen(self, seen: pa.Table, segments: Sequence[Segment]) -> None:
        rows = np.full(seen.num_rows, -1, np.int64)
        item_ids = seen.column("item_id").combine_chunks()
        for segment in segments:
            own = np.flatnonzero(pc.equal(seen.column("catalog"), segment.catalog).to_numpy())
            found = pc.index_in(item_ids.take(pa.array(own)), value_set=segment.items.column("item_id"))
            local = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
            alive = local >= 0
            alive[alive] = ~segment.dead[local[alive]]
            rows[own[alive]] = local[alive] + segment.first
        encoded = seen.column("user_id").combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], pa.string())
        encoded = encoded.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)[rows >= 0]
        bounds = np.searchsorted(codes, np.arange(len(encoded.dictionary) + 1))
        # A user whose items are all gone has an empty range, and is still no stranger.
        self._seen_of = {
            user_id: (int(bounds[code]), int(bounds[code + 1]))
            for code, user_id in enumerate(encoded.dictionary.to_pylist())
        }
        self._seen = rows[rows >= 0]
