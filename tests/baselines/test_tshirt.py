"""T-SHIRT: one text at a time as the yardstick, the formula by hand, the rule of choice, faults and resuming."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Job
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines import tshirt
from baselines.shared import losses as losses_stage
from baselines.shared import scorer_stage
from baselines.shared.loss_texts import LossesConfig, LossTexts, Text
from baselines.shared.scorer import Scorer
from baselines.tshirt import Deltas, NoisyIdentity, Tshirt, TshirtConfig

POOL = PoolConfig(name="mini", path="mini:general.jsonl", rows=12)
TINY = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
CFG = NoisyIdentity(LossesConfig("none", 128), "", copies=3, noise=5.0, seed=1)
RECORDS = [
    Record(1, "Name three primes.", "", "2, 3 and 5."),
    Record(2, "Translate.", "the sea", "das Meer " * 12),
    Record(3, "Say yes.", "", "y"),
    Record(4, "Begin on a new line.", "", "\n\nHere."),
    Record(5, "Say nothing.", "", ""),
    Record(6, "Name three primes.", "", "2, 3 and 5."),
]


# -- token differences -----------------------------------------------------------------------------------


def losses(model: Any, ids: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The plain way: NLL of every token but the first, the whole sequence by itself."""
    import torch

    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        logits = model(inputs_embeds=model.get_input_embeddings()(tokens) + torch.from_numpy(noise)).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").double().numpy()


@pytest.mark.parametrize("tokens_per_batch", [1, 150, 100_000])
@pytest.mark.parametrize("bos", [True, False])
def test_differences_are_those_of_one_text_at_a_time(
    tiny_model: Any, tiny_tokenizer: Any, tiny_tokenizer_without_bos: Any, bos: bool, tokens_per_batch: int
) -> None:
    layout = LossTexts(CFG.losses, tiny_tokenizer if bos else tiny_tokenizer_without_bos)
    pairs = [pair for r in RECORDS if not isinstance(pair := tshirt.texts(layout, r), str)]
    assert len(pairs) == (5 if bos else 4)  # without a BOS the one token of "y" has no loss
    deltas, log_ifd = tshirt.measure(pairs, Scorer(tiny_model, tokens_per_batch), CFG, layout.head_tokens)
    for (after, alone), found, ratios in zip(pairs, deltas, log_ifd, strict=True):
        assert found.shape == (alone.tokens, 3)
        for copy in range(3):
            noise = tshirt.shake(after, 64, CFG, copy)
            with_prompt = losses(tiny_model, after.ids, noise)[after.start - 1 :]
            bare = np.concatenate([noise[:bos], noise[after.start :]])
            without = losses(tiny_model, alone.ids, bare)
            np.testing.assert_allclose(found[:, copy], with_prompt[0 if bos else 1 :] - without, rtol=0, atol=2e-5)
            assert ratios[copy] == pytest.approx(with_prompt.mean() - without.mean(), abs=1e-5)


def test_both_sides_hold_the_same_tokens_even_where_one_would_merge_with_the_prompt(tiny_tokenizer: Any) -> None:
    layout = LossTexts(CFG.losses, tiny_tokenizer)
    for record in RECORDS:
        pair = tshirt.texts(layout, record)
        if record.id == 5:
            assert pair == "the response is empty"
            continue
        after, alone = pair
        assert isinstance(after, Text) and isinstance(alone, Text)
        assert after.ids[after.start :].tolist() == alone.ids[layout.head_tokens :].tolist()
        assert after.ids[: after.start].tolist() == layout.encode(layout.prompt(record))
    long = Record(9, "Count.", "", "one two three " * 99)
    after, alone = tshirt.texts(layout, long)
    assert isinstance(after, Text) and isinstance(alone, Text)
    assert len(after.ids) == 128 and after.tokens == alone.tokens


def test_noise_is_the_texts_own() -> None:
    text = Text(np.arange(9, dtype=np.int32), 4)
    noise = tshirt.shake(text, 64, CFG, 0)
    assert noise.shape == (9, 64) and noise.dtype == np.float32
    limit = 5 / math.sqrt(9 * 64)
    assert 0.99 * limit < np.abs(noise).max() <= limit and abs(noise.mean()) < 0.1 * limit
    np.testing.assert_array_equal(noise, tshirt.shake(Text(np.arange(9, dtype=np.int32), 4), 64, CFG, 0))
    others = [
        tshirt.shake(text, 64, CFG, 1),
        tshirt.shake(text, 64, dataclasses.replace(CFG, seed=2), 0),
        tshirt.shake(Text(np.arange(1, 10, dtype=np.int32), 4), 64, CFG, 0),
    ]
    assert all((other != noise).any() for other in others)
    assert not tshirt.shake(text, 64, dataclasses.replace(CFG, noise=0.0), 0).any()


# -- from differences to scores --------------------------------------------------------------------------


def test_the_formula_by_hand() -> None:
    """|delta| = 1, 2, 3, 4, 1, 1, 5, 6: threshold 2.5 at a half; each copy by itself, none above it counts as 1."""
    deltas = np.array([[1.0, -2.0], [-3.0, 4.0], [1.0, 1.0], [-5.0, 6.0]], dtype=np.float32)
    found = Deltas(["0", "1", "2", "3"], deltas, np.array([2, 0, 1, 1]), np.zeros((4, 2)), {1: "no token"})
    mean, deviation, threshold = found.spread(0.5)
    assert threshold == 2.5
    sifd = [[math.exp(-3), math.exp(4)], [1, 1], [math.exp(-5), math.exp(6)]]
    np.testing.assert_allclose(mean[[0, 2, 3]], [np.mean(s) for s in sifd])
    np.testing.assert_allclose(deviation[[0, 2, 3]], [np.std(s) for s in sifd])
    assert np.isnan(mean[1]) and np.isnan(deviation[1])
    assert found.spread(0.75)[2] == 1.0  # the first quarter; a |delta| of 1 is not above it
    every = found.spread(1.0)[0]
    assert every[0] == pytest.approx(np.mean([math.exp(-3), math.exp((4 - 2) / 2)]))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 5, 40)
    deltas = draw.normal(size=(tokens.sum(), 3)).astype(np.float32)
    found = Deltas([str(i) for i in range(40)], deltas, tokens, np.zeros((40, 3)), {})
    whole = found.spread(0.5)
    monkeypatch.setattr(tshirt, "CHUNK", 3)
    np.testing.assert_array_equal(found.spread(0.5)[0], whole[0])
    np.testing.assert_array_equal(found.spread(0.5)[1], whole[1])


def test_of_the_2n_highest_the_n_steadiest_ties_to_the_lowest_id() -> None:
    score = np.array([0.9, 0.8, 0.9, 0.7, 0.9, 0.8, np.nan])
    deviation = np.array([0.3, 0.1, 0.1, 0.0, 0.1, 0.1, np.nan])
    table = ScoreTable(score, {"s_ifd_deviation": deviation}, {6: "IFD under noise not below 1"})
    data = SelectorData([Record(i, "a", "", "b") for i in range(7)])
    selector = Tshirt(TshirtConfig())
    assert select(selector, data, table, 1).tolist() == [2]  # of 0 and 2
    assert select(selector, data, table, 2).tolist() == [1, 2]  # of 0, 2, 4 and 1, which ties with 5
    assert select(selector, data, table, 3).tolist() == [3, 1, 2]
    assert select(selector, data, table, 6).tolist() == [3, 1, 2, 4, 5, 0]


# -- the stage -------------------------------------------------------------------------------------------


def deltas(selector: Tshirt, pool: Any = None, backbone: Any = None) -> Any:
    cell = {"pool": pool or pool_stage.node(POOL), "backbone": backbone or backbone_stage.node(TINY)}
    return selector.inputs(cell)["deltas"]


def node(**options: Any) -> Any:
    selector = Tshirt(TshirtConfig(**{"copies": 4, **options}))
    return deltas(selector)


def test_without_noise_it_is_superfilterings_ratio_over_all_tokens(tmp_path: Path) -> None:
    store = Store(tmp_path, ExecConfig(device="cpu"))
    pool = records.load(store.ensure(pool_stage.node(POOL)))
    selector = Tshirt(TshirtConfig(noise=0.0, copies=2, ratio=1.0))
    artifact = store.ensure(deltas(selector))
    data = SelectorData(pool, {"deltas": artifact})
    table = selector.scores(data)
    table.check(12)
    plain = losses_stage.load(
        store.ensure(losses_stage.node(pool_stage.node(POOL), backbone_stage.node(TINY), LossesConfig("none", 1024)))
    )
    ratio = np.exp(plain.nll_conditioned - plain.nll_alone)
    np.testing.assert_allclose(table.parts["ifd_noisy"], ratio, rtol=1e-4)
    # with a BOS both cover the same tokens; a ratio of 1 still leaves out the pool's least changed one, whose record
    # has the mean over its other tokens
    found = tshirt.load(artifact, data.keys)
    least = np.abs(found.deltas[:, 0]).argmin()
    row = int(np.searchsorted(np.cumsum(found.tokens), least, side="right"))
    without = (found.tokens[row] * np.log(ratio[row]) - found.deltas[least, 0]) / (found.tokens[row] - 1)
    np.testing.assert_allclose(table.parts["s_ifd"][row], np.exp(without), rtol=1e-4)
    others = np.arange(12) != row
    np.testing.assert_allclose(table.parts["s_ifd"][others], ratio[others], rtol=1e-4)
    assert not table.parts["s_ifd_deviation"].any()
    assert {row for row in table.invalid} == set(np.flatnonzero(ratio >= 1))
    assert set(table.invalid.values()) == {"IFD under noise not below 1"}


def test_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs", ExecConfig(device="cpu", tokens_per_batch=300))
    wanted = node()
    whole = store.ensure(wanted)
    (tmp_path / "again").mkdir()
    job = Job(wanted, tmp_path / "again", {role: store.ensure(n) for role, n in wanted.inputs.items()}, store.exec)
    tshirt.build(job)
    shards = sorted(job.work.glob("*.shard"))
    assert len(shards) > 4
    shards[0].write_bytes(shards[0].read_bytes()[:50])
    shards[1].unlink()
    (job.folder / "deltas.npy").unlink()
    tshirt.build(job)
    for name in ("deltas.npy", "log_ifd.npy", "records.json"):
        assert (job.folder / name).read_bytes() == whole.file(name).read_bytes()
    assert set(whole.manifest["files"]) == {"deltas.npy", "log_ifd.npy", "records.json"}


def test_nan_is_a_reason_and_its_tokens_count_nowhere(
    spoilt: Any, spoilt_token: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    rows = [{"id": i, "instruction": f"Say {i}.", "output": f"so it is {'again ' * i}"} for i in range(6)]
    rows += [{"id": 6, "instruction": "Say it.", "output": f"so {spoilt_token[1] * 2} it is"}]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(loading, "load_model", lambda *args, **kwargs: spoilt)
    pool = pool_stage.node(PoolConfig(name="p", path=str(tmp_path / "pool.jsonl")))
    wanted = deltas(Tshirt(TshirtConfig(copies=2)), pool)
    with pytest.raises(BadMeasurement, match=r"1 records gave NaN .*exec.max_failed allows 0; their ids: 6"):
        Store(tmp_path / "a", ExecConfig(device="cpu")).ensure(wanted)
    artifact = Store(tmp_path / "b", ExecConfig(device="cpu", max_failed=1)).ensure(wanted)
    found = tshirt.load(artifact, [str(i) for i in range(7)])
    assert found.invalid == {6: scorer_stage.FAILED} and found.tokens[6] == 0
    assert np.isfinite(found.deltas).all() and len(found.deltas) == found.tokens.sum()
    assert np.isfinite(found.spread(0.5)[0][:6]).all()
    with pytest.raises(BadMeasurement, match="the same ids in the same order"):
        tshirt.load(artifact, ["0"])


def test_what_identifies_it() -> None:
    base = node()
    changes: list[dict] = [{"copies": 5}, {"noise": 4.0}, {"seed": 7}, {"max_tokens": 99}, {"scorer_dtype": "bfloat16"}]
    assert len({base.fingerprint, *(node(**change).fingerprint for change in changes)}) == 6
    assert node(ratio=0.75).fingerprint == base.fingerprint, "another ratio needs no new measurement"


def test_gpt2_without_a_revision_is_planned_and_refused_when_built(tmp_path: Path) -> None:
    hub = backbone_stage.node(BackboneConfig(name="big", hub="a/b", revision="0" * 40))
    wanted = deltas(Tshirt(TshirtConfig()), backbone=hub)
    assert list(wanted.inputs) == ["pool"]
    with pytest.raises(NotRunnable, match=r"needs a pinned revision of gpt2: set selector\.scorer_revision="):
        Store(tmp_path, ExecConfig(device="cpu")).ensure(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "above 0"),
        ({"copies": 0}, "1 noisy copy"),
        ({"noise": -1.0}, "0 or more"),
        ({"scorer_engine": "vllm"}, "takes no embeddings"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TshirtConfig(**options)
