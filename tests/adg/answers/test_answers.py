"""Sampling: the draw itself, the engines, shards and resume. A tiny random model everywhere but where vLLM runs."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from adg import prompts, seeds
from adg.answers import stage as answers_stage
from adg.answers import transformers_engine
from adg.answers.config import Answers, EngineConfig, NotFinite, SamplingConfig
from adg.answers.transformers_engine import TransformersEngine
from adg.answers.vllm_engine import Reseed
from adg.artifacts.artifact import WORK, Job
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.seeds import preserved_generators
from tests import processes

TINY = BackboneConfig(name="tiny", builder="tiny_random", dtype="float32")
SHORT = SamplingConfig(n=3, max_new_tokens=12, seed=7)


def rows(count: int) -> list[dict]:
    """A pool whose prompts differ in length, with integer and string ids out of order."""
    made = [{"id": i, "instruction": f"Say {'very ' * (i % 5)}much about {i}.", "output": "x"} for i in range(count)]
    made[1]["input"] = "some context"
    made.append({"id": "b", "instruction": "Last.", "output": ""})
    return made[::-1]


def write_pool(path: Path, made: list[dict]) -> PoolConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return PoolConfig(name="pool", path=str(path), empty_output="keep")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"), ExecConfig(device="cpu"))


@pytest.fixture(scope="module")
def backbone(store):
    return store.ensure(backbone_stage.node(TINY))


@pytest.fixture(scope="module")
def tokenizer(backbone):
    return loading.load_tokenizer(backbone)


@pytest.fixture(scope="module")
def pool_cfg(tmp_path_factory) -> PoolConfig:
    return write_pool(tmp_path_factory.mktemp("pool") / "pool.jsonl", rows(9))


def node(pool: PoolConfig, sampling: SamplingConfig = SHORT, backbone=TINY, **engine):
    engine.setdefault("batch_size", 4)
    return answers_stage.node(pool_stage.node(pool), backbone_stage.node(backbone), sampling, EngineConfig(**engine))


def engine(backbone, tokenizer, sampling=SHORT) -> TransformersEngine:
    cfg = Answers(sampling, EngineConfig(), "")
    return TransformersEngine(backbone, tokenizer, cfg, ExecConfig(device="cpu"), 0)


# -- the draw ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.4, 0.9, 0),
        (1.4, 0.9, 50),
        (0.7, 0.3, 0),
        (1.0, 1.0, 5),
        (1.0, 1.0, 0),
        (2.0, 0.05, 20),
        (1.0, 0.6, 3),
    ],
)
def test_draw_has_the_distribution_of_transformers_processors(temperature, top_p, top_k):
    import torch
    from scipy.stats import chisquare
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 120, generator=torch.Generator().manual_seed(3)) * 2
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = expected.softmax(-1)[0].double().numpy()

    count = 40_000
    draw = torch.Generator().manual_seed(11)
    drawn = transformers_engine.draw(logits.expand(count, -1), temperature, top_p, top_k, draw).numpy()
    seen = np.bincount(drawn, minlength=120)
    support = expected > 0
    assert not seen[~support].any()
    likely = expected * count > 5
    observed = np.append(seen[likely], seen[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum()) * count
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    if len(wanted) > 1:
        assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_draw_is_greedy_at_temperature_zero_and_leaves_the_global_generator_alone():
    import torch

    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    before = torch.get_rng_state()
    assert transformers_engine.draw(logits, 0, 0.9, 0, torch.Generator()).tolist() == [1, 0]
    transformers_engine.draw(logits, 1.4, 0.9, 2, torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


def test_draw_names_the_rows_that_are_not_finite():
    import torch

    logits = torch.zeros(4, 5)
    logits[2, 1], logits[3, 0] = float("nan"), float("inf")
    with pytest.raises(NotFinite, match=r"\[2, 3\]"):
        transformers_engine.draw(logits, 1.0, 0.9, 0, torch.Generator())


# -- the transformers engine ---------------------------------------------------------------------------------


def test_greedy_batch_equals_generate_one_prompt_at_a_time(backbone, tokenizer):
    """Left padding, the shared reading of prompts and taking ended answers out change nothing."""
    import torch

    texts = ["Hi", "Name three fruits and say why they are good.", "What is 12 + 30?", "Why?", "Sing a song", "x"]
    asked = [prompts.encode_prompt(tokenizer, prompts.render(text)) for text in texts]
    greedy = SamplingConfig(n=1, temperature=0, max_new_tokens=24)
    ours = engine(backbone, tokenizer, greedy)
    with torch.inference_mode():
        wanted = [
            ours.model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=24,
                pad_token_id=tokenizer.pad_token_id,
            )[0, len(ids) :].tolist()
            for ids in asked
        ]
    ours.stop = sorted({line[i] for i, line in enumerate(wanted[:4], 3)})  # answers that end at several steps
    cut = [next((line[: i + 1] for i, t in enumerate(line) if t in ours.stop), line) for line in wanted]
    assert len({len(line) for line in cut}) > 2
    drawn = ours.sample(asked, greedy, 0)
    assert [answers[0].ids for answers in drawn] == cut
    assert [answers[0].finish_reason for answers in drawn] == [
        "stop" if line[-1] in ours.stop else "length" for line in cut
    ]


def test_a_sample_depends_on_its_arguments_alone(backbone, tokenizer):
    import torch

    asked = [prompts.encode_prompt(tokenizer, prompts.render(text)) for text in ("One", "Two words", "Three of them")]
    ours = engine(backbone, tokenizer)
    before = torch.get_rng_state()
    first, other, again = (ours.sample(asked, SHORT, seed) for seed in (5, 6, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again != other
    assert all(len(answers) == SHORT.n for answers in first)
    assert len({tuple(a.ids) for answers in first for a in answers}) > SHORT.n


# -- the stage -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(store, pool_cfg):
    return store.ensure(node(pool_cfg))


def test_payload_is_keyed_by_record_and_sample_in_canonical_order(answers, store, pool_cfg, tokenizer):
    table = pq.read_table(answers.file("answers.parquet"))
    assert table.column_names == ["id", "sample", "text", "finish_reason", "tokens", "prompt_tokens", "seed"]
    keys = [str(i) for i in range(9)] + ['"b"']
    assert table["id"].to_pylist() == [key for key in keys for _ in range(3)]
    assert table["sample"].to_pylist() == [0, 1, 2] * 10
    for row in table.to_pylist():
        assert 1 <= row["tokens"] <= 12
        assert row["finish_reason"] == "stop" or row["tokens"] == 12
        assert row["text"] == row["text"].strip()
    assert set(table["seed"].to_pylist()) == {seeds.child(7, "answers", batch) for batch in range(3)}
    record = next(r for r in records.load(store.ensure(pool_stage.node(pool_cfg))) if r.id == 1)
    asked = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))
    assert table.filter(np.array(table["id"]) == "1")["prompt_tokens"][0].as_py() == len(asked)


def test_counts_in_the_manifest(answers):
    table = pq.read_table(answers.file("answers.parquet"))
    info = answers.info
    assert (info["rows_in"], info["rows_out"], info["failed"], info["answers"]) == (10, 10, [], 30)
    assert info["empty"] == sum(text == "" for text in table["text"].to_pylist())
    assert info["truncated"] == table["finish_reason"].to_pylist().count("length")
    assert info["tokens"] == sum(table["tokens"].to_pylist())
    assert (info["batches"], info["resumed_batches"]) == (3, 0)


def test_load_gives_the_answers_by_key_in_sample_order(answers):
    loaded = answers_stage.load(answers)
    table = pq.read_table(answers.file("answers.parquet")).to_pylist()
    assert list(loaded) == list(dict.fromkeys(row["id"] for row in table))
    assert [text for texts in loaded.values() for text in texts] == [row["text"] for row in table]


def test_the_order_of_rows_in_the_pool_does_not_matter(answers, store, tmp_path):
    other = store.ensure(node(write_pool(tmp_path / "other.jsonl", rows(9)[::-1])))
    assert other.path != answers.path
    assert other.file("answers.parquet").read_bytes() == answers.file("answers.parquet").read_bytes()


def test_released_settings_cut_the_prompt_and_leave_the_input_out(store, pool_cfg):
    cut = dataclasses.replace(SHORT, prompt_tokens=40, use_input=False, top_k=50)
    built = store.ensure(node(pool_cfg, cut))
    table = pq.read_table(built.file("answers.parquet"))
    assert set(table["prompt_tokens"].to_pylist()) == {40}
    assert built.info["prompts_cut"] == 10


def test_prompts_that_do_not_fit_fail_before_a_model_is_loaded(store, tmp_path, monkeypatch):
    made = rows(3)
    made[0]["instruction"] = "word " * 3000
    cfg = write_pool(tmp_path / "long.jsonl", made)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
        with pytest.raises(BadMeasurement, match=r'1 of 4 records cannot be sampled \(first: record "b": a prompt of'):
            store.ensure(node(cfg))
    allowed = Store(store.root, ExecConfig(device="cpu", max_failed=1)).ensure(node(cfg))
    assert (allowed.info["rows_in"], allowed.info["rows_out"]) == (4, 3)
    assert [row["id"] for row in allowed.info["failed"]] == ['"b"']
    assert json.loads(allowed.file("failed.jsonl").read_text())["reason"].startswith("a prompt of")
    assert list(answers_stage.load(allowed)) == ["0", "1", "2"]


def test_a_model_that_returns_nan_fails_naming_the_record(store, backbone, tokenizer, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(loading.model_path(backbone), folder)
    weights = load_file(folder / "model.safetensors")
    (only,) = prompts.encode(tokenizer, "\x00")
    weights["model.embed_tokens.weight"][only] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    made = rows(3)
    made[2]["instruction"] += "\x00"
    broken = BackboneConfig(name="broken", path=str(folder), dtype="float32")
    with pytest.raises(BadMeasurement, match=f"scores for record {made[2]['id']};"):
        store.ensure(node(write_pool(tmp_path / "nan.jsonl", made), backbone=broken))


def test_identity_holds_what_changes_answers_and_nothing_else(pool_cfg):
    base = node(pool_cfg).fingerprint
    changes = {
        "n": 4,
        "temperature": 1.0,
        "top_p": 0.8,
        "top_k": 50,
        "max_new_tokens": 13,
        "prompt_tokens": 80,
        "use_input": False,
        "strip": False,
        "logprobs": True,
        "seed": 8,
    }
    assert {f.name for f in dataclasses.fields(SamplingConfig)} == {*changes, "preset"}
    changed = [node(pool_cfg, dataclasses.replace(SHORT, **{name: value})) for name, value in changes.items()]
    changed += [
        node(pool_cfg, dtype="bfloat16"),
        node(pool_cfg, batch_size=5),
        node(pool_cfg, name="vllm"),
        node(pool_cfg, name="vllm", max_num_seqs=8),
        node(pool_cfg, name="vllm", max_num_batched_tokens=9),
        node(pool_cfg, name="vllm", enforce_eager=True),
    ]
    assert len({base, *(n.fingerprint for n in changed)}) == len(changed) + 1
    assert node(pool_cfg, dataclasses.replace(SHORT, preset="mine")).fingerprint == base
    assert node(pool_cfg, max_num_seqs=8, cpu_cache_gb=9).fingerprint == base
    assert prompts.HASH in json.dumps(node(pool_cfg).payload)
    assert "logprobs" not in json.dumps(node(pool_cfg).payload)  # it came later, and leaves answers without it alone


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: SamplingConfig(n=0), "sampling.n is 0"),
        (lambda: SamplingConfig(top_p=0.0), "sampling.top_p is 0.0"),
        (lambda: SamplingConfig(temperature=0.0), "sampling.n=1"),
        (lambda: EngineConfig(name="vlm"), "did you mean 'vllm'"),
        (lambda: EngineConfig(dtype="int8"), "engine.dtype is 'int8'"),
        (lambda: EngineConfig(batch_size=0), "engine.batch_size is 0"),
    ],
)
def test_wrong_settings_are_named(build, named):
    with pytest.raises(BadInput, match=named):
        build()


# -- resume --------------------------------------------------------------------------------------------------


def test_missing_and_damaged_shards_are_sampled_again_with_the_same_result(store, pool_cfg, tmp_path, answers):
    wanted = node(pool_cfg)
    job = Job(wanted, tmp_path, {role: store.ensure(parent) for role, parent in wanted.inputs.items()}, store.exec)
    answers_stage.build(job)
    whole = (tmp_path / "answers.parquet").read_bytes()
    assert whole == answers.file("answers.parquet").read_bytes()
    shards = sorted(job.work.glob("*.shard"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    shards[1].write_bytes(shards[2].read_bytes())  # the answers to other prompts
    (tmp_path / "answers.parquet").unlink()
    assert answers_stage.build(job)["resumed_batches"] == 1
    assert (tmp_path / "answers.parquet").read_bytes() == whole


DRIVER = """
import sys
from adg.answers import stage as answers_stage
from adg.answers.config import EngineConfig, SamplingConfig
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.execution import ExecConfig
from adg.artifacts.store import Store

runs, pool, engine, new_tokens = sys.argv[1:5]
node = answers_stage.node(
    pool_stage.node(PoolConfig(name="pool", path=pool, empty_output="keep")),
    backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="float32")),
    SamplingConfig(n=3, max_new_tokens=int(new_tokens), seed=7),
    EngineConfig(name=engine, batch_size=2, max_num_seqs=4, enforce_eager=True, cpu_cache_gb=1),
)
"""
RUN = DRIVER + "print(Store(runs, ExecConfig(device='cpu')).ensure(node).path)\n"


def start(root: Path, code: str, *args: object) -> processes.Process:
    return processes.start(["-c", code, *map(str, args)], cwd=root, together=True)


def test_reseeding_sets_every_generator_and_leaves_none_changed():
    """vLLM's workers draw from torch's, or take a request's seed from numpy's, as the machine has it."""
    import random

    import torch

    def drawn():
        return random.random(), np.random.randint(2**31), torch.rand(1).item()  # noqa: NPY002 - the global one

    def after(seed):
        with preserved_generators():
            Reseed().reseed(seed)
            return drawn()

    with preserved_generators():
        Reseed().reseed(1)
        expected = drawn(), drawn()
        Reseed().reseed(1)
        found = drawn(), after(2), drawn()
    assert (found[0], found[2]) == expected, "what is drawn inside leaves the states outside as they were"
    assert after(2) == found[1] and not set(found[1]) & set(expected[0])


def finish(process: processes.Process) -> str:
    out, _ = process.communicate()
    assert process.returncode == 0, out[-3000:]
    return out.strip().splitlines()[-1]


def kill_after(process: processes.Process, runs: Path, shards: int) -> int:
    """Kill -9 as soon as that many shards are finished; the number that were."""
    while process.poll() is None:
        done = len(list(runs.glob(f"answers/*.partial/{WORK}/*.shard")))
        if done >= shards:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL, process.communicate()[0][-3000:]
    return len(list(runs.glob(f"answers/*.partial/{WORK}/*.shard")))


def test_killed_and_resumed_run_equals_an_unbroken_one(root, tmp_path):
    write_pool(tmp_path / "pool.jsonl", rows(23))
    args = (tmp_path / "pool.jsonl", "hf", 50)
    done = kill_after(start(root, RUN, tmp_path / "killed", *args), tmp_path / "killed", 3)
    assert 3 <= done < 12
    cfg = PoolConfig(name="pool", path=str(args[0]), empty_output="keep")
    wanted = node(cfg, SamplingConfig(n=3, max_new_tokens=50, seed=7), batch_size=2)
    resumed, unbroken = (
        Store(tmp_path / name, ExecConfig(device="cpu")).ensure(wanted) for name in ("killed", "unbroken")
    )
    assert (resumed.info["resumed_batches"], unbroken.info["resumed_batches"]) == (done, 0)
    assert resumed.file("answers.parquet").read_bytes() == unbroken.file("answers.parquet").read_bytes()
    assert not (resumed.path / "work").exists()


VLLM = (
    DRIVER
    + """
import dataclasses, os, torch
from adg import prompts
from adg.answers.transformers_engine import TransformersEngine
from adg.answers.vllm_engine import VllmEngine
from adg.backbones import loading

exec_ = ExecConfig(device="cpu")
store = Store(runs, exec_)
backbone = store.ensure(node.inputs["backbone"])
tokenizer = loading.load_tokenizer(backbone)
asked = [prompts.encode_prompt(tokenizer, prompts.render(text)) for text in ("Hi", "Name three fruits.", "What?")]
greedy = SamplingConfig(n=1, temperature=0, max_new_tokens=8)
warm = SamplingConfig(n=3, max_new_tokens=8, logprobs=True)
other = TransformersEngine(backbone, tokenizer, node.config, exec_, 0)
wanted = other.sample(asked, greedy, 0)

def likelihood(prompt, ids):
    scores = other.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return scores.gather(1, torch.tensor(ids)[:, None]).sum().item()

class Compared(VllmEngine):
    def close(self):
        found = self.sample(asked, greedy, 0)
        plain, kept = (self.sample(asked, dataclasses.replace(warm, logprobs=on), 5) for on in (False, True))
        super().close()
        assert found == wanted, (found, wanted)
        for prompt, without, answers in zip(asked, plain, kept, strict=True):
            assert [one.ids for one in answers] == [one.ids for one in without]
            assert all(one.logprob is None for one in without)
            for one in answers:  # of the model's own distribution, not the one that was drawn from
                assert abs(one.logprob - likelihood(prompt, one.ids)) < 1e-3, (one, likelihood(prompt, one.ids))

def state():
    generator = torch.get_rng_state().tolist()
    return dict(os.environ), os.sched_getaffinity(0), torch.get_num_threads(), torch.set_num_threads, generator

before = state()
answers_stage.BY_NAME["vllm"] = Compared
resumed = store.ensure(node).path
assert state() == before
assert not torch.distributed.is_initialized()
answers_stage.BY_NAME["vllm"] = VllmEngine
unbroken = Store(runs + "-unbroken", exec_).ensure(node).path
print(resumed, unbroken, Store(runs + "-two", ExecConfig(device="cpu", replicas=2)).ensure(node).path)
"""
)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_samples_resumes_and_gives_the_process_back(root, tmp_path):
    """The real engine: killed and resumed = unbroken = two replicas, greedy = transformers', no trace left behind."""
    pytest.importorskip("vllm")
    write_pool(tmp_path / "pool.jsonl", rows(11))
    args = (tmp_path / "pool.jsonl", "vllm", 24)
    runs = tmp_path / "runs"
    done = kill_after(start(root, RUN, runs, *args), runs, 2)
    assert 2 <= done < 6
    resumed, unbroken, two = map(Path, finish(start(root, VLLM, runs, *args)).split())
    info = json.loads((resumed / "manifest.json").read_text())["info"]
    assert info["resumed_batches"] == done
    assert info["answers"] == 36
    for other in (unbroken, two):
        assert (resumed / "answers.parquet").read_bytes() == (other / "answers.parquet").read_bytes()
    table = pq.read_table(resumed / "answers.parquet").to_pylist()
    assert {row["finish_reason"] for row in table} <= {"stop", "length"}
    assert all(row["tokens"] == 24 or row["finish_reason"] == "stop" for row in table)
    assert len({row["text"] for row in table}) > 30
