"""The benchmarks run: what they measure is not tested, only that they measure and say so when they cannot."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow


def run(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return processes.run(["-m", f"bench.{name}", *arguments], cwd=root, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def test_without_a_gpu_the_benchmark_says_so(root: Path) -> None:
    done = run(root, "gpu")
    assert done.returncode == 1 and "sees no GPU" in done.stdout and "--tiny" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_gpu_benchmark_on_a_tiny_model(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run(root, "gpu", "--tiny", "--repeats", "1", "--records", "4", "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["shape"] == "tiny" and found["scoring"]["answers_per_second"] > 0
    assert 0 < found["scoring"]["share_of_peak"] < 1 and found["sampling"]["tokens"] > 0
    assert found["scoring"]["largest_gram_difference"] < 1e-5
    assert not out.exists(), "figures of a tiny model are not kept for the plan"


def test_the_memory_benchmark_on_small_pools(root: Path) -> None:
    done = run(root, "memory", "--records", "40", "160")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert [run_["records"] for run_ in found["runs"]] == [40, 160]
    assert all(run_["peak_mib"] >= run_["peak_before_mib"] > 0 for run_ in found["runs"])


def test_lm_evals_own_command_line_gives_the_same_scores(root: Path) -> None:
    done = run(root, "evaluation", "--backbone", "tiny_random", "--limit", "1", "--new-tokens", "4")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["items"] == 5 and found["different_prompts"] == found["different_scores"] == []


def test_shared_contexts_against_lm_evals_own_model(root: Path) -> None:
    done = run(root, "shared_context", "--backbone", "tiny_random", "--limit", "1", "--new-tokens", "4")
    assert done.returncode == 0, done.stderr[-2000:]
    tasks = json.loads(done.stdout)["tasks"]
    assert list(tasks) == ["mmlu", "truthfulqa_mc2", "gsm8k"] and tasks["gsm8k"]["different_texts"] == 0
    assert all(task["largest_difference"] < 1e-3 for task in tasks.values())


def test_one_pass_against_two_and_the_released_codes_way(root: Path) -> None:
    done = run(root, "one_pass", "--backbone", "tiny_random", "--records", "3", "--new-tokens", "4", "--repeats", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["processor_ratio"]) == {"reference", "two_passes"}
    assert all(0 < tokens <= 3 * 5 * 4 for tokens in found["tokens"].values())
    assert found["parity"]["answers"] == 15 and (found["parity"]["largest_gram_difference"] or 0) < 1e-5


def test_start_up_of_a_command(root: Path) -> None:
    done = run(root, "startup", "--commands", "plan --help", "--repeats", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)["processor_seconds"]["plan --help"]
    assert len(found["all"]) == 2 and found["least"] == min(found["all"]) > 0


def test_the_products_of_a_study_are_counted(root: Path) -> None:
    done = run(root, "arithmetic", "--profile", "smoke", "--selectors", "random")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["stages"]) == {"adapter tiny_random", "eval tiny_random", "heldout tiny_random"}
    assert all(stage["gflop_each"] > 0 and stage["artifacts_in_the_study"] == 2 for stage in found["stages"].values())
    training = found["stages"]["adapter tiny_random"]
    least = 2 * training["gflop_each"] / found["gflop_per_second_of_one_core"]["float32"]
    assert training["at_least_seconds_in_all"] == pytest.approx(least, abs=0.06)
