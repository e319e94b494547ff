"""Peak memory of scoring does not grow with the pool: the same stage on a small and on a ten times larger pool.

Each size runs in a process of its own on the tiny random model, with made-up answers; its peak resident memory is
what the system reports at its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adg.places import PACKAGE, ROOT
from bench.shared import peak_mib, show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_score(args.child, args.records[0], args.tokens_per_batch)))
        return

    from adg.artifacts import provenance

    found = []
    for records in args.records:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), records, args.answers)
            command = [
                sys.executable,
                "-m",
                "bench.memory",
                "--child",
                folder,
                "--records",
                str(records),
                "--tokens-per-batch",
                str(args.tokens_per_batch),
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
            if done.returncode:
                raise SystemExit(f"scoring {records} records failed:\n{done.stderr[-2000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    show(
        {
            "benchmark": "memory of scoring",
            "model": "tiny_random",
            "answers": args.answers,
            "tokens_per_batch": args.tokens_per_batch,
            "runs": found,
            "peak_growth_mib": round(found[-1]["peak_mib"] - found[0]["peak_mib"], 1),
            "records_ratio": round(found[-1]["records"] / found[0]["records"], 1),
            "machine": provenance.machine(),
        }
    )


def _write(folder: Path, records: int, answers: int) -> None:
    """``records.parquet`` and ``answers.parquet`` of made-up words, lengths drawn alike whatever the size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from adg import seeds

    draw = seeds.generator(0, "bench", "memory")
    words = (PACKAGE / "mini" / "pools" / "general.jsonl").read_text(encoding="utf-8").split()

    def text(low: int, high: int) -> str:
        return " ".join(words[int(i)] for i in draw.integers(len(words), size=int(draw.integers(low, high))))

    keys = [str(i) for i in range(records)]
    empty = [""] * records
    pq.write_table(
        pa.table({"id": keys, "instruction": [text(4, 16) for _ in keys], "input": empty, "output": empty}),
        folder / "records.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "id": [key for key in keys for _ in range(answers)],
                "sample": list(range(answers)) * records,
                "text": [text(2, 12) for _ in range(records * answers)],
            }
        ),
        folder / "answers.parquet",
    )


def _score(folder: Path, records: int, tokens_per_batch: int) -> dict[str, Any]:
    """Run the scoring stage in this process; memory in MiB."""
    from adg import prompts
    from adg.artifacts.artifact import Artifact, Job, Node
    from adg.artifacts.store import Store
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.embedding import stage as embedding_stage
    from adg.embedding.config import EmbeddingConfig, GramsIdentity
    from adg.execution import ExecConfig

    exec_ = ExecConfig(device="cpu", tokens_per_batch=tokens_per_batch)
    backbone = Store(folder / "runs", exec_).ensure(
        backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="float32"))
    )
    made = {
        name: Artifact(folder, {"files": {f"{file}.parquet": {}}, "info": {}, "fingerprint": name})
        for name, file in (("pool", "records"), ("answers", "answers"))
    }
    config = GramsIdentity(EmbeddingConfig(), prompts.HASH)
    job = Job(Node(embedding_stage.STAGE, "bench", config), folder / "out", {**made, "backbone": backbone}, exec_)
    job.folder.mkdir()
    before, started = peak_mib(), time.perf_counter()
    info = embedding_stage.build(job)
    return {
        "records": info["rows_out"],
        "peak_mib": peak_mib(),
        "peak_before_mib": before,
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
