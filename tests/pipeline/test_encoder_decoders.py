"""Encoder-decoders: pruned as a whole, with the encoder as it was, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from optipfair import (
    UnsupportedModelError,
    analyze_model,
    prune_checkpoint,
    prune_model,
)
from optipfair.files.safetensors_reader import SINGLE_FILE, open_checkpoint
from optipfair.loading.quiet import quiet_transformers

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about its own toy models

TOKENS = {"vocab_size": 300, "pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2}
LAYERS = {
    "d_model": 16,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 3}
MOONSHINE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    **{f"{part}_num_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_num_key_value_heads": 2 for part in ("encoder", "decoder")},
    "encoder_num_hidden_layers": 4,
    "decoder_num_hidden_layers": 3,
}
SPEECH = {
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 64,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
TO_TEXT = {
    **SPEECH,
    "conv_channels": 16,
    "num_conv_layers": 1,
    "conv_kernel_sizes": [3],
    "input_feat_per_channel": 8,
}
WIDTH: dict[str, Any] = {"pruning_percentage": 25}
DEPTH: dict[str, Any] = {"pruning_type": "DEPTH", "num_layers_to_remove": 1}
DATA = [torch.randint(3, 300, (16, 12), generator=torch.Generator().manual_seed(0))]


def toy(name: str, config: str, **fields: Any) -> Callable[[], Any]:
    def build() -> Any:
        made = getattr(transformers, config)(**TOKENS, **fields)
        return getattr(transformers, name)(made)

    return build


def of_two_models() -> Any:
    shape = {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
    }
    encoder = transformers.BertConfig(**shape)
    decoder = transformers.BertConfig(**shape, is_decoder=True, add_cross_attention=True)
    made = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    made.decoder_start_token_id, made.pad_token_id = 1, 0
    return transformers.EncoderDecoderModel(made)


def generating(name: str) -> str:
    return f"{name}ForConditionalGeneration"


MODELS: dict[str, Callable[[], Any]] = {
    "t5": toy(generating("T5"), "T5Config", **T5, num_heads=2),
    "umt5": toy(generating("UMT5"), "UMT5Config", **T5, num_heads=2),
    "bart": toy(generating("Bart"), "BartConfig", **LAYERS),
    "mbart": toy(generating("MBart"), "MBartConfig", **LAYERS),
    "marian": toy("MarianMTModel", "MarianConfig", **LAYERS),
    "pegasus": toy(generating("Pegasus"), "PegasusConfig", **LAYERS),
    "m2m_100": toy(generating("M2M100"), "M2M100Config", **LAYERS),
    "blenderbot": toy(generating("Blenderbot"), "BlenderbotConfig", **LAYERS),
    "speech_to_text": toy(generating("Speech2Text"), "Speech2TextConfig", **LAYERS, **TO_TEXT),
    "moonshine": toy(generating("Moonshine"), "MoonshineConfig", **MOONSHINE),
    "whisper": toy(generating("Whisper"), "WhisperConfig", **LAYERS, **SPEECH),
    "encoder-decoder": of_two_models,
}
WITH_ITS_OWN_DECODER = "whisper"  # whose decoder has all its tensors under its own names
NO_WIDTH = {"t5", "umt5", "moonshine"}  # one field states the width of encoder and decoder


def built(kind: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[kind]().eval()


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder


def loaded(kind: Any, folder: Path) -> Any:
    with quiet_transformers():
        model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def generated(model: Any) -> list[int]:
    """What it writes of an input of its kind."""
    inputs = {
        "input_ids": torch.tensor([[3, 4, 5, 6]]),
        "input_values": torch.ones(1, 2000),
        "input_features": torch.ones(
            *((1, 8, 32) if model.config.model_type == "whisper" else (1, 32, 8))
        ),
    }
    name = model.main_input_name
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        tokens: list[int] = model.generate(**{name: inputs[name]}, **settings)[0].tolist()
    return tokens


def check_encoder(model: Any, source: Any) -> None:
    """The encoder is there as it was, and the config says that there is one."""
    assert model.config.is_encoder_decoder is True
    own, its = model.get_encoder().state_dict(), source.get_encoder().state_dict()
    assert own.keys() == its.keys() and all(torch.equal(own[name], its[name]) for name in own)


@pytest.mark.parametrize("way", [WIDTH, DEPTH], ids=["width", "depth"])
@pytest.mark.parametrize("kind", MODELS)
def test_in_memory_the_encoder_stays_and_the_result_loads_and_generates(
    tmp_path: Path, kind: str, way: dict[str, Any]
) -> None:
    source = built(kind)
    model = copy.deepcopy(source)
    if kind in NO_WIDTH and way is WIDTH:
        with pytest.raises(UnsupportedModelError, match=r"^Cannot prune|cannot express"):
            prune_model(model, show_progress=False, **way)
        check_encoder(model, source)
        return
    prune_model(model, show_progress=False, **way)
    again = loaded(type(model), save(model, tmp_path / "pruned"))
    check_encoder(again, source)
    assert generated(again) == generated(model)


@pytest.mark.parametrize("way", [WIDTH, DEPTH], ids=["width", "depth"])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != WITH_ITS_OWN_DECODER])
def test_on_disk_they_are_refused_at_once_in_one_sentence(
    tmp_path: Path, kind: str, way: dict[str, Any]
) -> None:
    folder = save(built(kind), tmp_path / "model")
    with pytest.raises(UnsupportedModelError) as caught:
        prune_checkpoint(folder, tmp_path / "out", **way)
    said = str(caught.value)
    assert said.startswith(f"{kind!r} is an encoder-decoder") and len(said) < 200
    assert not (tmp_path / "out").exists()
    try:
        refusals = {*analyze_model(folder).refusals.values()}
    except UnsupportedModelError as exc:
        refusals = {str(exc)}
    assert refusals == {said}


WAYS: dict[str, dict[str, Any]] = {
    "width": WIDTH,
    "depth": DEPTH,
    "by layers": {**WIDTH, "neuron_selection_method": "AUTO", "dataloader": DATA},
    "in memory": {**DEPTH, "layer_selection_method": "perplexity", "dataloader": DATA},
    "loaded again": {**WIDTH, "verify": "full"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["whisper", "bart", "marian"])
def test_on_disk_the_encoder_stays_where_the_decoder_has_all_its_tensors(
    tmp_path: Path, kind: str, way: str
) -> None:
    """As Whisper has, and checkpoints that were saved with the names of tied tensors."""
    source = built(kind)
    folder = save(source, tmp_path / "model")
    if kind != WITH_ITS_OWN_DECODER:
        tensors = {name: tensor.clone() for name, tensor in source.state_dict().items()}
        save_file(tensors, folder / SINGLE_FILE, {"format": "pt"})
    result = prune_checkpoint(folder, tmp_path / "out", **WAYS[way])
    account = dict(result.account)
    assert account.pop("source") == sum(account.values()) == len(open_checkpoint(folder).tensors)
    fields = {
        path: json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out")
    }
    before, after = fields.values()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"decoder_layers" if WAYS[way].get("pruning_type") else "decoder_ffn_dim"}
    again = loaded(type(source), tmp_path / "out")
    check_encoder(again, source)
    assert len(generated(again)) >= 4


def test_a_model_that_never_generated_need_not_afterwards(tmp_path: Path) -> None:
    """transformers makes a cache of as many layers as the encoder has."""
    model = toy(
        generating("Whisper"), "WhisperConfig", **LAYERS | {"encoder_layers": 2}, **SPEECH
    )()
    folder = save(model, tmp_path / "model")
    prune_checkpoint(folder, tmp_path / "out", verify="full", **WIDTH)
    check_encoder(loaded(type(model), tmp_path / "out"), model)
