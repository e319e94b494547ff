"""Time and peak memory of the selectors' own algorithms at the size of the paper's pools.

    python -m bench.selectors                                  (all that need no real records, full size)
    python -m bench.selectors --pool alpaca.parquet            (ZIP and SCAR's near-duplicate step as well)
    python -m bench.selectors --parts mig facility --rows 5000 --budget 1000

Each is also compared with the plain way (recompressing, every gain or every distance in every step) over the first
rounds, where the plain way can still be waited for; the selections must be equal.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adg import seeds
from adg.pools.records import Record
from adg.prompts import instruction_text
from bench.shared import peak_mib
from bench.shared import timed as both_clocks


def read(path: Path, rows: int | None) -> list[Record]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id", "instruction", "input", "output"])
    return [Record(**row) for row in table.slice(0, rows).to_pylist()]


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    result, (wall, processor) = both_clocks(function)
    return result, {"seconds": round(wall, 2), "cpu_seconds": round(processor, 2)}


def race_zip(args: argparse.Namespace) -> dict[str, Any]:
    """Default k1, k2, k3 over real records; the plain way for one round of a small k1 on the same records."""
    from baselines.zip import Corpus, ZipConfig, item_text, select

    items = [item_text(record) for record in read(args.pool, args.rows)]
    empty = Corpus()
    first = np.array([empty.ratio(item) for item in items])
    config = ZipConfig(workers=args.workers)
    rows, took = timed(lambda: select(items, first, min(args.budget, len(items)), config))

    def plain(budget: int, k1: int, k2: int, k3: int) -> list[int]:
        known, out = dict(enumerate(first.tolist())), list[int]()
        while len(out) < budget:
            near = sorted(known, key=lambda i: (known[i], i))[:k1]
            for i in near:
                text = b"[" + b", ".join([*(items[j] for j in out), items[i]]) + b"]"
                known[i] = len(text) / len(zlib.compress(text, 9))
            second, batch = sorted(near, key=lambda i: (known[i], i))[:k2], list[int]()
            while len(batch) < min(k3, budget - len(out)):
                ratios = {}
                for i in second:
                    if i not in batch:
                        text = b"[" + b", ".join([*(items[j] for j in batch), items[i]]) + b"]"
                        ratios[i] = len(text) / len(zlib.compress(text, 9))
                batch.append(min(ratios, key=lambda i: (ratios[i], i)))
            out += batch
            for i in batch:
                del known[i]
        return out

    small: dict[str, Any] = {"k1": 200, "k2": 50, "k3": 25}
    slow, slow_took = timed(lambda: plain(200, **small))
    fast, fast_took = timed(lambda: select(items, first, 200, ZipConfig(workers=1, **small)))
    return {
        "records": len(items),
        "bytes": sum(map(len, items)),
        "selected": len(set(rows.tolist())),
        "threads": args.workers,
        **took,
        "plain": {
            "budget": 200,
            **small,
            "same": slow == fast.tolist(),
            "plain_cpu": slow_took["cpu_seconds"],
            "ours_cpu": fast_took["cpu_seconds"],
        },
    }


def race_mig(args: argparse.Namespace) -> dict[str, Any]:
    """Synthetic annotations: 1 to 6 of the labels a record, frequent ones often; labels in families of three."""
    from baselines.mig import Annotation, MigConfig, greedy, label_matrix, propagation, similarity_graph, slope

    rng = seeds.generator(0, "bench", "mig")
    n, size = args.rows or 52_002, args.labels
    labels = [f"{i:05d}" for i in range(size)]
    centres = np.repeat(rng.normal(size=(size // 3 + 1, 384)), 3, axis=0)[:size]
    vectors = centres + 0.3 * rng.normal(size=(size, 384))
    weights = 1 / np.arange(1, size + 1)
    annotations = [
        Annotation(
            tuple(labels[k] for k in rng.choice(size, size=rng.integers(1, 7), p=weights / weights.sum())),
            float(rng.uniform(1, 36)),
        )
        for _ in range(n)
    ]
    budget = min(args.budget, n)

    def ours() -> list[int]:
        spread = label_matrix(annotations, labels, norm=False) @ propagation(similarity_graph(vectors, 0.9), 1.0)
        return greedy(spread, range(n), budget, slope(MigConfig()))

    rows, took = timed(ours)
    spread = (label_matrix(annotations, labels, norm=False) @ propagation(similarity_graph(vectors, 0.9), 1.0)).tocsr()

    def plain(steps: int) -> list[int]:
        held, left, out = np.zeros(size), np.ones(n, dtype=bool), []
        for _ in range(steps):
            gains = np.where(left, spread @ (0.8 * (held + 1e-6) ** (0.8 - 1)), -np.inf)
            best = int(np.argmax(gains))
            held += spread[best].toarray()[0]
            left[best] = False
            out.append(best)
        return out

    steps = min(budget, 300)
    slow, slow_took = timed(lambda: plain(steps))
    return {
        "records": n,
        "labels": size,
        "entries": int(spread.nnz),
        "selected": len(set(rows)),
        **took,
        "plain": {
            "steps": steps,
            "same": slow == rows[:steps],
            "plain_cpu_a_step": slow_took["cpu_seconds"] / steps,
            "ours_cpu_a_step": took["cpu_seconds"] / budget,
        },
    }


def race_near(args: argparse.Namespace) -> dict[str, Any]:
    """SCAR's near-duplicate step over real records, threshold 0.5; every pair compared on the first 1,500."""
    from baselines.shared.near_duplicates import bigrams, groups

    texts = [f"{instruction_text(record)} {record.output}" for record in read(args.pool, args.rows)]
    first, took = timed(lambda: groups(texts, 0.5))
    some = texts[:1500]

    def plain() -> list[int]:
        sets, group = [bigrams(text) for text in some], list(range(len(some)))
        for i, x in enumerate(sets):
            for j in range(i):
                shared = len(x & sets[j])
                if shared and group[i] != group[j] and shared / (len(x) + len(sets[j]) - shared) >= 0.5:
                    old, new = max(group[i], group[j]), min(group[i], group[j])
                    group = [new if g == old else g for g in group]
        return group

    slow, slow_took = timed(plain)
    fast, fast_took = timed(lambda: groups(some, 0.5))
    pairs = len(texts) * (len(texts) - 1) / 2
    return {
        "records": len(texts),
        "kept": len(set(first.tolist())),
        **took,
        "plain": {
            "records": len(some),
            "same": slow == fast.tolist(),
            "plain_cpu": slow_took["cpu_seconds"],
            "ours_cpu": fast_took["cpu_seconds"],
            "plain_cpu_for_all_estimated": round(slow_took["cpu_seconds"] * pairs / (len(some) ** 2 / 2)),
        },
    }


def points(args: argparse.Namespace) -> np.ndarray:
    """Synthetic sentence vectors of length 1: 1,000 groups of uneven size, a fiftieth of the rows copies of others."""
    rng = seeds.generator(0, "bench", "points")
    n = args.rows or 52_002
    group = np.minimum(rng.geometric(0.004, size=n), 1000) - 1
    made = rng.normal(size=(1000, args.width))[group] + 0.7 * rng.normal(size=(n, args.width))
    copies = rng.choice(n, size=n // 50, replace=False)
    made[copies] = made[rng.integers(0, n, size=len(copies))]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def race_kcenter(args: argparse.Namespace) -> dict[str, Any]:
    """Farthest-first; the plain way, all distances to the newest centre in every step, over the first steps."""
    from baselines.kcenter import farthest_first

    vectors = points(args)
    budget = min(args.budget, len(vectors))
    rows, took = timed(lambda: farthest_first(vectors, budget, [0]))

    def plain(steps: int) -> list[int]:
        exact, out = vectors.astype(np.float64), [0]
        nearest = np.full(len(exact), np.inf)
        while len(out) < steps:
            nearest = np.minimum(nearest, ((exact - exact[out[-1]]) ** 2).sum(axis=1))
            out.append(int(np.argmax(nearest)))
        return out

    steps = min(budget, 100)
    slow, slow_took = timed(lambda: plain(steps))
    return {
        "records": len(vectors),
        "width": args.width,
        "selected": len(set(rows.tolist())),
        **took,
        "plain": {
            "steps": steps,
            "same": slow == rows[:steps].tolist(),
            "plain_cpu_a_step": slow_took["cpu_seconds"] / steps,
            "ours_cpu_a_step": took["cpu_seconds"] / budget,
        },
    }


def race_facility(args: argparse.Namespace) -> dict[str, Any]:
    """Facility location with the cosine kernel; the plain way, the whole matrix and every gain, on the first 2,000."""
    from baselines.facility_location import greedy

    vectors = points(args)
    budget = min(args.budget, len(vectors))
    rows, took = timed(lambda: greedy(vectors, budget))
    some, few = vectors[:2000], 200

    def plain() -> list[int]:
        matrix = (1 + some.astype(np.float64) @ some.T.astype(np.float64)) / 2
        covered, left, out = np.zeros(len(some)), np.ones(len(some), dtype=bool), []
        for _ in range(few):
            gains = np.where(left, np.maximum(matrix - covered, 0).sum(axis=1), -1)
            best = int(np.flatnonzero(gains >= gains.max() - 1e-9)[0])
            covered = np.maximum(covered, matrix[best])
            left[best] = False
            out.append(best)
        return out

    slow, slow_took = timed(plain)
    fast, fast_took = timed(lambda: greedy(some, few))
    return {
        "records": len(vectors),
        "width": args.width,
        "selected": len(set(rows.tolist())),
        **took,
        "matrix_mib_not_held": len(vectors) ** 2 * 4 // 2**20,
        "plain": {
            "records": len(some),
            "budget": few,
            "same": slow == fast.tolist(),
            "plain_cpu": slow_took["cpu_seconds"],
            "ours_cpu": fast_took["cpu_seconds"],
        },
    }


def race_deita(args: argparse.Namespace) -> dict[str, Any]:
    """DEITA's filter, rows best first, threshold 0.9; the plain way, one row at a time, until 4,000 are kept."""
    from baselines.deita import diverse

    vectors = points(args)
    budget = min(args.budget, len(vectors))
    rows, took = timed(lambda: diverse(vectors, 0.9, budget))
    every, every_took = timed(lambda: diverse(vectors, 0.9))

    def plain(limit: int) -> list[int]:
        kept = [0]
        for i in range(1, len(vectors)):
            if len(kept) == limit:
                break
            if (vectors[kept] @ vectors[i]).max() <= 0.9:
                kept.append(i)
        return kept

    limit = min(budget, 4000)
    slow, slow_took = timed(lambda: plain(limit))
    fast, fast_took = timed(lambda: diverse(vectors, 0.9, limit))
    return {
        "records": len(vectors),
        "width": args.width,
        "selected": len(set(rows.tolist())),
        **took,
        "whole_pool": {"kept": len(every), **every_took},
        "plain": {
            "limit": limit,
            "same": slow == fast.tolist(),
            "plain_cpu": slow_took["cpu_seconds"],
            "ours_cpu": fast_took["cpu_seconds"],
        },
    }


PARTS = {
    "zip": race_zip,
    "mig": race_mig,
    "near": race_near,
    "kcenter": race_kcenter,
    "facility": race_facility,
    "deita": race_deita,
}
REAL = ("zip", "near")  # need real records


def _child(name: str, args: argparse.Namespace, out: Any) -> None:
    result = PARTS[name](args)
    out.send({**result, "peak_mib": peak_mib()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="parquet with id, instruction, input, output, for zip and near")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=None)
    parser.add_argument("--rows", type=int, default=None, help="the first so many records only")
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=4_531)
    parser.add_argument("--width", type=int, default=384, help="of the synthetic vectors")
    parser.add_argument("--workers", type=int, default=1, help="threads of ZIP")
    args = parser.parse_args()
    if args.parts is None:
        args.parts = [name for name in PARTS if args.pool is not None or name not in REAL]
        if args.pool is None:
            print(f"left out, no --pool given: {', '.join(REAL)}")
    elif args.pool is None and (real := [name for name in args.parts if name in REAL]):
        parser.error(f"{', '.join(real)}: real records are needed; give --pool <parquet>")
    context = multiprocessing.get_context("spawn")  # a process each, so that peaks do not add up
    for name in args.parts:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(name, args, send))
        process.start()
        send.close()
        try:
            print(json.dumps({"part": name, **receive.recv()}), flush=True)
        except EOFError:
            sys.exit(f"error: the benchmark of {name} failed; its traceback is above")
        process.join()


if __name__ == "__main__":
    main()
