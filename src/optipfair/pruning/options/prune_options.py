"""`PruneOptions`: all that can be asked of a pruning. A new option is one field here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ...arch.spec import ATTENTION_UNITS
from ...checking import BUILTIN_TEXT, DTYPES, NO_TEXT
from ...option_fields import declared, in_usual_case, option
from ...registry import Registry
from ..importance.criteria import CRITERIA
from ..importance.expert_scores import EXPERT_SCORES
from ..layers.strategies import LAYER_STRATEGIES

TARGET, CHOICE, TEXT, WORK = "target", "choice", "calibration", "work"

# Names and numbers that options may have, where no registry of functions holds them.
DEFAULT_PERCENTAGE = 10
USUAL_MINUTES = 30  # of calibration that a run plans at most, unasked
EXPANSION_DIVISORS = (32, 64, 128, 256)
VERIFY = ("fast", "full", "none")
WIDTH_MULTIPLE = 32  # what quantized blocks and fast kernels take
# The options that say how it is chosen what goes, whatever the target.
HOW_TO_CHOOSE = frozenset(
    {
        *("neuron_selection_method", "layer_selection_method", "layer_widths"),
        "expert_selection_method",
        *("compensate", "reconstruct", "sequential", "calibration"),
    }
)

PRUNING_TYPES: Registry[str] = Registry("pruning_type")
PRUNING_TYPES.add("MLP_GLU", "Remove neurons of the MLPs (width).")
PRUNING_TYPES.add("DEPTH", "Remove whole decoder layers.")
PRUNING_TYPES.add("BOTH", "Remove layers, and neurons of the layers that stay.")
PRUNING_TYPES.add("ATTENTION", "Remove key/value groups with their query heads, or query heads.")
PRUNING_TYPES.add("EXPERTS", "Remove whole experts of a mixture of experts.")
PRUNING_TYPES.add("BLOCKS", "Remove the attention, or the MLP, of single layers.")

BLOCK_KINDS = ("any", "attention", "mlp")

LAYER_WIDTHS: Registry[str] = Registry("layer_widths")
LAYER_WIDTHS.add("uniform", "The same share of every layer, which loads everywhere.")
LAYER_WIDTHS.add("by_loss", "Less of the layers that the model misses most, more of the others.")

_target, _choice = partial(option, section=TARGET), partial(option, section=CHOICE)
_text, _work = partial(option, section=TEXT), partial(option, section=WORK)


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, by what to choose, on which text, and how to work; nothing is checked here.

    The first two sections decide about a model in memory too, and are keywords of `prune_model`;
    all four are keywords of `prune_checkpoint`. Names may be given in any case.
    """

    pruning_type: str = _target(
        "MLP_GLU",
        "What to remove: MLP neurons (MLP_GLU), decoder layers (DEPTH), both (BOTH; with a number "
        "of experts: layers and experts), attention heads (ATTENTION), or experts of a mixture of "
        "experts (EXPERTS), or the attention or the MLP of single layers (BLOCKS).",
        allowed=PRUNING_TYPES.names,
    )
    pruning_percentage: float | None = _target(
        None,
        "Share to remove, from 0 to 100: of the neurons, with DEPTH of the layers, with ATTENTION "
        "of the heads, with EXPERTS of the experts. MLP_GLU and ATTENTION remove 10 % where "
        "nothing says how much.",
        metavar="PERCENT",
    )
    expansion_rate: float | None = _target(
        None, "MLP width to reach, in percent of the hidden size.", metavar="PERCENT"
    )
    expansion_divisor: int | None = _target(
        None,
        "Round the kept MLP width down to a multiple of this.",
        allowed=lambda: EXPANSION_DIVISORS,
    )
    nearest_multiple: int | None = _target(
        None,
        "Round the kept MLP width to the nearest multiple of this instead, where the width is one "
        "and at least as many neurons go.",
        metavar="NUM",
        unasked=f"{WIDTH_MULTIPLE} where data choose neurons",
    )
    num_layers_to_remove: int | None = _target(None, "How many layers to remove.", metavar="NUM")
    num_experts_to_remove: int | None = _target(
        None,
        "How many of its routed experts each layer loses.",
        metavar="NUM",
    )
    experts_to_keep: int | None = _target(
        None, "How many of its routed experts each layer keeps, instead.", metavar="NUM"
    )
    num_blocks_to_remove: int | None = _target(
        None,
        "How many blocks BLOCKS removes: the attention of a layer is one, its MLP another.",
        metavar="NUM",
    )
    blocks: Sequence[str] | None = _target(
        None,
        "The blocks to remove, instead: attention or mlp, and the layer, for example "
        "attention.3,mlp.20.",
        metavar="KIND.I,...",
    )
    block_kind: str = _target("any", "Which blocks may go.", allowed=lambda: BLOCK_KINDS)
    layer_indices: Sequence[int] | None = _target(
        None,
        "The layers to remove, or with MLP_GLU the layers whose neurons go, for example 2,5,8.",
        metavar="I,J,...",
    )
    depth_pruning_percentage: float | None = _target(
        None,
        "Share of the layers to remove, from 0 to 100; with BOTH it stands beside that of the "
        "neurons.",
        metavar="PERCENT",
    )
    target_params: int | str | None = _target(
        None,
        'The most parameters that may be left, for example "1.0B", instead of the targets above.',
        metavar="COUNT",
    )
    target_size: int | str | None = _target(
        None,
        'The most bytes of weights that may be left, for example "2GB" (10^9) or "2GiB" (2^30).',
        metavar="SIZE",
    )
    attention_unit: str = _target(
        "group",
        "What ATTENTION removes: key/value heads with their query heads (group), or query heads, "
        "the same number from every group (head).",
        allowed=lambda: tuple(ATTENTION_UNITS),
    )
    neuron_selection_method: str = _choice(
        "MAW",
        "What scores neurons and heads. MAW (the same as PPM), VOW, PON and L2 look at weights "
        "alone, MAW also at calibration data; AUTO, which compensates, OBS, FLAP, WACT and ACT "
        "need such data; RANDOM is to compare with.",
        flag="--method",
        allowed=CRITERIA.names,
        unasked="AUTO, without text MAW",
    )
    layer_selection_method: str = _choice(
        "last",
        "Which layers to remove: the last, the first, or those given by their indices (custom). By "
        "calibration data: those that change their input least (block_influence), the block that "
        "turns its input least (angular), one after the other the one that is missed least "
        "(perplexity, slow), the block that is missed least (block_perplexity), or that block or "
        "the layers of block_influence, whichever are missed less (auto).",
        allowed=LAYER_STRATEGIES.names,
        unasked="auto, without text last",
    )
    expert_selection_method: str = _choice(
        "REAP",
        "What scores routed experts. By calibration data: the mean size of what an expert adds "
        "for the tokens that are routed to it (REAP), what it adds in all (ADDED), how many tokens "
        "are (FREQUENCY), or the sum of their gates (GATE_SUM). NORM looks at weights alone; "
        "RANDOM is to compare with.",
        allowed=EXPERT_SCORES.names,
        unasked="REAP, without text NORM",
    )
    layer_widths: str = _choice(
        "uniform",
        "How much each layer loses: the same share (uniform), or less of the layers that the model "
        "misses more (by_loss, with calibration data).",
        allowed=LAYER_WIDTHS.names,
    )
    compensate: bool | None = _choice(
        None,
        "Whether what stays makes up for what goes, by least squares on calibration data: kept "
        "neurons for lost ones, the layer before a removed block for the block. AUTO does, the "
        "others do not.",
        unasked="yes with DEPTH where there is text",
    )
    reconstruct: bool | None = _choice(
        None,
        "Whether the kept neurons of each MLP are then trained for a few hundred steps to give "
        "what the whole MLP gave, on the same data. It keeps more and takes longer; needs "
        "compensation.",
        unasked="yes where data choose neurons",
    )
    sequential: bool | None = _choice(
        None,
        "Whether each layer is calibrated on what the pruned layers before it give, or on what the "
        "layers gave before. By default it is, wherever a pass over the layers decides.",
        flag=None,
    )
    seed: int = _choice(0, "Seed of the draw of calibration text and of RANDOM.", metavar="NUM")
    calibration: str | None = _text(
        None,
        "Text to calibrate on: builtin (several domains, which ship with OptiPFair), self (what "
        "the model writes), a .txt file, a .jsonl file with a text, messages or an instruction in "
        "each line, the id of a dataset with such rows (with the package datasets), or several of "
        "these with commas between them; none is no text.",
        metavar="builtin|self|none|TEXT",
        unasked=f"{BUILTIN_TEXT}, with a static method {NO_TEXT}",
    )
    calibration_field: str | None = _text(
        None,
        "Which field of each row is the text, where its name (text, content) does not say.",
        metavar="NAME",
    )
    calibration_samples: int | None = _text(
        None,
        "How many sequences are drawn from that text: by default 256, on an accelerator 1024, and "
        "fewer where these would take longer than the time budget.",
        metavar="NUM",
    )
    calibration_length: int | None = _text(
        None,
        "The length of each, in tokens: by default 512, or as many as the model has positions.",
        metavar="TOKENS",
    )
    calibration_batch_size: int = _text(
        8,
        "How many sequences run through a layer at once; fewer take less memory. What stays does "
        "not depend on it, weights do in their last digits.",
        metavar="NUM",
    )
    evaluate: bool = _text(
        True,
        "Whether to measure perplexity and KL divergence before and after, on calibration text "
        "that is held back.",
    )
    device: str = _work(
        "cpu",
        "Where to work: cpu, cuda, cuda:1, mps, or auto for an accelerator if there is one.",
        metavar="DEVICE",
    )
    dtype: str = _work(
        "auto",
        "Type of the weights that are written; auto keeps the checkpoint's.",
        allowed=lambda: DTYPES,
    )
    max_shard_size: int | str = _work("5GB", "The most bytes of one weight file.", metavar="SIZE")
    check_weights: bool = _work(
        False, "Look for NaN and Inf in all tensors, not only in those that are scored or cut."
    )
    verify: bool | str = _work(
        "fast",
        "How the result is verified: fast checks headers, copied bytes and samples of what was "
        "cut, and compares logits where the model was loaded; full also loads the result and "
        "a live cut, compares their logits and generates.",
        allowed=lambda: VERIFY,
    )
    time_budget: float | None = _work(
        None,
        "How many minutes of calibration may be planned: fewer sequences are taken where they "
        "would take longer. By default 30, where calibration_samples is not given.",
        metavar="MINUTES",
    )
    recover: bool = _work(
        False,
        "Train what is written to say what the original says, as optipfair recover does, in the "
        "same run. The original's weights are needed in memory beside it.",
    )
    recover_tokens: int | str = _work(
        "2M", "Tokens of bundled text to train on then, such as 200k or 2M.", metavar="N"
    )
    neutralise: Sequence[str] | None = _work(
        None,
        "Contrasts to take out of the result, as optipfair neutralise does, in the same run and "
        "last, such as gender-occupation.",
        metavar="NAME|FILE,...",
    )
    trust_remote_code: bool = _work(False, "Allow code from the model's repository to run.")

    def __post_init__(self) -> None:
        in_usual_case(self)
        if self.calibration == NO_TEXT:
            object.__setattr__(self, "calibration", None)

    def with_usual_target(self) -> PruneOptions:
        """Width and attention pruning remove 10 % where nothing says how much."""
        targets = (self.pruning_percentage, self.expansion_rate)
        said = any(value is not None for value in (*targets, self.target_params, self.target_size))
        if said or self.pruning_type not in ("MLP_GLU", "ATTENTION"):
            return self
        return replace(self, pruning_percentage=DEFAULT_PERCENTAGE)

    def not_default(self, *sections: str) -> dict[str, Any]:
        """The options of these sections, of all if none is named, that are not as usual."""
        values = {name: getattr(self, name) for name in declared(type(self), *sections)}
        usual = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in values.items() if not _same(value, usual[name])}


def _same(value: object, default: object) -> bool:
    """Arrays compare by element, and none is a default."""
    return value is default or (isinstance(value, type(default)) and value == default)
