"""What a layer computes before its MLPs, kept on a first run and given again on a second.

It does not depend on the MLPs, so a layer whose MLPs were cut need not compute its attention again.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ...arch.view import MLPView
from ...hooks import running_instead
from .holding import HiddenStates


class BeforeMLPs:
    """Outputs of a layer's children that run before its MLPs: of each batch one, (B, S, H).

    Kept are children with a matrix that each run calls once, before anything of the MLPs, and that
    give a tensor, or a tuple of one tensor and None.
    """

    def __init__(self, layer: nn.Module, mlps: Sequence[MLPView], room: HiddenStates) -> None:
        """Keep nothing so far; outputs will lie where the hidden states in `room` lie."""
        self._layer = layer
        self._parts = [
            mlp.owner.get_submodule(slot.module) if slot.module else mlp.owner
            for mlp in mlps
            for slot in mlp.tensors
        ]
        self._room = room
        self._kept: dict[nn.Module, HiddenStates] = {}
        self._lengths: dict[nn.Module, int] = {}  # of the tuples that children give
        self._runs = 0
        self._reached = False  # whether the present run has come to the MLPs

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block the layer runs once for each batch."""
        self._kept = {
            child: self._room.others()
            for child in self._layer.children()
            if _has_matrix(child) and not {*child.modules()} & {*self._parts}
        }

        def begin(*_: Any) -> None:
            self._runs += 1
            self._reached = False

        def reach(*_: Any) -> None:
            self._reached = True

        def keep(child: nn.Module, _args: Any, output: Any) -> None:
            if child in self._kept and not self._keep(child, output):
                del self._kept[child]

        with ExitStack() as stack:
            hooks = [self._layer.register_forward_pre_hook(begin)]
            hooks += [part.register_forward_pre_hook(reach) for part in self._parts]
            hooks += [child.register_forward_hook(keep) for child in self._kept]
            for hook in hooks:
                stack.callback(hook.remove)
            yield

    def _keep(self, child: nn.Module, output: Any) -> bool:
        """Keep an output if it can be given again; whether it could."""
        states, *rest = output if isinstance(output, tuple) else (output,)
        once = len(self._kept[child]) == self._runs - 1
        plain = isinstance(states, Tensor) and all(each is None for each in rest)
        if self._reached or not once or not plain:
            return False
        if isinstance(output, tuple):
            self._lengths[child] = len(output)
        self._kept[child].append(states)
        return True

    @contextmanager
    def given(self) -> Iterator[None]:
        """Inside the block the layer runs once more for each batch, in the same order."""
        again = [child for child, kept in self._kept.items() if len(kept) == self._runs]
        with running_instead({child: self._giving(child) for child in again}):
            yield

    def _giving(self, child: nn.Module) -> Callable[..., Any]:
        outputs, length = iter(self._kept[child]), self._lengths.get(child)
        device = next(child.parameters()).device

        def give(*_args: Any, **_kwargs: Any) -> Any:
            states = next(outputs).to(device)
            return states if length is None else (states, *[None] * (length - 1))

        return give


def _has_matrix(module: nn.Module) -> bool:
    return any(each.dim() > 1 for each in module.parameters())
