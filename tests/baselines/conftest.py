"""The formula language model that the official IFD and SuperFiltering scripts were run with, and the golden pool."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adg.artifacts.artifact import Artifact, Node
from adg.pools.records import Record
from adg.selection.contract import SelectorData
from baselines.shared import losses as losses_stage
from baselines.shared.loss_texts import LossTexts
from baselines.shared.scorer import Scorer


@pytest.fixture(scope="session")
def formula_model() -> Any:
    """Logits that are a formula of the token ids, in float64, with the parts of a transformers model.

    Ids x_0.., a_t = x_t + 1, m_t = mean(x_0..x_t) / 10, v < 400:
    logit[t, v] = 2.5 sin(0.37 a_t + 0.011 a_t (v mod 17) + 0.9 v) + 1.5 cos(0.05 v + 0.3 m_t).
    """
    import torch

    words = torch.arange(400, dtype=torch.float64)

    class Base(torch.nn.Module):
        def forward(self, input_ids: Any, position_ids: Any = None, use_cache: bool = False) -> Any:
            x = input_ids.double()
            mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1) / 10
            return SimpleNamespace(last_hidden_state=torch.stack([x + 1, mean], dim=-1))

    class Head(torch.nn.Module):
        def forward(self, states: Any) -> Any:
            a, m = states[..., :1], states[..., 1:]
            return 2.5 * torch.sin(0.37 * a + 0.011 * a * (words % 17) + 0.9 * words) + 1.5 * torch.cos(
                0.05 * words + 0.3 * m
            )

    class Model(torch.nn.Module):
        dtype, device = torch.float64, torch.device("cpu")
        config = SimpleNamespace(vocab_size=400, max_position_embeddings=4096)

        def __init__(self) -> None:
            super().__init__()
            self.base_model, self._head = Base(), Head()

        def get_output_embeddings(self) -> Any:
            return self._head

        def forward(self, input_ids: Any) -> Any:
            return SimpleNamespace(logits=self._head(self.base_model(input_ids).last_hidden_state))

    return Model()


@pytest.fixture(scope="session")
def golden_tokenizer(golden: Path) -> Callable[[bool], Any]:
    """The tokenizer of the golden values; ``bos`` puts <s> in front of every text."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    def made(bos: bool) -> Any:
        core = Tokenizer.from_file(str(golden / "tokenizer.json"))
        if bos:
            core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>" if bos else None, eos_token="</s>")

    return made


@pytest.fixture(scope="session")
def golden_pool(golden: Path) -> list[Record]:
    rows = json.loads((golden / "pool.json").read_text())["pool"]
    return [Record(row["id"], row["instruction"], row.get("input", ""), row["output"]) for row in rows]


@pytest.fixture(scope="session")
def golden_cell() -> dict[str, Node]:
    """What a cell offers to a selector whose losses are measured by hand."""
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.pools import stage as pool_stage
    from adg.pools.config import PoolConfig

    return {
        "pool": pool_stage.node(PoolConfig(name="golden", path="mini:general.jsonl")),
        "backbone": backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")),
    }


@pytest.fixture
def measured(tmp_path: Path, formula_model: Any, golden_cell: dict[str, Node]) -> Callable[..., SelectorData]:
    """What a selector reads, with the losses of ``pool`` under the formula model."""

    def made(selector: Any, pool: list[Record], tokenizer: Any) -> SelectorData:
        node = selector.inputs(golden_cell)["losses"]
        layout = LossTexts(node.config.losses, tokenizer)
        losses = losses_stage.measure(pool, layout, lambda: Scorer(formula_model), tmp_path)
        losses_stage.save(tmp_path / "losses.parquet", losses)
        artifact = Artifact(tmp_path, {"files": {"losses.parquet": {}}, "info": {}})
        return SelectorData(pool, {"losses": artifact})

    return made


@pytest.fixture
def embedded(tmp_path: Path) -> Callable[..., SelectorData]:
    """What a selector reads, with the given vectors (n, d) of ``pool``; a row of zeros is a record without one."""
    import numpy as np

    from baselines.shared import vectors

    def made(points: Any, pool: list[Record] | None = None, artifact: Artifact | None = None) -> SelectorData:
        points = np.asarray(points, dtype=np.float64)
        pool = pool or [Record(i, f"question {i}", "", f"answer {i}") for i in range(len(points))]
        kept = np.flatnonzero(points.any(axis=1))
        unit = points[kept] / np.linalg.norm(points[kept], axis=1, keepdims=True)
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        np.save(folder / "vectors.npy", unit.astype(np.float32))
        (folder / "ids.json").write_text(json.dumps([pool[i].key for i in kept]))
        missing = {record.key: vectors.EMPTY for i, record in enumerate(pool) if i not in set(kept.tolist())}
        (folder / "missing.json").write_text(json.dumps(missing))
        files = {key: {} for key in ("vectors.npy", "ids.json", "missing.json")}
        return SelectorData(pool, {"vectors": Artifact(folder, {"files": files, "info": {}})}, artifact)

    return made
