"""What several measurements share: the model that is run, the records, the two clocks, how a result is printed."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adg.places import PACKAGE


def model_arguments(parser: argparse.ArgumentParser, columns: str, records: int) -> None:
    """Options that say which model is measured, on which records, and how often."""
    parser.add_argument("--backbone", default="smollm2_135m", help="an embedded backbone")
    parser.add_argument("--model", type=Path, help="a model folder instead, as written by save_pretrained")
    parser.add_argument(
        "--pool", type=Path, help=f"rows with {columns} (parquet or JSON Lines); default: the embedded pools"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--records", type=int, default=records)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)


@contextmanager
def open_backbone(args: argparse.Namespace) -> Iterator[Any]:
    """The artifact of the model that ``args`` name, in a folder that is deleted afterwards."""
    from adg.artifacts.store import Store
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig

    source = {"path": str(args.model)} if args.model else {"builder": args.backbone}
    config = BackboneConfig(name="bench", dtype=args.dtype, **source)
    with tempfile.TemporaryDirectory() as folder:
        yield Store(folder, ExecConfig()).ensure(backbone_stage.node(config))


def read_rows(path: Path | None, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a file, or of the embedded pools."""
    if path is not None and path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path, columns=list(columns)).to_pylist()
    files = [path] if path is not None else sorted((PACKAGE / "mini" / "pools").glob("*.jsonl"))
    return [
        json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def timed(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What a function returns, and its seconds by the clock and of the processor: these hardly feel other work."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - wall, time.process_time() - processor)


def race(
    ways: Mapping[str, Callable[[], Any]], repeats: int, reference: Sequence[str], ours: str = "ours"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Run each way ``repeats`` times in turn: their last results, the figures to print, the median seconds of each.

    Ratios say how many times as long each ``reference`` takes as ``ours``.
    """
    results: dict[str, Any] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            results[name], taken = timed(way)
            times[name].append(taken)
    figures: dict[str, Any] = {}
    medians: dict[str, float] = {}
    for kind, which in (("", 0), ("processor_", 1)):
        median = {name: statistics.median(taken[which] for taken in runs) for name, runs in times.items()}
        medians = medians or median
        figures[f"{kind}ratio"] = {name: round(median[name] / median[ours], 2) for name in reference}
        figures[f"{kind}seconds"] = {name: [round(taken[which], 2) for taken in runs] for name, runs in times.items()}
    return results, figures, medians


def peak_mib() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def environment(device: str) -> dict[str, Any]:
    """Where a model was measured: memory, machine, device, threads, versions."""
    import torch

    from adg.artifacts import provenance

    return {
        "peak_memory_gib": round(peak_mib() / 1024, 2),
        "machine": provenance.machine(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: provenance.library_versions()[name] for name in ("torch", "transformers")},
    }


def show(result: Mapping[str, Any]) -> None:
    """Print a result as JSON."""
    print(json.dumps(result, indent=2))
