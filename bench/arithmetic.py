"""What the default study costs at least: the products of its matrices, counted by torch while the stages run, at the
rate of this machine's cores when all are busy:  python -m bench.arithmetic [--each 1]

For each backbone the first artifacts of each kind are made from the first pool, one thread, in a folder that is deleted
afterwards; others of a kind are taken to cost as much (counting makes stages take two to three times as long). A sweep
that is sooner than the total would need other products; what it takes above that is all the rest: softmax, norms,
loading, Python.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench.shared import environment, show

TOKENS = 512  # as many as are run at once
SECONDS = 3.0
Kind = tuple[str, str, str]  # stage, backbone, and for a training the size of what is trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--selectors", default="random,all,ifd,adg", help="whose stages are run, in this order")
    parser.add_argument("--each", type=int, default=1, help="artifacts of a kind that are made")
    args = parser.parse_args()
    import torch

    from adg.backbones import loading
    from experiments.cells import cells

    torch.set_num_threads(1)
    study = cells([f"profile={args.profile}"])
    pool, order = study[0].config.pool.name, args.selectors.split(",")
    chosen = [cell for cell in study if cell.config.pool.name == pool and cell.selector.name in order]
    with tempfile.TemporaryDirectory() as folder:
        measured = run(sorted(chosen, key=lambda cell: order.index(cell.selector.name)), folder, args.each)
        backbone = measured.pop("backbone")
        config, dtype = loading.read_config(backbone), loading.dtype_of(backbone)
    cores = len(os.sched_getaffinity(0))
    rates = {name: rate(config, name, cores) for name in {"float32", dtype}}
    count = numbers(study)
    stages = {}
    for kind, runs in measured.items():
        flops = sum(flops for flops, _ in runs) / len(runs)
        at = rates["float32" if kind[0] == "eval" else dtype]
        stages[" ".join(kind).strip()] = {
            "artifacts_in_the_study": count[kind],
            "gflop_each": round(flops / 1e9, 1),
            "processor_seconds_each": round(sum(seconds for _, seconds in runs) / len(runs), 1),
            "at_least_seconds_in_all": round(count[kind] * flops / at / 1e9, 1),
        }
    least = sum(stage["at_least_seconds_in_all"] for stage in stages.values())
    show(
        {
            "stages": stages,
            "gflop_per_second_of_one_core": rates,
            "at_least_minutes_on_all_cores": round(least / cores / 60, 1),
            "cores": cores,
            **environment("cpu"),
        }
    )


def run(cells: Iterable[Any], folder: str, each: int) -> dict[Any, Any]:
    """(FLOPs, processor seconds) of the first ``each`` artifacts of every kind; and the artifact of a backbone."""
    from torch.utils.flop_counter import FlopCounterMode

    from adg.artifacts.store import Store

    found: dict[Any, Any] = defaultdict(list)
    seen: set[str] = set()
    for cell in cells:
        store = Store(folder, cell.config.exec)
        for role, node in cell.nodes.items():  # what a stage reads comes before it
            if node.fingerprint in seen or len(found.get(kind_of(node, cell), [])) >= each:
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


def rate(config: Mapping[str, Any], dtype: str, cores: int) -> float:
    """GFLOP/s of each of ``cores`` cores that all multiply ``TOKENS`` tokens by a projection of the model's MLP."""
    import torch

    width, inner, done = int(config["hidden_size"]), int(config["intermediate_size"]), [0] * cores
    end = time.perf_counter() + SECONDS

    def work(core: int) -> None:
        torch.set_num_threads(1)
        tokens = torch.ones(TOKENS, width, dtype=getattr(torch, dtype))
        weights = torch.ones(inner, width, dtype=getattr(torch, dtype))
        while time.perf_counter() < end:
            torch.nn.functional.linear(tokens, weights)
            done[core] += 1

    threads = [threading.Thread(target=work, args=(core,)) for core in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(done) * 2 * TOKENS * width * inner / SECONDS / cores / 1e9, 1)


def kind_of(node: Any, cell: Any) -> Kind:
    """Of what costs alike; a training on all rows is another kind than one on a subset."""
    whole = node.stage.name == "adapter" and cell.selector.name == "all"
    return node.stage.name, cell.config.backbone.name, "on all rows" if whole else ""


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
