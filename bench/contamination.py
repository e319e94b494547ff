"""Time and peak memory of comparing a pool with the benchmarks (target: 52,002 records and six benchmarks with about
31,000 items in 2 minutes on two cores, 4 GiB).

Without --pool and --benchmarks the texts are made up, of the sizes of Alpaca and of the paper's benchmarks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from adg.places import ROOT
from bench.shared import peak_mib, show


def invented(records: int, items: int) -> tuple[list[tuple[str, str, str]], dict[str, list]]:
    """Records and one benchmark of words drawn by Zipf's law; every hundredth record holds an item."""
    import numpy as np

    from adg import seeds
    from adg.evaluation.items import Split

    draw = seeds.generator(0, "bench", "contamination")
    vocabulary = np.array([f"w{i}" for i in range(30_000)])
    weights = 1 / np.arange(1, 30_001)

    def texts(count: int, mean: int) -> list[str]:
        lengths = draw.geometric(1 / mean, count)
        words = draw.choice(vocabulary, int(lengths.sum()), p=weights / weights.sum())
        return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]

    questions = texts(items, 60)
    prompts, outputs = texts(records, 15), texts(records, 50)
    planted = set(range(0, records, 100))
    rows = [(str(i), prompts[i], questions[i % items] if i in planted else outputs[i]) for i in range(records)]
    return rows, {"gsm8k": [Split("main", "test", True, list(zip(questions, texts(items, 20), strict=True)))]}


def real(pool: Path, benchmarks: Path) -> dict[str, object]:
    """The stage itself, from files to the finished artifact."""
    import yaml

    from adg.artifacts.store import Store
    from adg.evaluation import contamination
    from adg.evaluation.config import SuiteConfig
    from adg.execution import ExecConfig
    from adg.pools import stage as pool_stage
    from adg.pools.config import PoolConfig

    values = yaml.safe_load((ROOT / "conf" / "suite" / "paper.yaml").read_text(encoding="utf-8"))
    suite = SuiteConfig.of({**values, "data_root": str(benchmarks)})
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, ExecConfig())
        node = pool_stage.node(PoolConfig(name=pool.stem, path=str(pool), empty_output="keep"))
        store.ensure(node)
        started = time.perf_counter()
        artifact = store.ensure(contamination.node(node, suite))
        seconds = time.perf_counter() - started
        counted = contamination.count(artifact, contamination.overlaps(artifact))
    return {
        "records": artifact.info["rows_in"],
        "seconds": round(seconds, 1),
        "items": sum(entry["items"] for kinds in counted.values() for entry in kinds.values()),
        "counts": counted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, help="a pool's file")
    parser.add_argument("--benchmarks", type=Path, help="folder of the benchmarks, as suite.data_root")
    parser.add_argument("--records", type=int, default=52_002)
    parser.add_argument("--items", type=int, default=31_000)
    args = parser.parse_args()
    if args.pool and args.benchmarks:
        found = real(args.pool, args.benchmarks)
    else:
        from adg.evaluation.contamination import BATCH
        from adg.evaluation.overlap import ContaminationConfig, Index

        rows, splits = invented(args.records, args.items)
        started = time.perf_counter()
        index = Index(splits, ContaminationConfig())
        indexed = time.perf_counter() - started
        hits = sum(len(index.compare(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH))
        seconds = time.perf_counter() - started
        sample = rows[:20]  # the plain way: every text of the benchmark is looked for in every record
        started = time.perf_counter()
        for _, prompt, output in sample:
            assert sum(q in prompt or q in output for q, _ in splits["gsm8k"][0].items) >= 0
        plain = (time.perf_counter() - started) / len(sample) * len(rows)
        found = {
            "records": len(rows),
            "items": args.items,
            "seconds": round(seconds, 1),
            "of_which_indexing": round(indexed, 1),
            "overlaps": hits,
            "ratio_to_exact_search_one_by_one": round(plain / seconds, 1),
        }
    show({"benchmark": "contamination", **found, "peak_memory_gib": round(peak_mib() / 1024, 3)})


if __name__ == "__main__":
    main()
