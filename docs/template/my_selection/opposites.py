"""A benchmark of our own: the opposite of a word. Its task is a file of lm-eval's kind in ``tasks/``."""

from pathlib import Path

from adg.evaluation.benchmarks import Benchmark, DataSet

OPPOSITES = Benchmark(
    "Opposites",
    DataSet(lambda row: (row["word"], row["opposite"]), configs=("default",)),
    metrics=("exact_match",),
    short="Opposite",
    tasks=Path(__file__).parent / "tasks",
)
