"""Bad input is refused while cells are composed, before anything is built, in one line that names its key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adg.errors import BadInput
from experiments.cells import cells, refuse_same_names
from experiments.quoting import quoted

pytestmark = pytest.mark.usefixtures("sections_in_common")

# What a person types, and what the message must hold: the key as it was typed, or what the text says.
BAD: list[tuple[str, str]] = [
    *(("budget=" + value, "budget") for value in ("many", "1.5", "true", "", "null", "[1]")),
    *(("seed=" + value, "seed") for value in ("x", "1.5", "", "null")),
    ("budgett=1", "budgett"),
    ("exec.runs=", "exec.runs"),
    ("exec.device=tpu", "exec.device"),
    ("exec.isolation=maybe", "exec.isolation"),
    ("exec.distributed=spark", "exec.distributed"),
    ("exec.threads=many", "exec.threads"),
    ("exec.eval_batch_size=x", "exec.eval_batch_size"),
    ("exec.gpu_memory=most", "exec.gpu_memory"),
    ("exec.gpu=1", "exec.gpu"),
    ("slurm.minutes=0", "slurm.minutes"),
    ("slurm.requeues=often", "slurm.requeues"),
    ("slurm.partion=gpu", "slurm.partion"),
    ("+slurm.options={gres: gpu}", "slurm.options"),
    ("backbone=llama9", "llama9"),
    ("backbone.dtype=int8", "backbone.dtype"),
    ("backbone.builder=none_such", "backbone.builder"),
    ("backbone.hub=a/b", "hub"),
    ("pool=alpaca", "alpaca"),
    ("pool.path=/no/such/file.jsonl", "/no/such/file.jsonl"),
    ("pool.path=/no/such/a b [1].jsonl", "a b [1].jsonl"),
    ("pool.rows=0", "pool.rows"),
    ("pool.rows=-3", "pool.rows"),
    ("pool.rows=all", "pool.rows"),
    ("pool.format=xml", "pool.format"),
    ("pool.sha256=abc", "pool.sha256"),
    ("pool.max_chars=0", "pool.max_chars"),
    ("pool.empty_output=ignore", "pool.empty_output"),
    ("pool.over_long=cut", "pool.over_long"),
    ("pool.fields.text=body", "pool.fields.text"),
    ("sampling.n=0", "sampling.n"),
    ("sampling.n=1", "sampling.n"),
    ("sampling.n=some", "sampling.n"),
    ("sampling.temperature=-1", "sampling.temperature"),
    ("sampling.temperature=0", "sampling.temperature"),
    ("sampling.top_p=0", "sampling.top_p"),
    ("sampling.top_p=1.1", "sampling.top_p"),
    ("sampling.top_k=-1", "sampling.top_k"),
    ("sampling.max_new_tokens=0", "sampling.max_new_tokens"),
    ("sampling.prompt_tokens=1", "sampling.prompt_tokens"),
    ("sampling.temprature=1", "sampling.temprature"),
    ("engine=ollama", "ollama"),
    ("engine.name=ollama", "engine.name"),
    ("engine.dtype=int4", "engine.dtype"),
    ("engine.batch_size=0", "engine.batch_size"),
    ("engine.max_num_seqs=0", "engine.max_num_seqs"),
    ("embedding.pooling=max", "embedding.pooling"),
    ("embedding.windows=[]", "embedding.windows"),
    ("embedding.windows=[last4,last4]", "embedding.windows"),
    ("embedding.windows=[middle]", "middle"),
    ("embedding.windows=[rel:0.9-0.1]", "rel:0.9-0.1"),
    ("embedding.max_tokens=0", "embedding.max_tokens"),
    ("embedding.empty_answer=skip", "embedding.empty_answer"),
    ("embedding.bins.clusters=0", "embedding.bins.clusters"),
    ("embedding.bins.seed=-1", "embedding.bins.seed"),
    ("embedding.dtype=int8", "embedding.dtype"),
    ("selector=adgg", "adgg"),
    ("selector.lam=1.5", "selector.lam"),
    ("selector.lam=abc", "selector.lam"),
    ("selector.lam=null", "selector.lam"),
    ("selector.lamb=1", "lamb"),
    ("selector.part=best", "selector.part"),
    ("selector.rule=fair", "selector.rule"),
    ("selector.answers=9", "selector.answers"),
    ("selector.answers=1", "selector.answers"),
    ("selector.answers=five", "selector.answers"),
    ("selector.window=24-27", "selector.window"),
    ("selector.bins=perhaps", "selector.bins"),
    ("selector.checkpoint=/x", "checkpoint"),
    ("finetune=qlora", "qlora"),
    ("finetune.method=dora", "finetune.method"),
    ("finetune.epochs=0", "finetune.epochs"),
    ("finetune.epochs=1.5", "finetune.epochs"),
    ("finetune.learning_rate=0", "finetune.learning_rate"),
    ("finetune.lora_rank=0", "finetune.lora_rank"),
    ("finetune.lora_dropout=1", "finetune.lora_dropout"),
    ("finetune.batch_size=0", "finetune.batch_size"),
    ("finetune.packing=true", "finetune.packing"),
    ("finetune.precision=fp8", "finetune.precision"),
    ("finetune.loss_on=prompt", "finetune.loss_on"),
    ("finetune.save_steps=0", "finetune.save_steps"),
    ("suite=tiny", "tiny"),
    ("suite.limit=0", "suite.limit"),
    ("suite.limit=abc", "suite.limit"),
    ("suite.max_gen_toks=0", "suite.max_gen_toks"),
    ("suite.backend=tgi", "suite.backend"),
    ("suite.prompt=chatml", "suite.prompt"),
    ("suite.dtype=int8", "suite.dtype"),
    ("suite.data_root=null", "suite.tasks.bbh"),
    ("suite.data_root=/no/such/folder", "/no/such/folder"),
    ("suite.seed=abc", "suite.seed"),
    ("suite.chat_template=maybe", "suite.chat_template"),
    ("suite.tasks.gsm8k.num_fewshot=-1", "num_fewshot"),
    ("suite.tasks.gsm8k.num_fewshot=many", "suite.tasks.gsm8k.num_fewshot"),
    ("suite.tasks.gsm8k.limit=0", "limit"),
    ("suite.tasks.gsm8k.shots=1", "shots"),
    ("tracker=neptune", "neptune"),
    ("tracker.mode=dark", "tracker.mode"),
    ("tracker.timeout=0", "tracker.timeout"),
    ("contamination.ngram=1", "contamination.ngram"),
    ("contamination.similarity=0", "contamination.similarity"),
    ("experiment=mian", "mian"),
    ("experiment.last=adapter", "experiment.last"),
    ("experiment.sections=[averges]", "averges"),
    ("experiment.figure=pie", "experiment.figure"),
    ("experiment.foo=1", "experiment.foo"),
    ("+experiment=terms", "experiment"),
    ("profile=huge", "huge"),
    ("preset=ours", "ours"),
    ("pool.path", "pool.path"),
]


@pytest.mark.parametrize(("typed", "named"), BAD, ids=[typed for typed, _ in BAD])
def test_bad_input_is_refused_before_anything_is_built(typed: str, named: str) -> None:
    common = ["profile=mini", "pool=mini_cot", "backbone=smollm2_135m", "selector=adg"]
    with pytest.raises(BadInput) as refused:
        for cell in cells(quoted([*common, typed])):
            _ = cell.nodes
    told = str(refused.value)
    assert named in told and "\n" not in told and len(told) < 700
    assert not re.search(r"Error merging|object_type|Traceback", told), "Hydra's words are put in ours"


def test_the_list_is_long_and_says_nothing_twice() -> None:
    assert len(BAD) >= 100 and len({typed for typed, _ in BAD}) == len(BAD)


def test_a_glob_and_commas_behave() -> None:
    common = ["profile=smoke", "pool=mini_cot"]
    assert {c.config.selector["name"] for c in cells([*common, "selector=glob(s*)"])} == {
        *("scar", "selectit", "superfiltering", "superfiltering_d")
    }
    (cell,) = cells(quoted([*common, "selector=random", 'finetune.lora_target="q_proj,v_proj"']))
    assert cell.config.finetune.lora_target == "q_proj,v_proj" and cell.variant == "finetune.lora_target=q_proj,v_proj"
    chosen = cells(quoted([*common, "selector=random", "finetune.lora_target=q_proj,v_proj"]))
    assert [c.config.finetune.lora_target for c in chosen] == ["q_proj", "v_proj"]
    refuse_same_names(chosen)


def test_a_path_may_have_any_letters_and_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b", "é", "a=b", "a#b", "a(b)", "a[1]", "~a", "日本", "a'b", "a&b", "a,b"):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "i", "output": "o"}\n', encoding="utf-8")
        for path in (f"~/{name}.jsonl", str(tmp_path / f"{name}.jsonl")):
            typed = ["profile=smoke", "selector=random", "pool=local", f"pool.path={path}", f"exec.runs=~/{name[:1]}"]
            (cell,) = cells(quoted(typed))
            assert cell.config.pool.path == str(tmp_path / f"{name}.jsonl")
            assert cell.config.exec.runs == str(tmp_path / name[:1]) and cell.nodes["pool"]
            assert cell.variant == f"{name}.jsonl"


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(("experiment", "where"), [("readings", ""), ("controls", ".selector")])
def test_an_option_of_selectors_that_an_experiment_writes_down_says_where_to_set_it(
    experiment: str, where: str, plus: str
) -> None:
    with pytest.raises(BadInput) as refused:
        cells(["profile=smoke", f"experiment={experiment}", f"{plus}selector.answers=3"])
    assert f"+experiment.choices.<choice>{where}.answers=..." in str(refused.value)


def test_what_it_says_to_type_works() -> None:
    (changed,) = (
        [cell.config.selector for cell in cells([*line, "+experiment.choices.vendi.answers=3"])]
        for line in [["profile=smoke", "experiment=readings"]]
    )
    assert [of["answers"] for of in changed if "answers" in of] == [3]
