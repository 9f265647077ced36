"""`analyze` by headers alone says exactly what it says after building the model, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.activations import ACT2FN

from optipfair import CheckpointError, OptiPFairError, analyze_model, prune_model
from optipfair.analysis import analyze as api
from optipfair.arch.families import FAMILIES
from optipfair.arch.twin import build_on_meta
from optipfair.checkpoint import config_kinds
from optipfair.checkpoint.stored_config import StoredConfig
from optipfair.checkpoint.structure import read_structure
from optipfair.files.safetensors_reader import SINGLE_FILE
from optipfair.testing import TINY_FAMILIES, tiny_config, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")

Outcome = dict[str, Any] | str
every_family = pytest.mark.parametrize("family", TINY_FAMILIES)
# What a config.json on the hub may leave out, or say by an older name.
OPTIONAL = (
    *("head_dim", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "qkv_bias", "layer_types", "rope_parameters", "n_inner"),
    *("sliding_window", "max_window_layers", "decoder_sparse_step", "mlp_only_layers"),
    *("word_embed_proj_dim", "enable_bias", "num_kv_heads", "num_ln_in_parallel_attn"),
    *("ffn_hidden_size", "pad_token_id", "dtype"),
)


def outcome(folder: Path) -> Outcome:
    """The analysis, or the refusal."""
    try:
        return analyze_model(folder).to_dict()
    except OptiPFairError as exc:
        return repr(exc)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Outcome]:
    """The outcome of building the model, whatever its headers say."""

    def run(folder: Path) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr(api, "_from_headers", lambda *_: None)
            return outcome(folder)

    return run


def by_headers(folder: Path) -> bool:
    return read_structure(folder) is not None


def change_config(folder: Path, leave_out: tuple[str, ...] = (), **fields: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in leave_out}))


def cut(**request: Any) -> Callable[[Any], Any]:
    return lambda model: prune_model(model, show_progress=False, **request)


WAYS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda model: model,
    "narrower": cut(pruning_percentage=40),
    "shallower": cut(pruning_type="DEPTH", layer_indices=[1]),
    "narrower in chosen layers": cut(pruning_percentage=40, layer_indices=[1]),
    "16 bits": lambda model: model.to(torch.bfloat16),
}


@every_family
@pytest.mark.parametrize("way", WAYS)
def test_headers_and_the_built_model_say_the_same(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str, way: str
) -> None:
    model = tiny_model(family)
    if family == "bloom" and "narrower" in way:
        pytest.skip("its width cannot be pruned")
    WAYS[way](model).save_pretrained(tmp_path, max_shard_size="20KB")
    assert by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


@every_family
@pytest.mark.parametrize(
    "fields", [{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}], ids=str
)
def test_one_layer_and_tied_embeddings_are_seen(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str, fields: dict[str, Any]
) -> None:
    fields = {**fields, "num_hidden_layers": 1}
    if "layer_types" in FAMILIES[family].tiny:
        fields["layer_types"] = ["full_attention"]
    if "n_layer" in FAMILIES[family].tiny:
        fields["n_layer"] = fields.pop("num_hidden_layers")
    tiny_model(family, **fields).save_pretrained(tmp_path)
    assert by_headers(tmp_path) is not has_mixed_ropes(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


def has_mixed_ropes(folder: Path) -> bool:
    """Whether settings of a rotary embedding stand beside those of layer types.

    Older releases (5.7 among them) write so where no layer is of one of the types.
    """
    ropes = json.loads((folder / "config.json").read_text()).get("rope_parameters") or {}
    return "rope_type" in ropes and "full_attention" in ropes


FORMS = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"hidden_size": 24, "num_key_value_heads": 4}),
    ("qwen3", {"attention_bias": True}),
    ("gemma3_text", {"attention_bias": True}),
    ("mixtral", {"intermediate_size": 6}),  # too narrow to be a multiple of 8
    ("mixtral", {"head_dim": 8}),
    ("qwen2_moe", {"qkv_bias": False, "decoder_sparse_step": 2}),
    ("gpt2", {"n_inner": 24}),
    ("opt", {"enable_bias": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("falcon", {"new_decoder_architecture": False, "num_kv_heads": None}),
    ("falcon", {"num_ln_in_parallel_attn": 1}),
]


@pytest.mark.parametrize(("family", "fields"), FORMS, ids=str)
def test_the_forms_of_a_family_are_told_apart(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str, fields: dict[str, Any]
) -> None:
    tiny_model(family, **fields).save_pretrained(tmp_path)
    assert by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


RARE = [
    ("opt", {"word_embed_proj_dim": 8}),
    ("opt", {"do_layer_norm_before": False}),
    ("falcon", {"bias": True}),
    ("falcon", {"new_decoder_architecture": False, "parallel_attn": False}),
    ("gpt2", {"add_cross_attention": True}),
]


@pytest.mark.parametrize(("family", "fields"), RARE, ids=str)
def test_a_form_that_is_not_described_is_built(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str, fields: dict[str, Any]
) -> None:
    tiny_model(family, **fields).save_pretrained(tmp_path)
    assert not by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


@every_family
def test_fields_left_out_are_known_or_the_model_is_built(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str
) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    change_config(tmp_path, leave_out=OPTIONAL)
    assert outcome(tmp_path) == built(tmp_path)


@pytest.mark.slow
@every_family
def test_each_field_left_out_is_known_or_the_model_is_built(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str
) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    whole = (tmp_path / "config.json").read_text()
    for field in json.loads(whole):
        change_config(tmp_path, leave_out=(field,))
        if field == "model_type" or by_headers(tmp_path):
            assert outcome(tmp_path) == built(tmp_path), field
        (tmp_path / "config.json").write_text(whole)


@every_family
def test_stated_defaults_are_those_of_the_config_class(family: str) -> None:
    spec = FAMILIES[family]
    assert spec.stored is not None
    given = {k: v for k, v in spec.tiny.items() if k not in spec.stored.defaults}
    config = AutoConfig.for_model(family, **given)
    stored = StoredConfig(given, spec, spec.stored)
    for name in spec.stored.defaults:
        value = getattr(config, name, None)
        if value is None:  # filled in by the model
            assert name in ("head_dim", "n_inner", "max_position_embeddings") or not stored.value(
                name
            )
        else:
            assert stored.value(name) == value, name


def test_a_hub_checkpoint_of_gpt2_is_known_without_its_prefix(
    tmp_path: Path, built: Callable[[Path], Outcome]
) -> None:
    """It has no `transformer.` before its names, and the causal mask among its tensors."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 128, 128) for layer in range(4)}
    save_file({**old, **masks}, tmp_path / SINGLE_FILE)
    assert by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts_may_be_stored_as_they_live(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str
) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    before = outcome(tmp_path)
    save_file(model.state_dict(), tmp_path / SINGLE_FILE)
    assert by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path) == before


def test_a_tied_head_that_is_stored_all_the_same_counts_in_bytes_only(
    tmp_path: Path, built: Callable[[Path], Outcome]
) -> None:
    model = tiny_model("gemma2")
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / SINGLE_FILE)
    model.config.save_pretrained(tmp_path)
    assert by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


@every_family
def test_a_tensor_too_few_too_many_or_of_another_shape_proves_nothing(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str
) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    name = next(name for name in tensors if ".2." in name)
    others = {**tensors, name: torch.zeros(3, *tensors[name].shape)}
    for changed in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "strange.weight": torch.zeros(3)},
        others,
    ):
        save_file(changed, tmp_path / SINGLE_FILE)
        assert not by_headers(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


@pytest.mark.parametrize("family", ["llama", "phi3", "mixtral", "gpt2", "opt", "falcon"])
@pytest.mark.parametrize("count", ["layers", "hidden", "width", "vocabulary"])
def test_a_config_that_does_not_fit_the_shapes_is_not_believed(
    tmp_path: Path, family: str, count: str
) -> None:
    spec = FAMILIES[family]
    tiny_model(family).save_pretrained(tmp_path)
    names = {
        "layers": "n_layer" if family == "gpt2" else "num_hidden_layers",
        "hidden": "n_embd" if family == "gpt2" else "hidden_size",
        "width": spec.mlps[0].width_key or "",
        "vocabulary": "vocab_size",
    }
    change_config(tmp_path, **{names[count]: 320})
    assert not by_headers(tmp_path)
    if count in ("hidden", "vocabulary"):
        with pytest.raises(CheckpointError, match=r"has shape .* its config.json says"):
            analyze_model(tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_hidden_size_of_zero_is_refused(
    tmp_path: Path, built: Callable[[Path], Outcome], family: str
) -> None:
    """Here the shapes of the tensors agree with it."""
    tiny_model(family).save_pretrained(tmp_path)
    change_config(tmp_path, hidden_size=0)
    model = build_on_meta(AutoConfig.from_pretrained(tmp_path))
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match="hidden_size=0, which must be 1 or more"):
        analyze_model(tmp_path)
    assert outcome(tmp_path) == built(tmp_path)


def test_no_attention_heads_are_refused(llama_copy: Path) -> None:
    change_config(llama_copy, num_attention_heads=0)
    with pytest.raises(CheckpointError, match="Cannot read the model"):
        analyze_model(llama_copy)


def test_code_of_the_repository_is_left_to_transformers(llama_copy: Path) -> None:
    change_config(llama_copy, auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    assert read_structure(llama_copy) is not None
    assert read_structure(llama_copy, trust_remote_code=True) is None


SAMPLES: dict[str, tuple[Any, ...]] = {
    "bool": (True, False),
    "no": (False,),
    "count": (3, 128),
    "positive count": (1, 128),
    "number": (1, 10000.0),
    "positive float": (30.0,),
    "part": (0.5, 1),
    "share": (0, 0.1),
    "float": (0.0, 1e-5),
    "token": (0, 271),
    "tokens": (1, [1, 2]),
    "activation": tuple(sorted(config_kinds._ACTIVATIONS)),
    "dtype": tuple(sorted(config_kinds._DTYPES)),
    "text": ("x",),
    "texts": (["x"],),
    "layer types": (["full_attention"] * 4, ["sliding_attention", "full_attention"] * 2),
    "rope": (
        {"rope_type": "linear", "factor": 2.0},
        {"type": "default", "rope_theta": 1e4},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "mapping": ({"a": 1},),
}


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@every_family
def test_every_value_that_is_accepted_makes_a_config(family: str) -> None:
    stored = FAMILIES[family].stored
    assert stored is not None
    base = tiny_config(family).to_dict()
    for field, kind in config_kinds.FIELDS.items():
        for value in (*SAMPLES[kind.removesuffix("?")], None):
            accepted = config_kinds.is_accepted(field, value, stored.kinds)
            if accepted and field != "model_type":
                AutoConfig.for_model(**{**base, field: value})


def test_activations_are_those_of_transformers() -> None:
    assert set(ACT2FN) >= config_kinds._ACTIVATIONS
