"""Time and peak memory of ``geometry.divergence`` on many Gram matrices (target: 1,000,000 of 5 x 5 in 5 s, 2 GiB)."""

from __future__ import annotations

import argparse
import statistics
import time

from bench.shared import peak_mib, show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    import numpy as np

    from adg import geometry, seeds
    from adg.artifacts import provenance

    draw = seeds.generator(0, "bench", "geometry")
    grams = np.empty((args.records, args.answers, args.answers))
    for start in range(0, args.records, 10_000):
        part = draw.standard_normal((min(10_000, args.records - start), args.answers, 16), dtype=np.float32)
        grams[start : start + len(part)] = geometry.gram(part)

    def seconds() -> float:
        started = time.perf_counter()
        scores = geometry.divergence(grams)
        assert scores.shape == (args.records,)
        return time.perf_counter() - started

    def one_by_one(count: int) -> float:
        """The formula on one matrix at a time, as a script would write it: seconds for ``count`` records."""
        centre = np.eye(args.answers) - 1 / args.answers
        started = time.perf_counter()
        for i in range(count):
            values = np.linalg.eigvalsh(centre @ grams[i] @ centre)
            total = float(values.sum())
            score = 0.6 * total / args.answers + 0.4 * (1 - values[-1] / total if total >= 1e-12 else 0.0)
            assert abs(score - expected[i]) < 1e-9
        return time.perf_counter() - started

    times = [seconds() for _ in range(args.repeats)]
    sample = min(args.records, 20_000)
    expected = geometry.divergence(grams[:sample])
    naive = one_by_one(sample) / sample * args.records
    median = statistics.median(times)
    show(
        {
            "benchmark": "geometry.divergence",
            "records": args.records,
            "answers": args.answers,
            "seconds": round(median, 3),
            "all_seconds": [round(t, 3) for t in times],
            "ratio_to_one_at_a_time": round(naive / median, 1),
            "peak_memory_gib": round(peak_mib() / 1024, 3),
            "machine": provenance.machine(),
            "numpy": np.__version__,
        }
    )


if __name__ == "__main__":
    main()
