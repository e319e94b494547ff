"""ZIP: the official code's output, recompression from scratch, and what the original does wrong."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import plain
from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from baselines import zip as zip_
from baselines.zip import Corpus, Measurer, Zip, ZipConfig, item_text

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "zip.json").read_text())
OFFICIAL = pytest.mark.skipif(
    zlib.ZLIB_RUNTIME_VERSION != GOLDEN["meta"]["zlib_runtime"], reason="sizes of the official run need its zlib"
)


@pytest.fixture(scope="module")
def pool(golden: Path) -> list[Record]:
    rows = json.loads((golden / "pool.json").read_text())["pool"]
    return [Record(row["id"], row["instruction"], row.get("input") or "", row["output"]) for row in rows]


def chosen(records: list[Record], budget: int, **options: Any) -> list[int]:
    selector, data = Zip(ZipConfig(**options)), SelectorData(records)
    return select(selector, data, selector.scores(data), budget).tolist()


def g(items: list[dict]) -> float:
    """The ratio from scratch, as the official code states it."""
    text = str(items).encode()
    return len(text) / len(zlib.compress(text, 9))


def reference(records: list[Record], budget: int, k1: int, k2: int, k3: int, released: bool) -> list[int]:
    """The same selection one recompression at a time, in exact or float32 comparison."""
    number = np.float32 if released else float
    items = [
        {
            "id": r.id,
            "conversations": [
                {"from": "human", "value": r.instruction + ("\n" + r.input if r.input else "")},
                {"from": "gpt", "value": r.output},
            ],
            "source": "golden",
        }
        for r in records
    ]
    known = {i: number(g([item])) for i, item in enumerate(items)}
    out: list[int] = []
    while len(out) < budget:
        first = sorted(known, key=lambda i: (known[i], i))[:k1]
        done = [items[i] for i in out]
        for i in first:
            known[i] = number(g([*done, items[i]]))
        second = sorted(first, key=lambda i: (known[i], i))[:k2]
        batch: list[int] = []
        for _ in range(min(k3, budget - len(out), len(second))):
            have = [items[i] for i in batch]
            batch.append(min((i for i in second if i not in batch), key=lambda i: (number(g([*have, items[i]])), i)))
        out += batch
        for i in second if released else batch:
            del known[i]
    return out


# -- against the official code -------------------------------------------------------------------------------


@OFFICIAL
def test_sizes_and_selection_of_the_official_code(pool: list[Record]) -> None:
    table = Zip(ZipConfig(source="golden")).scores(SelectorData(pool))
    rows = zip(table.parts["raw_bytes"], table.parts["compressed_bytes"], table.score, strict=True)
    assert [[int(raw), int(small), ratio] for raw, small, ratio in rows] == GOLDEN["single_item"]
    for case in GOLDEN["ZIP_select"]:
        sizes = {name: case[name] for name in ("k1", "k2", "k3")}
        assert chosen(pool, case["budget"], variant="released", source="golden", **sizes) == case["selected"]


@OFFICIAL
def test_stages_of_the_official_code(pool: list[Record]) -> None:
    items = [item_text(record, source="golden") for record in pool]
    with Measurer(items, 1) as measure:
        for case in GOLDEN["function_cases"]:
            if case["kind"].endswith("all"):
                rows = np.array(case["processed_data_index"])
                assert zip_._batch(measure, rows, case["budget"], np.float32) == case["selected"]
            else:
                single = np.array([Corpus().ratio(item) for item in items], dtype=np.float32)
                rows = zip_.lowest(single, case["candidate_budget"])
                ratios = measure(Corpus(), rows).astype(np.float32)
                assert sorted(rows[np.lexsort((rows, ratios))[: case["budget"]]]) == sorted(case["selected"])


# -- the compressor ------------------------------------------------------------------------------------------


def test_a_copied_compressor_equals_compressing_from_scratch_far_beyond_the_window(pool: list[Record]) -> None:
    items = [item_text(record) for record in pool]
    corpus, taken = Corpus(), []
    for turn in range(3):  # about 200 KB, six windows
        for i, item in enumerate(items):
            if i % 40 == turn:
                for probe in (items[(7 * i) % 160], items[144], items[156]):
                    text = b"[" + b", ".join([*taken, probe]) + b"]"
                    assert corpus.sizes(probe) == (len(text), len(zlib.compress(text, 9)))
            corpus.add(item)
            taken.append(item)
    assert sum(map(len, taken)) > 6 * 32768


texts = st.text(alphabet="ab \n'\"\\é中", max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_selection_equals_one_recompression_at_a_time(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 24))
    records = [Record(i, data.draw(texts), "", data.draw(texts)) for i in range(n)]
    k3 = data.draw(st.integers(1, 5))
    k2 = data.draw(st.integers(k3, 8))
    k1 = data.draw(st.integers(k2, 12))
    budget = data.draw(st.integers(1, n))
    sizes = {"k1": k1, "k2": k2, "k3": k3}
    corrected = chosen(records, budget, source="golden", **sizes)
    assert corrected == reference(records, budget, **sizes, released=False)
    if n >= k1 + k2 * (-(-budget // k3) - 1):
        assert chosen(records, budget, variant="released", source="golden", **sizes) == reference(
            records, budget, **sizes, released=True
        )
    else:
        with pytest.raises(BadInput, match="select some twice"):
            chosen(records, budget, variant="released", source="golden", **sizes)


def test_threads_change_nothing(pool: list[Record]) -> None:
    options = {"k1": 120, "k2": 60, "k3": 30}
    assert chosen(pool, 100, workers=1, **options) == chosen(pool, 100, workers=3, **options)


# -- corrected and released ----------------------------------------------------------------------------------


def test_corrected_never_repeats_and_meets_every_budget(pool: list[Record]) -> None:
    for budget in (1, 25, 159, 160):  # the original returns 30 for 25, and repeats when the pool runs out
        rows = chosen(pool, budget, k1=30, k2=10, k3=10 if budget == 25 else 6)
        assert len(rows) == len(set(rows)) == budget


@pytest.mark.parametrize("k", [1, 2])
def test_released_compares_ratios_as_float32(k: int) -> None:
    """Noise that hardly compresses: the ratios of 60,001 and 60,000 bytes of it differ by 4e-9, and in float32 not.

    With k = 1 the first stage decides, with k = 2 the last. The lowest id wins a tie, the smaller ratio otherwise.
    """
    noise = np.random.default_rng(0).bytes(60_001)
    items = [noise, noise[:-1]]
    ratios = np.array([Corpus().ratio(item) for item in items])
    assert ratios[0] > ratios[1] and np.float32(ratios[0]) == np.float32(ratios[1])
    sizes = {"k1": k, "k2": k, "k3": 1}
    first = {v: zip_.select(items, ratios, 1, ZipConfig(variant=v, **sizes)).tolist() for v in zip_.VARIANTS}
    assert first == {"corrected": [1], "released": [0]}


def test_corrected_keeps_the_half_of_a_batch_that_was_not_chosen(pool: list[Record]) -> None:
    sizes = {"k1": 20, "k2": 20, "k3": 10}
    corrected = chosen(pool[:20], 20, **sizes)
    assert sorted(corrected) == list(range(20))
    with pytest.raises(BadInput, match=r"needs 40 records for budget 20.*found 20.*variant=corrected"):
        chosen(pool[:20], 20, variant="released", **sizes)


def test_the_refusal_of_released_names_settings_that_work(pool: list[Record]) -> None:
    with pytest.raises(BadInput, match=r"Lower selector.k1 to 100 or less"):
        chosen(pool, 40, variant="released", k1=101, k2=20, k3=10)
    assert len(set(chosen(pool, 40, variant="released", k1=100, k2=20, k3=10))) == 40
    with pytest.raises(BadInput, match=r"Bring selector.k2 nearer to selector.k3"):
        chosen(pool, 120, variant="released", k1=80, k2=40, k3=20)


def test_released_stops_at_the_budget_instead_of_rounding_up(pool: list[Record]) -> None:
    sizes = {"k1": 80, "k2": 20, "k3": 10}
    assert chosen(pool, 25, variant="released", **sizes) == chosen(pool, 30, variant="released", **sizes)[:25]


def test_defaults_work_on_a_pool_far_below_k1(pool: list[Record]) -> None:
    rows = chosen(pool[:48], 12)
    assert len(set(rows)) == 12
    assert rows == chosen(pool[:48], 12, k1=48, k2=48, k3=48)


def test_identical_records_go_by_the_lowest_id() -> None:
    records = [Record(i, "same", "", "words here") for i in range(10, 19)]
    rows = chosen(records, 4, k1=5, k2=3, k3=2, keys=("conversations",))
    assert rows == [0, 1, 2, 3]


def test_empty_and_tiny_answers_are_ordinary_records(pool: list[Record]) -> None:
    rows = chosen(pool, 20, k1=80, k2=40, k3=20)
    assert {144, 145} <= set(rows), "answers of no and of one character compress badly and come early"


def test_text_of_a_record() -> None:
    record = Record("7", "do it", "with this", "don't")
    expected = {
        "id": "7",
        "conversations": [{"from": "human", "value": "do it\nwith this"}, {"from": "gpt", "value": "don't"}],
        "source": "pool",
    }
    assert item_text(record) == str(expected).encode()
    assert item_text(record, ("source", "conversations"), "x").startswith(b"{'source': 'x', 'conversations'")
    assert item_text(Record(7, "do it", "with this", "don't")) != item_text(record), "7 and '7' are different text"


def test_the_zlib_at_hand_is_part_of_the_identity_and_threads_are_not() -> None:
    identity = plain(ZipConfig(workers=3))
    assert identity["zlib"] == zlib.ZLIB_RUNTIME_VERSION and "workers" not in identity
    with pytest.raises(BadInput, match=r"zlib is '0\.9' but this Python runs"):
        ZipConfig(zlib="0.9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fast"}, "expected one of corrected, released"),
        ({"k3": 0}, "k3 is 0"),
        ({"k1": 100, "k2": 200}, "k1 >= k2 >= k3"),
        ({"k3": 300}, "k1 >= k2 >= k3"),
        ({"keys": ["id", "text"]}, "expected some of id, conversations, source"),
        ({"keys": ["id"]}, "lacks 'conversations'"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ZipConfig(**options)
