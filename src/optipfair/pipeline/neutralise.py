"""`neutralise_checkpoint`: from a model's name to a folder that holds it without some contrasts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint.stored_model import StoredModel
from ..devices import check_device
from ..errors import CheckpointError
from ..files.output_folder import check_output
from ..loading.models import load_config, load_model
from ..loading.sources import find_source
from ..loading.tokenizers import load_tokenizer
from ..neutralising.neutralisation import Neutralisation
from ..neutralising.neutralise_options import NeutraliseOptions
from ..neutralising.neutralising import check_request, neutralise
from ..noted import keeping_warnings
from ..option_fields import checked_keywords, taking
from .converted import as_folder
from .neutralisation_card import neutralised_card
from .other_values import card_of, write_with_values
from .run import Options

RECORD = "neutralisation.json"


@dataclass(frozen=True)
class NeutraliseResult:
    """What `neutralise_checkpoint` did.

    Attributes:
        output_path: the folder it wrote.
        neutralisation: the contrasts before and after, and what ordinary text lost.
        warnings: what was warned of.
    """

    output_path: Path
    neutralisation: Neutralisation
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "output_path": str(self.output_path),
            "neutralisation": self.neutralisation.to_dict(),
            "warnings": list(self.warnings),
        }


@taking(NeutraliseOptions)
def neutralise_checkpoint(
    model_path: str | Path,
    output_path: str | Path,
    *,
    options: NeutraliseOptions | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    command: str | None = None,
    **more: Any,
) -> NeutraliseResult:
    """Take contrasts out of a model, and write it to a new folder.

    The output is the model's folder with other values in some down projections, in the dtype that
    they had; its card says what was changed. If no strength of the change was better on held-back
    words, it holds the model as it came.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: the folder to write; it appears only when complete.
        options: all that is asked for as one value; keywords given beside it replace its fields.
        device: where to work.
        overwrite: whether to replace a model that is in `output_path`.
        trust_remote_code: whether code from the model's folder may run.
        command: the command to name in the model card.
        (the options)

    Raises:
        ValueError: (one of this library's) refused before anything was written.
    """
    asked = replace(options or NeutraliseOptions(), **checked_keywords(neutralise_checkpoint, more))
    check_request(asked)
    check_device(device)
    source, output = find_source(model_path), Path(output_path)
    check_output(output, Path(source.location), overwrite)
    loading: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(source, **loading)
    if tokenizer is None:
        raise CheckpointError(
            f"{source.given!r} has no tokenizer, and contrasts are made of words. Put its "
            "tokenizer.json into the folder."
        )
    with keeping_warnings() as warned, as_folder(source, Options(**loading)) as folder:
        stored = StoredModel(Path(folder.location), load_config(folder, **loading))
        model: Any = load_model(folder, device=device, dtype="float32", **loading)
        wanted = asdict(asked)
        found = neutralise(
            model, tokenizer, wanted.pop("contrast"), wanted.pop("calibration"), **wanted
        )
        values = _changed(stored, model, found) if found.strength else None
        made = command or f"optipfair.neutralise_checkpoint: {Path(source.given).name}"
        card = card_of(stored.checkpoint.folder, output)
        files = {
            "README.md": neutralised_card(card, found, made),
            RECORD: json.dumps(found.to_dict(), indent=1) + "\n",
        }
        write_with_values(stored, values, output, files, show_progress=asked.show_progress)
    return NeutraliseResult(output, found, tuple(warned))


def _changed(stored: StoredModel, model: Any, found: Neutralisation) -> Mapping[str, Tensor]:
    """The weights that changed, by their names in memory."""
    changed = {(each.layer, each.mlp) for each in found.layers}
    view = stored.view
    names = [
        f"{view.layers_path}.{mlp.layer}.{mlp.spec.down.name}"
        for mlp in view.mlps
        if mlp.key in changed
    ]
    return {name: model.get_parameter(name).detach().cpu() for name in names}
