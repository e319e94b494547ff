"""Vectors of records: the bins', the backbone's own, a sentence encoder's built here; and every hard record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.backbones.stage import Backbone, Node
from adg.embedding.stage import Grams
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from baselines.deita import DeitaConfig
from baselines.facility_location import FacilityLocation, FacilityLocationConfig
from baselines.kcenter import Kcenter, KcenterConfig
from baselines.kmq import Kmq, KmqConfig
from baselines.shared import checkpoints, text_encoder, vectors
from baselines.shared.text_encoder import TextEncoder
from baselines.shared.vectors import TEXTS, VectorOptions

BACKBONE = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
HUB_LIKE = Node(backbone_stage.STAGE, "far", Backbone("hub", {}, "bfloat16"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("vectors"), ExecConfig(device="cpu"))


def pool_of(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps({"input": "", "output": "", **row}) + "\n" for row in rows))
    return pool_stage.node(PoolConfig(name="p", path=str(path), empty_output="keep", **options))


def loaded(store: Store, pool: Any, options: VectorOptions) -> tuple[np.ndarray, dict[int, str], SelectorData]:
    node = of(pool, BACKBONE, options)
    artifact = store.ensure(pool)
    data = SelectorData(records.load(artifact), {"vectors": store.ensure(node)}, artifact)
    return *vectors.load(data), data


def checkpoint(folder: Path, kind: str = "bert") -> Any:
    """A small random encoder in a folder as a hub's repository has it."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "what", "is", "two", "four", "plus", "?", "the", "answer"]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=16,
    )
    tokenizer.save_pretrained(folder)
    sizes = {
        "vocab_size": 12,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "pad_token_id": 0,
        "max_position_embeddings": 20,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    model.save_pretrained(folder)
    return model, tokenizer


def of(pool: Any, backbone: Any, options: VectorOptions) -> Any:
    """The node of the vectors."""
    return vectors.inputs({"pool": pool, "backbone": backbone}, options)["vectors"]


# -- texts ---------------------------------------------------------------------------------------------------


def test_texts() -> None:
    bare, full = Record(0, "Name a town", "", "Lyon"), Record(1, "Name a town", "in France", "Lyon")
    assert [TEXTS["instruction"](r) for r in (bare, full)] == ["Name a town", "Name a town\nin France"]
    assert [TEXTS["record"](r) for r in (bare, full)] == ["Name a town\nLyon", "Name a town\nin France\nLyon"]
    assert [TEXTS["lines"](r) for r in (bare, full)] == ["Name a town\n\nLyon", "Name a town\nin France\nLyon"]
    assert TEXTS["conversation"](full).endswith("questions. USER: Name a town\nin France ASSISTANT: Lyon")


# -- the backbone's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_is_that_of_the_text_alone_whatever_the_batch(store: Store, tmp_path: Path, pooling: str) -> None:
    import torch

    rows = [{"id": i, "instruction": "word " * (1 + 7 * i % 31), "input": "", "output": f"{i}"} for i in range(20)]
    pool = pool_of(tmp_path, rows)
    options = VectorOptions(vectors="backbone", vector_text="record", vector_pooling=pooling)
    found, missing, data = loaded(store, pool, options)
    assert missing == {} and found.shape == (20, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    artifact = store.ensure(BACKBONE)
    tokenizer, model = loading.load_tokenizer(artifact), loading.load_model(artifact, "cpu", headless=True)
    for record, vector in zip(data.records, found, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(TEXTS["record"](record), return_tensors="pt")).last_hidden_state[0]
        alone = (states.mean(0) if pooling == "mean" else states[-1]).numpy()
        np.testing.assert_allclose(vector, alone / np.linalg.norm(alone), atol=1e-5)


def test_special_tokens_stay_text_and_a_conversation_ends(store: Store) -> None:
    artifact = store.ensure(BACKBONE)
    tokenizer, model = loading.load_tokenizer(artifact), loading.load_model(artifact, "cpu", headless=True)
    encoder = TextEncoder(model, tokenizer, tokens=8)
    plain, ended = encoder.tokens(["a </s> b", ""]), encoder.tokens(["a </s> b", "hi"], end=True)
    assert tokenizer.eos_token_id not in plain[0] and plain[1] == [tokenizer.bos_token_id]
    assert len(ended[0]) <= 8 and ended[1][-1] == tokenizer.eos_token_id and ended[1][0] == tokenizer.bos_token_id
    assert ended[1].count(tokenizer.eos_token_id) == 1
    with pytest.raises(BadInput, match=r"selector\.vector_tokens is 4000 but LlamaModel has 2048 positions"):
        TextEncoder(model, tokenizer, tokens=4000)


def test_blank_texts_have_a_reason_and_failures_stop(store: Store, tmp_path: Path) -> None:
    rows = [{"id": 0, "instruction": "a"}, {"id": 1, "instruction": "b", "output": " "}, {"id": 2, "instruction": "a"}]
    pool = pool_of(tmp_path, rows)
    found, missing, data = loaded(store, pool, VectorOptions(vectors="backbone"))
    assert missing == {} and (found[0] == found[2]).all(), "equal texts have the very same vector"
    artifact = data.features["vectors"]
    (tmp_path / "copy").mkdir()
    for name in ("vectors.npy", "ids.json", "missing.json"):
        (tmp_path / "copy" / name).write_bytes((artifact.path / name).read_bytes())
    (tmp_path / "copy" / "ids.json").write_text('["0", "1", "77"]')
    broken = Artifact(tmp_path / "copy", artifact.manifest)
    with pytest.raises(BadMeasurement, match="holds 1 records that the pool does not, first 77"):
        vectors.load(SelectorData(data.records, {"vectors": broken}))


def test_a_model_that_gives_nan_stops_the_stage(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = TextEncoder.encode

    def failing(self: TextEncoder, texts: list[str], end: bool = False) -> np.ndarray:
        found = encode(self, texts, end)
        found[[i for i, text in enumerate(texts) if "bad" in text]] = np.nan
        return found

    monkeypatch.setattr(TextEncoder, "encode", failing)
    pool = pool_of(tmp_path, [{"id": i, "instruction": f"{'bad' if i == 2 else 'good'} {i}"} for i in range(5)])
    options = VectorOptions(vectors="backbone")
    with pytest.raises(BadMeasurement, match=r"1 records have no vector .*max_failed allows 0; their ids: 2"):
        loaded(Store(tmp_path / "a", ExecConfig(device="cpu")), pool, options)
    lenient = Store(tmp_path / "b", ExecConfig(device="cpu", max_failed=1))
    found, missing, _ = loaded(lenient, pool, options)
    assert missing == {2: "the encoder gave NaN, infinity or zeros"} and not found[2].any()


def test_a_killed_run_continues_where_it_stopped(store: Store, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(25)]
    seen: list[str] = []

    def run(some: list[str]) -> np.ndarray:
        if len(seen) >= 20:
            raise KeyboardInterrupt
        seen.extend(some)
        return np.array([[float(text.split()[1])] for text in some])

    with pytest.raises(KeyboardInterrupt):
        text_encoder.in_shards(texts, tmp_path, "numbers", run, size=10)
    assert len(seen) == 20
    seen.clear()
    assert text_encoder.in_shards(texts, tmp_path, "numbers", run, size=10)[:, 0].tolist() == list(range(25))
    assert seen == texts[20:]


def test_a_failed_shard_is_run_again_unless_nan_is_a_result(tmp_path: Path) -> None:
    answers = iter([np.nan, 1.0])

    def run(some: list[str]) -> np.ndarray:
        return np.full((len(some), 1), next(answers))

    assert np.isnan(text_encoder.in_shards(["a"], tmp_path, "once", run)).all()
    assert text_encoder.in_shards(["a"], tmp_path, "once", run).tolist() == [[1.0]]
    answers = iter([np.nan])
    for _ in range(2):
        assert np.isnan(text_encoder.in_shards(["a"], tmp_path, "kept", run, nan_is_a_result=True)).all()


# -- the bins' -----------------------------------------------------------------------------------------------


def test_the_bins_vectors_are_joined_by_id(tmp_path: Path) -> None:
    grams = Grams(["2", "0"], ["last4"], np.zeros((2, 1, 2, 2)), np.array([[0, 1], [1, 0]], dtype=np.float32))
    np.save(tmp_path / "grams.npy", grams.grams)
    np.save(tmp_path / "instructions.npy", grams.instructions)
    (tmp_path / "ids.json").write_text(json.dumps(grams.ids))
    files = {key: {} for key in ("grams.npy", "instructions.npy", "ids.json")}
    artifact = Artifact(tmp_path, {"files": files, "info": {"windows": ["last4"]}})
    data = SelectorData([Record(i, "q") for i in range(3)], {"grams": artifact})
    found, missing = vectors.load(data)
    assert found.tolist() == [[1, 0], [0, 0], [0, 1]] and list(missing) == [1]
    assert Kcenter(KcenterConfig()).inputs({"grams": BACKBONE}) == {"grams": BACKBONE}


# -- an encoder's --------------------------------------------------------------------------------------------


def test_a_sentence_encoder_is_mean_pooled(store: Store, tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "encoder"
    model, tokenizer = checkpoint(folder)
    digest = checkpoints.folder_digest(folder)
    rows = [
        {"id": 0, "instruction": "what is two plus two ?", "output": "four"},
        {"id": 1, "instruction": "the answer [SEP] is ?", "output": "two " * 30},
        {"id": 2, "instruction": "four", "output": ""},
    ]
    pool = pool_of(tmp_path, rows)
    options = VectorOptions(vectors="encoder", vector_text="lines", encoder=str(folder), encoder_sha256=digest)
    found, missing, data = loaded(store, pool, options)
    assert missing == {}
    for record, vector in zip(data.records, found, strict=True):
        given = tokenizer(TEXTS["lines"](record), return_tensors="pt", truncation=True, split_special_tokens=True)
        assert given["input_ids"].shape[1] <= 16 and given["input_ids"][0, -1] == 2
        with torch.inference_mode():
            mean = model(input_ids=given["input_ids"]).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    there = VectorOptions(vectors="encoder", vector_text="lines", encoder=str(moved), encoder_sha256=digest)
    nodes = [of(pool, BACKBONE, o).fingerprint for o in (options, there)]
    assert nodes[0] == nodes[1], "the place of a checkpoint is not identity"


def test_a_missing_or_unusable_encoder_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def fresh() -> Store:  # a store does not try again in one process
        return Store(tmp_path / "runs", ExecConfig(device="cpu"))

    pool = pool_of(tmp_path, [{"id": 0, "instruction": "what"}])
    with pytest.raises(NotRunnable, match=r"needs encoder sentence-transformers/all-MiniLM-L6-v2: set selector\.enc"):
        loaded(fresh(), pool, VectorOptions(vectors="encoder"))
    folder = tmp_path / "encoder"
    with pytest.raises(BadInput, match="which is not a folder"):
        loaded(fresh(), pool, VectorOptions(vectors="encoder", encoder=str(folder)))
    checkpoint(folder)
    digest = checkpoints.folder_digest(folder)
    with pytest.raises(BadInput, match=f"selector.encoder_sha256={digest}"):
        loaded(fresh(), pool, VectorOptions(vectors="encoder", encoder=str(folder), encoder_sha256="0" * 64))

    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("pooler.")}, folder / "model.safetensors")
    checkpoints.pretrained(folder, "cpu")  # a pooling layer is not used
    lost = "encoder.layer.0.attention.self.query.weight"
    save_file({k: v for k, v in state.items() if k != lost}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"its BertModel do not fit each other: 1 weight is missing"):
        checkpoints.pretrained(folder, "cpu")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(BadInput, match=r"lacks model.safetensors; .*save_pretrained"):
        checkpoints.pretrained(folder, "cpu")


def test_auto_is_the_embedded_backbone_or_the_encoder(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, [{"id": 0, "instruction": "what"}])
    auto = VectorOptions(vectors="auto")
    assert set(of(pool, BACKBONE, auto).inputs) == {"pool", "backbone"}
    far = of(pool, HUB_LIKE, auto)
    assert set(far.inputs) == {"pool"} and far.config.hub == "sentence-transformers/all-MiniLM-L6-v2"
    for backbone, expected in ((BACKBONE, ("record", "mean")), (HUB_LIKE, ("conversation", "last"))):
        identity = of(pool, backbone, DeitaConfig()).config
        assert (identity.text, identity.pooling, identity.tokens) == (*expected, 2048)
    given = of(pool, HUB_LIKE, DeitaConfig(vector_text="lines", vector_pooling="mean")).config
    assert (given.text, given.pooling) == ("lines", "mean")
    assert set(of(pool, HUB_LIKE, VectorOptions(vectors="backbone")).inputs) == {
        "pool",
        "backbone",
    }


# -- every hard record ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hard(store: Store, tmp_path_factory: pytest.TempPathFactory, golden: Path) -> SelectorData:
    """The golden pool: copies, empty and one-token outputs, an empty instruction, scripts, very long records."""
    rows = [
        {**row, "quality": 1 + row["id"] % 5, "complexity": 2.5}
        for row in json.loads((golden / "pool.json").read_text())["pool"]
    ]
    pool = pool_of(tmp_path_factory.mktemp("hard"), rows, empty_instruction="drop")
    node = of(pool, BACKBONE, VectorOptions(vectors="backbone", vector_text="record", vector_tokens=64))
    artifact = store.ensure(pool)
    return SelectorData(records.load(artifact), {"vectors": store.ensure(node)}, artifact)


@pytest.mark.parametrize("budget", [1, 37, 159])
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: Kcenter(KcenterConfig(**o)),
        lambda **o: FacilityLocation(FacilityLocationConfig(**o)),
        lambda **o: FacilityLocation(FacilityLocationConfig(kernel="distance", **o)),
        lambda **o: Kmq(KmqConfig(n_init=1, **o)),
    ],
    ids=["kcenter", "facility", "facility-distance", "kmq"],
)
def test_exact_budgets_of_hard_records(hard: SelectorData, make: Callable, budget: int) -> None:
    selector = make(vectors="backbone", vector_text="record", vector_tokens=64)
    table = selector.scores(hard)
    assert table.invalid == {}
    found = select(selector, hard, table, budget).tolist()
    assert len(set(found)) == budget
    if budget == 37 and not isinstance(selector, Kmq):
        assert not {3, 140, 141} <= set(found), "copies of a chosen record come last"
