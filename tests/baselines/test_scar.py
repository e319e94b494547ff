"""SCAR: the official code's output with a stand-in encoder, checkpoints built here, filters and near-duplicates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import Node, plain
from adg.artifacts.store import Store
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines import scar
from baselines.scar import Scar, ScarConfig
from baselines.shared import checkpoints, near_duplicates, style_ranker
from baselines.shared.style_ranker import HEAD, Ranker

ONE = [Record(0, "what is two plus two ?", "", "four")]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scar.json").read_text())


@pytest.fixture(scope="module")
def pool(golden: Path) -> list[Record]:
    rows = json.loads((golden / "pool.json").read_text())["pool"]
    return [Record(r["id"], r["instruction"], r.get("input") or "", r["output"]) for r in rows]


# -- stand-ins of the official run (recipe in the golden file) -----------------------------------------------


class Bytes:
    """Tokenizer: 1, then the bytes of the text."""

    pad_token_id = 0

    def __call__(self, texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, *text.encode()][:max_length] for text in texts]}


def sines(pooler: bool = False) -> Any:
    """Encoder of width 8: a formula of the ids, computed in float64."""
    import torch

    class Sines(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            ids, mask = input_ids.double(), attention_mask.double()
            mean = ((ids * mask).sum(1) / mask.sum(1))[:, None, None]
            t, d = torch.arange(ids.shape[1])[None, :, None], torch.arange(1, 9)[None, None, :]
            states = torch.sin(0.01 * (ids[..., None] + 1) * d + 0.1 * t + 0.37 * mean).float()
            return SimpleNamespace(last_hidden_state=states, pooler_output=states[:, 0].tanh() if pooler else None)

    return Sines()


def head(h: int = 8, m: int = 6) -> dict[str, Any]:
    """Tensors of the golden recipe: weight[i, j] = sin(0.3 i + 0.7 j + 0.1 k), bias[i] = 0.05 cos(i + k)."""
    import torch

    widths = {"1": 1, "m": m, "h": h, "2h": 2 * h}
    tensors = {}
    for number, (name, shape) in enumerate(HEAD.items()):
        i, k = torch.arange(widths[shape[0]], dtype=torch.float64), number // 2
        if len(shape) == 2:
            j = torch.arange(widths[shape[1]], dtype=torch.float64)
            tensors[name] = torch.sin(0.3 * i[:, None] + 0.7 * j[None, :] + 0.1 * k).float()
        else:
            tensors[name] = (0.05 * torch.cos(i + k)).float()
    return tensors


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return Ranker(sines(), Bytes(), head())


def scored(selector: Scar, records: list[Record], ranker: Ranker) -> ScoreTable:
    return selector.filtered(records, scar.ranked(records, ranker, selector.ranking))


def ranking(folder: Path, records: list[Record], **options: Any) -> Node:
    """The stage's node for a pool of these records."""
    rows = [{"id": r.id, "instruction": r.instruction, "input": r.input, "output": r.output} for r in records]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = pool_stage.node(PoolConfig(name="p", path=str(folder / "pool.jsonl"), empty_output="keep"))
    return Scar(ScarConfig(**options)).inputs({"pool": pool})["ranking"]


# -- against the official code -------------------------------------------------------------------------------


def test_scores_and_order_of_the_official_code(pool: list[Record]) -> None:
    pairs = [scar.pair(record) for record in pool]
    for variant in GOLDEN["ranker_head"]["variants"]:
        standin = Ranker(sines(variant["pooler_output"]), Bytes(), head())
        for name, scores in variant.items():
            if name.startswith("scores_maxlen"):
                found = standin.score(pairs, int(name.removeprefix("scores_maxlen")), tokens_per_batch=3000)
                np.testing.assert_allclose(found, scores, atol=1e-4)
        selector = Scar(ScarConfig())
        table = scored(selector, pool, standin)
        ranked = [pool[row].id for row in select(selector, SelectorData(pool), table, 160)]
        assert ranked == variant["ranked_ids"]


def test_filters_of_the_official_code(pool: list[Record]) -> None:
    for record, expected in zip(pool, GOLDEN["english_char_percentage"], strict=True):
        assert [scar.letters(text) for text in scar.pair(record)] == pytest.approx(expected, abs=1e-5)
    pairs = [scar.pair(record) for record in pool]
    for option, name in (("english", "is_english_kept_ids"), ("exact_duplicates", "exact_dedup_kept_ids")):
        dropped = scar.filtered(pairs, ScarConfig(**{option: True}))
        assert [record.id for i, record in enumerate(pool) if i not in dropped] == GOLDEN[name]


# -- the ranker ----------------------------------------------------------------------------------------------


def test_a_score_does_not_depend_on_the_batch(pool: list[Record], ranker: Ranker) -> None:
    pairs = [scar.pair(record) for record in pool]
    together = ranker.score(pairs, tokens_per_batch=20000)
    np.testing.assert_allclose(together, ranker.score(pairs, tokens_per_batch=1), atol=1e-5)
    alone = [float(ranker.score([pair])[0]) for pair in pairs[:5]]
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_last_batch_of_one_is_no_special_case(ranker: Ranker, n: int) -> None:
    pairs = [("abcd", "wxyz"[: i % 4] + "abcd") for i in range(n)]
    assert ranker.score(pairs, tokens_per_batch=10).shape == (n,)


def test_equal_pairs_tie_exactly_and_the_lowest_id_wins(ranker: Ranker) -> None:
    records = [Record(i, f"question {i % 3}", "", "answer") for i in range(30)]
    selector = Scar(ScarConfig(tokens_per_batch=64))
    table = scored(selector, records, ranker)
    best = int(np.argmax(table.score))
    assert select(selector, SelectorData(records), table, 10).tolist() == list(range(best, 30, 3))


def test_empty_answers_get_a_score_and_nan_weights_raise(ranker: Ranker) -> None:
    records = [Record(0, "a", "", ""), Record(1, "a", "", "b")]
    assert np.isfinite(scored(Scar(ScarConfig()), records, ranker).score).all()
    broken = {name: tensor * float("nan") for name, tensor in head().items()}
    with pytest.raises(BadMeasurement, match=r"2 records nan .first: id 0"):
        scored(Scar(ScarConfig()), records, Ranker(sines(), Bytes(), broken))


def test_released_ignores_the_input_and_filters(ranker: Ranker) -> None:
    records = [
        Record(0, "Name a town", "in France", "Lyon of course"),
        Record(1, "Name a town", "in Spain", "Lyon of course"),
        Record(2, "Compute it", "", "6 x 7 = 42."),
    ]
    table = scored(Scar(ScarConfig(variant="released")), records, ranker)
    assert table.invalid == {
        1: "exact duplicate of an earlier record",
        2: "not English (70 percent letters or less)",
    }
    assert np.isnan(table.score[1:]).all()
    corrected = scored(Scar(ScarConfig()), records, ranker)
    assert corrected.invalid == {} and corrected.score[0] != corrected.score[1] != table.score[0]
    kept = scored(Scar(ScarConfig(variant="released", exact_duplicates=False, english=False)), records, ranker)
    assert kept.invalid == {} and kept.score[0] == kept.score[1]


def test_near_duplicates_go_after_the_other_filters(ranker: Ranker) -> None:
    base = "please write a short story about the old lighthouse keeper and his cat"
    records = [
        Record(0, base, "", "123"),  # dropped as not English, so it takes no other with it
        Record(1, base, "", "he lived"),
        Record(2, base + " now", "", "he lived"),
        Record(3, "something else entirely", "", "he lived"),
    ]
    table = scored(Scar(ScarConfig(english=True, near_duplicates=True)), records, ranker)
    assert set(table.invalid) == {0, 2} and table.invalid[2] == "near-duplicate of an earlier record"


# -- near-duplicates -----------------------------------------------------------------------------------------


def all_pairs(texts: list[str], threshold: float) -> list[int]:
    """Smallest index of each connected component, every pair compared."""
    sets, group = [near_duplicates.bigrams(text) for text in texts], list(range(len(texts)))
    for i, x in enumerate(sets):
        for j, y in enumerate(sets[:i]):
            if x and y and len(x & y) / len(x | y) >= threshold:
                low, high = sorted((group[i], group[j]))
                group = [low if g == high else g for g in group]
    return group


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), max_size=30),
    st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 1.0]),
)
def test_near_duplicates_equal_comparing_every_pair(texts: list[str], threshold: float) -> None:
    assert near_duplicates.groups(texts, threshold).tolist() == all_pairs(texts, threshold)


def test_near_duplicates_among_real_looking_texts(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "adg/mini/pools/general.jsonl").read_text().splitlines()[:60]]
    texts = [f"{row['instruction']} {row['output']}" for row in rows]
    rng = random.Random(3)
    for text in texts[:20]:
        words = text.split()
        del words[rng.randrange(len(words))]
        texts.append(" ".join(words))
    assert near_duplicates.groups(texts, 0.5).tolist() == all_pairs(texts, 0.5)


def test_groups_are_merged_whatever_the_order() -> None:
    chain = ["a b c d e f g h", "c d e f g h i j", "e f g h i j k l", "x y z", "one", "", "one"]
    assert near_duplicates.groups(chain, 0.4).tolist() == [0, 0, 0, 3, 4, 5, 6], "0 and 2 only meet through 1"
    assert near_duplicates.groups([chain[2], chain[0], chain[1]], 0.4).tolist() == [0, 0, 0]


# -- checkpoints ---------------------------------------------------------------------------------------------


def tokenizer_into(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "what", "is", "two", "four", "plus", "?", "the", "answer"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def checkpoint(folder: Path, kind: str) -> Any:
    """A ranker's folder as a user would convert it, with random weights; returns the encoder that went into it."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModel

    sizes = {
        "vocab_size": 12,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "roberta":
            written = {**sizes, "model_type": "roberta", "max_position_embeddings": 40}
            encoder = AutoModel.from_config(AutoConfig.for_model(**written)).eval()
        else:
            written = {
                **sizes,
                "model_type": "new",
                "type_vocab_size": 0,
                "rope_theta": 160000,
                "pack_qkv": True,
                "rope_scaling": {"type": "ntk", "factor": 2.0},
                "position_embedding_type": "rope",
                "layer_norm_type": "layer_norm",
                "auto_map": {"AutoModel": "x--modeling.NewModel"},
            }
            (folder / "encoder").mkdir(parents=True)
            (folder / "encoder" / "config.json").write_text(json.dumps(written))
            encoder = AutoModel.from_config(style_ranker.encoder_config(folder / "encoder" / "config.json")).eval()
    encoder.save_pretrained(folder / "scratch")
    state = load_file(folder / "scratch" / "model.safetensors")
    save_file({**{f"encoder.{k}": v for k, v in state.items()}, **head(16, 6)}, folder / "model.safetensors")
    for file in (folder / "scratch").iterdir():
        file.unlink()
    (folder / "scratch").rmdir()
    (folder / "encoder").mkdir(exist_ok=True)
    (folder / "encoder" / "config.json").write_text(json.dumps(written))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "style_ranker", "encoder_name": kind, "hidden_dim": 16, "linear_dim": 6})
    )
    tokenizer_into(folder)
    return encoder


@pytest.mark.parametrize("kind", ["roberta", "new"])
def test_a_converted_checkpoint_scores_like_the_formula(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import linear, relu

    encoder = checkpoint(tmp_path, kind)
    names = load_file(tmp_path / "model.safetensors")
    assert any(("qkv_proj" if kind == "new" else "attention.self.query") in name for name in names), "the hub's names"
    options = {"checkpoint": str(tmp_path), "checkpoint_sha256": checkpoints.folder_digest(tmp_path)}
    records = [
        Record(0, "what is two plus two ?", "", "four"),
        Record(1, "what is four ?", "the answer", "two plus two"),
        Record(2, "is the answer four ?", "", ""),
    ]
    work = tmp_path_factory.mktemp("work")
    node = ranking(work, records, device="cpu", **options)
    artifact = Store(work / "runs", ExecConfig(device="cpu")).ensure(node)
    selector = Scar(ScarConfig(**options))
    table = selector.scores(SelectorData(records, {"ranking": artifact}))
    with pytest.raises(BadMeasurement, match="holds other records than the pool"):
        selector.scores(SelectorData(records[:2], {"ranking": artifact}))

    tokenizer, tensors = tokenizer_into(tmp_path / "again"), head(16, 6)
    for record, found in zip(records, table.score, strict=True):
        with torch.inference_mode():
            x, y = (
                encoder(**{k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"})
                for text in scar.pair(record)
            )
        assert (x.pooler_output is None) == (kind == "new")
        pooled = [e.last_hidden_state[:, 0] if e.pooler_output is None else e.pooler_output for e in (x, y)]
        first = torch.cat(pooled, 1)
        for name in ("relation_network", "output_layer"):
            middle = relu(linear(first, tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"]))
            out = linear(middle, tensors[f"{name}.2.weight"], tensors[f"{name}.2.bias"])
            first = torch.cat([out, y.last_hidden_state.amax(1)], 1)
        assert found == pytest.approx(float(out), abs=1e-5)


def test_rotary_frequencies_of_the_gte_encoder(tmp_path: Path) -> None:
    from transformers import AutoModel

    path = tmp_path / "config.json"
    given = {
        "model_type": "new",
        "vocab_size": 12,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "pad_token_id": 0,
        "type_vocab_size": 0,
        "rope_theta": 160000,
    }
    width = 16
    steps = np.arange(0, width, 2)
    for scaling, expected in (
        (None, 160000.0 ** (-steps / width)),
        ({"type": "ntk", "factor": 2.0}, (2 * 160000.0) ** (-steps / width) / 2 ** (2 / width)),
    ):
        path.write_text(json.dumps({**given, "rope_scaling": scaling}))
        model = AutoModel.from_config(style_ranker.encoder_config(path))
        np.testing.assert_allclose(model.rotary_emb.inv_freq.numpy(), expected, rtol=1e-5)
    for wrong in ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 1}}, {"layer_norm_type": "rms_norm"}):
        path.write_text(json.dumps({**given, **wrong}))
        with pytest.raises(BadInput, match="cannot be run"):
            style_ranker.encoder_config(path)


def test_without_a_checkpoint_it_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(NotRunnable, match=r"needs checkpoint lizhuang144/scar-gte-base: set selector.checkpoint="):
        Store(tmp_path / "runs", ExecConfig(device="cpu")).ensure(ranking(tmp_path, ONE))


def test_filters_and_devices_need_no_other_ranking(tmp_path: Path) -> None:
    base = ranking(tmp_path, ONE)
    for options in ({"english": True}, {"near_duplicates": True}, {"device": "cuda"}, {"tokens_per_batch": 7}):
        assert ranking(tmp_path, ONE, **options).fingerprint == base.fingerprint
    for other in ({"variant": "released"}, {"max_length": 9}, {"revision": "1" * 40}, {"hub": "a/b"}):
        assert ranking(tmp_path, ONE, **other).fingerprint != base.fingerprint


def test_a_checkpoint_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(BadInput, match="which is not a folder"):
        ScarConfig(checkpoint=str(tmp_path / "none"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(BadInput, match=r"is a pickle, which is never loaded here; convert it once.*weights_only=True"):
        style_ranker.load(tmp_path, "cpu")
    (tmp_path / "pytorch_model.bin").unlink()
    checkpoint(tmp_path, "roberta")
    digest = checkpoints.folder_digest(tmp_path)
    with pytest.raises(BadInput, match=f"selector.checkpoint_sha256={digest}"):
        ScarConfig(checkpoint=str(tmp_path))

    state = load_file(tmp_path / "model.safetensors")
    for name, message in (
        ("output_layer.2.bias", "holds nothing for output_layer.2.bias"),
        ("encoder.encoder.layer.0.attention.self.query.weight", r"1 weight is missing .*encoder\.layer\.0"),
    ):
        save_file({k: v for k, v in state.items() if k != name}, tmp_path / "model.safetensors")
        with pytest.raises(BadInput, match=message):
            style_ranker.load(tmp_path, "cpu")
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "encoder" / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(BadInput, match="model_type 'unheard_of'"):
        style_ranker.load(tmp_path, "cpu")
    (tmp_path / "encoder" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"lacks encoder/config.json"):
        style_ranker.load(tmp_path, "cpu")


def test_only_what_changes_a_score_is_identity(tmp_path: Path) -> None:
    left_out = {"checkpoint", "device", "tokens_per_batch"}
    assert not left_out & set(plain(ScarConfig()))
    assert plain(ScarConfig(variant="released"))["english"] is True
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "a" / ".cache").mkdir()
    before = checkpoints.folder_digest(tmp_path / "a")
    (tmp_path / "a" / ".cache" / "y").write_text("2")
    assert checkpoints.folder_digest(tmp_path / "a") == before
    (tmp_path / "a" / "x").write_text("3")
    assert checkpoints.folder_digest(tmp_path / "a") != before


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "fast"},
        {"max_length": 0},
        {"near_threshold": 0.0},
        {"near_threshold": 1.1},
        {"checkpoint_sha256": "0"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        ScarConfig(**options)
