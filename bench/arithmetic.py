"""What the default study costs at least: the products of its matrices, counted by torch while the stages run, at the
rate of this machine's cores:  python -m bench.arithmetic [--profile mini] [--selectors untrained,all,random,ifd,adg]

Stages of one backbone and pool are run for the selectors named, one thread, in a folder that is deleted afterwards;
others of a kind are taken to cost as much. No sweep can be sooner than the total over all cores; what it takes above
that is everything else: attention's softmax, norms, loading, Python.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench.shared import environment, show

Kind = tuple[str, str]  # stage, and for a training the size of what is trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--selectors", default="untrained,all,random,ifd,superfiltering,adg")
    args = parser.parse_args()
    import torch

    from adg.backbones import loading, precision
    from experiments.cells import cells

    torch.set_num_threads(1)
    study = cells([f"profile={args.profile}"])
    first = study[0].config
    chosen = [
        cell
        for cell in study
        if (cell.config.backbone.name, cell.config.pool.name) == (first.backbone.name, first.pool.name)
        and cell.selector.name in args.selectors.split(",")
    ]
    with tempfile.TemporaryDirectory() as folder:
        measured = run(chosen, folder)
        backbone = measured.pop("backbone")
        rates = precision.fastest(loading.read_config(backbone), "cpu")[1]
        own = rates[loading.dtype_of(backbone)]
    count = numbers(study)
    stages = {}
    for kind, runs in measured.items():
        flops = sum(flops for flops, _ in runs) / len(runs)
        rate = rates["float32"] if kind[0] == "eval" else own
        stages[" ".join(kind).strip()] = {
            "artifacts_in_the_study": count[kind],
            "gflop_each": round(flops / 1e9, 1),
            "processor_seconds_each": round(sum(seconds for _, seconds in runs) / len(runs), 1),
            "at_least_seconds_in_all": round(count[kind] * flops / rate / 1e9, 1),
        }
    least = sum(stage["at_least_seconds_in_all"] for stage in stages.values())
    cores = os.cpu_count() or 1
    show(
        {
            "stages": stages,
            "gflop_per_second_of_one_core": rates,
            "at_least_minutes_on_all_cores": round(least / cores / 60, 1),
            "cores": cores,
            **environment("cpu"),
        }
    )


def run(cells: Iterable[Any], folder: str) -> dict[Any, Any]:
    """(FLOPs, processor seconds) of each stage that was run, by kind; and the artifact of the backbone."""
    from torch.utils.flop_counter import FlopCounterMode

    from adg.artifacts.store import Store

    found: dict[Any, Any] = defaultdict(list)
    seen: set[str] = set()
    for cell in cells:
        store = Store(folder, cell.config.exec)
        for role, node in cell.nodes.items():
            if node.fingerprint in seen:
                continue
            seen.add(node.fingerprint)
            before, counter = time.process_time(), FlopCounterMode(display=False)
            with counter:
                artifact = store.ensure(node)
            if role == "backbone":
                found["backbone"] = artifact
            elif counter.get_total_flops():
                found[kind_of(node, cell)].append((counter.get_total_flops(), time.process_time() - before))
    return found


def kind_of(node: Any, cell: Any) -> Kind:
    """Of what costs alike; a training on all rows is another kind than one on a subset."""
    whole = node.stage.name == "adapter" and cell.selector.name == "all"
    return node.stage.name, "on all rows" if whole else ""


def numbers(study: Iterable[Any]) -> Mapping[Kind, int]:
    """How many artifacts of each kind a study has; what cannot be made here is not counted."""
    kinds = {
        node.fingerprint: kind_of(node, cell)
        for cell in study
        if not any(node.lacks for node in cell.nodes.values())
        for node in cell.nodes.values()
    }
    count: dict[Kind, int] = defaultdict(int)
    for kind in kinds.values():
        count[kind] += 1
    return count


if __name__ == "__main__":
    main()
