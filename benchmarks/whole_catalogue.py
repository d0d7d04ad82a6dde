"""The best 100 of 100,000 items of 5 personas each, exactly: how near to the memory's bound, and how often as brute force.

    python -m benchmarks.whole_catalogue [--personas 500000] [--queries 1000] [--rounds 40]

Bound: the bytes of the codes that every scan has to read (those of personas that are not critical, though reading on is faster
than to leave out the others), through the read bandwidth of this machine with as many threads, measured in the same run on the
same mapped file, in turn with the scan; the best of two ways to read. Peers: brute force in float32, in numpy and in
torch, which hold four times the memory. Agreement: the items and their order against a float32 matrix product and its maximum
by item, where items may change places whose scores differ by less than the rounding of float32, SAME. Two sets of vectors:
random ones, which lie far apart, and clustered ones around a common direction, as encoders make them, of which a tenth are
copies or near copies of others.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numba import njit
from threadpoolctl import threadpool_limits

from persona4rec_pipeline.index import kernels

PERSONAS_PER_ITEM, DIMENSION, K = 5, 384, 100
CLUSTERS, SPREAD, COMMON = 2000, 0.8, 1.0
CRITICAL_SHARE = 0.1
# Rounding of two float32 sums of 384 products of unit vectors, both ways.
SAME = 2e-6
TARGET_RATIO, TARGET_AGREEMENT = 1.5, 0.999
QUERIES_AT_ONCE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--personas", type=int, default=500_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=kernels.default_threads())
    arguments = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} (above 0, others take part in all figures)")
    _print_start()
    with tempfile.TemporaryDirectory() as folder:
        for name, made in (("random", _random_vectors), ("clustered", _clustered_vectors)):
            random = np.random.default_rng(11)
            vectors = made(random, arguments.personas)
            print(
                f"\n{name} vectors: {len(vectors)} personas of {len(vectors) // PERSONAS_PER_ITEM} items x {DIMENSION}"
            )
            _Run(Path(folder), random, vectors, arguments.threads).run(arguments.queries, arguments.rounds)


class _Run:
    def __init__(self, folder: Path, random: np.random.Generator, vectors: np.ndarray, threads: int) -> None:
        self.random, self.threads = random, threads
        self.offsets = np.arange(0, len(vectors) + 1, PERSONAS_PER_ITEM)
        self.polarity = np.where(random.random(len(vectors)) < CRITICAL_SHARE, -1, 1).astype(np.int8)
        codes, scales, errors = kernels.quantise(vectors)
        # Mapped from files, as an index is.
        self.vectors, self.codes = _mapped(folder / "vectors.npy", vectors), _mapped(folder / "codes.npy", codes)
        self.scan = kernels.Scan(self.vectors, self.offsets, self.polarity, self.codes, scales, errors, threads)
        self.wide = torch.from_numpy(vectors.astype(np.float32))
        self.critical = torch.from_numpy(np.where(self.polarity < 0, -np.inf, 0).astype(np.float32))
        self.pool = ThreadPoolExecutor(threads)
        print(f"margin of a score: {errors.mean():.4f} on average, {errors.max():.4f} at most")

    def run(self, queries: int, rounds: int) -> None:
        profiles = self._profiles(queries)
        self._print_speed(profiles, rounds)
        self._print_batches(profiles)
        self._print_agreement(profiles)

    def _profiles(self, count: int) -> np.ndarray:
        """Half of them near to personas, as profiles are, half anywhere."""
        near = self.vectors[self.random.choice(len(self.vectors), count)].astype(np.float32)
        away = self.random.normal(size=(count, DIMENSION)) / np.sqrt(DIMENSION)
        near[count // 2 :] = 0
        return _unit(near + away.astype(np.float32))

    def _print_speed(self, profiles: np.ndarray, rounds: int) -> None:
        wide = self.wide.numpy()
        critical = self.critical.numpy()

        def in_numpy(profile: np.ndarray) -> np.ndarray:
            scores = (wide @ profile + critical).reshape(-1, PERSONAS_PER_ITEM).max(axis=1)
            best = np.argpartition(-scores, K)[:K]
            return best[np.argsort(-scores[best], kind="stable")]

        def in_torch(profile: np.ndarray) -> torch.Tensor:
            with torch.inference_mode():
                scores = (self.wide @ torch.from_numpy(profile) + self.critical).view(-1, PERSONAS_PER_ITEM).amax(1)
                return torch.topk(scores, K).indices

        functions: dict[str, Callable[[np.ndarray], object]] = {
            "read, one stream": lambda _: self._read(1),
            "read, four streams": lambda _: self._read(4),
            "persona4rec": lambda profile: self.scan.top(profile, K),
            "numpy float32": in_numpy,
            "torch float32": in_torch,
        }
        torch.set_num_threads(self.threads)
        times: dict[str, list[float]] = {name: [] for name in functions}
        # One after the other: the threads of BLAS and OpenMP wait for more work in a busy loop, beside whatever comes next.
        peers = {"numpy float32", "torch float32"}
        with threadpool_limits(self.threads):
            for names in (functions.keys() - peers, {"numpy float32"}, {"torch float32"}):
                for turn in range(rounds + 2):
                    for name in (name for name in functions if name in names):
                        began = time.perf_counter()
                        functions[name](profiles[turn % len(profiles)])
                        if turn >= 2:
                            times[name].append(time.perf_counter() - began)
                time.sleep(1)
        for label, of in (
            ("median", statistics.median),
            ("lower quartile", lambda times: statistics.quantiles(times, n=4)[0]),
        ):
            found = {name: of(measured) for name, measured in times.items()}
            read = min(found["read, one stream"], found["read, four streams"])
            bound = read * float((self.polarity >= 0).mean())
            ours = found["persona4rec"]
            print(
                f"top {K}, {label} of {rounds}, {self.threads} threads: {ours * 1e3:.2f} ms; bound {bound * 1e3:.2f} ms "
                f"({self.codes.nbytes / read / 1e9:.1f} GB/s); ratio {ours / bound:.2f} "
                f"(target {TARGET_RATIO}, {'met' if ours / bound <= TARGET_RATIO else 'MISSED'}); "
                + ", ".join(
                    f"{name} {found[name] * 1e3:.1f} ms = {found[name] / ours:.1f} x"
                    for name in ("numpy float32", "torch float32")
                )
            )

    def _read(self, streams: int) -> None:
        words = self.codes.reshape(-1)[: self.codes.size // 8 * 8].view(np.int64)
        cuts = np.linspace(0, len(words), self.threads * 8 + 1).astype(np.int64)
        parts = [words[start:stop] for start, stop in itertools.pairwise(cuts)]
        list(self.pool.map(_sum if streams == 1 else _sum_of_four_streams, parts))

    def _print_batches(self, profiles: np.ndarray) -> None:
        barred = self.random.random(len(self.offsets) - 1)
        tasks: dict[str, tuple[int, Callable[[], object]]] = {
            f"{count} users in one pass": (count, lambda count=count: self.scan.top_many(profiles[:count], K))
            for count in (4, 16, 64)
        }
        tasks["one user of 3 tastes"] = (1, lambda: self.scan.top(profiles[:3], K))
        for share in (0.5, 0.98):
            tasks[f"{share:.0%} of the items barred"] = (
                1,
                lambda share=share: self.scan.top(profiles[0], K, barred < share),
            )
        for name, (count, task) in tasks.items():
            times = []
            for _ in range(4):
                began = time.perf_counter()
                task()
                times.append(time.perf_counter() - began)
            best = min(times)
            print(f"{name}: {best * 1e3:.1f} ms, {count / best:.0f} users/s")

    def _print_agreement(self, profiles: np.ndarray) -> None:
        agreed = places = 0
        for start in range(0, len(profiles), QUERIES_AT_ONCE):
            part = profiles[start : start + QUERIES_AT_ONCE]
            with torch.inference_mode():
                cosines = self.wide @ torch.from_numpy(part).T + self.critical[:, None]
                scores = cosines.view(-1, PERSONAS_PER_ITEM, len(part)).amax(1).T.contiguous().numpy()
            one_by_one = [self.scan.top(profile, K) for profile in part[:5]]
            for place, found in enumerate([*one_by_one, *self.scan.top_many(part[5:], K)]):
                of_all = scores[place]
                threshold = np.partition(of_all, len(of_all) - K)[len(of_all) - K]
                best = np.flatnonzero(of_all >= threshold)
                best = best[np.argsort(-of_all[best], kind="stable")][:K]
                moved = found.items != best
                agreed += len(set(found.items.tolist())) == K and bool(
                    (np.abs(of_all[found.items[moved]] - of_all[best[moved]]) <= SAME).all()
                )
                places += int(moved.sum())
        share = agreed / len(profiles)
        print(
            f"agreement with brute force: {agreed} of {len(profiles)} queries, {share:.2%} "
            f"(target {TARGET_AGREEMENT:.1%}, {'met' if share >= TARGET_AGREEMENT else 'MISSED'}); of {len(profiles) * K} "
            f"places {places} hold another item of the same score"
        )


@njit("int64(Array(int64, 1, 'C', readonly=True))", nogil=True)
def _sum(words):
    total = 0
    for place in range(words.shape[0]):
        total += words[place]
    return total


@njit("int64(Array(int64, 1, 'C', readonly=True))", nogil=True)
def _sum_of_four_streams(words):
    total, quarter = 0, words.shape[0] // 4
    for place in range(quarter):
        total += words[place] + words[place + quarter] + words[place + 2 * quarter] + words[place + 3 * quarter]
    return total


def _print_start() -> None:
    code = (
        "import time; from persona4rec_pipeline.index import kernels; began = time.perf_counter(); import numba; "
        "imported = time.perf_counter(); kernels.warm_up(); ended = time.perf_counter(); "
        "print(f'numba imported in {imported - began:.2f} s, kernels ready {ended - imported:.2f} s later')"
    )
    with tempfile.TemporaryDirectory() as cache:
        for state in ("first start of all", "later starts"):
            told = subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            print(f"{state}: {told.stdout.strip()}")


def _mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return np.asarray(np.load(path, mmap_mode="r"))


def _random_vectors(random: np.random.Generator, rows: int) -> np.ndarray:
    return _in_blocks(rows, lambda start, stop: random.standard_normal((stop - start, DIMENSION), np.float32))


def _clustered_vectors(random: np.random.Generator, rows: int) -> np.ndarray:
    common = _unit(random.normal(size=(1, DIMENSION))) * COMMON
    centres = common + _unit(random.normal(size=(CLUSTERS, DIMENSION)))
    noise = SPREAD / np.sqrt(DIMENSION)

    def block(start: int, stop: int) -> np.ndarray:
        of = centres[random.integers(0, CLUSTERS, stop - start)]
        return of + noise * random.standard_normal((stop - start, DIMENSION), np.float32)

    vectors = _in_blocks(rows, block)
    copied = random.choice(rows, rows // 10, replace=False)
    near = vectors[random.choice(rows, len(copied))].astype(np.float32)
    near[: len(near) // 2] += 1e-3 * random.standard_normal((len(near) // 2, DIMENSION), np.float32)
    vectors[copied] = _unit(near)
    return vectors


def _in_blocks(rows: int, block: Callable[[int, int], np.ndarray], size: int = 20_000) -> np.ndarray:
    vectors = np.empty((rows, DIMENSION), np.float16)
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        vectors[start:stop] = _unit(block(start, stop))
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
