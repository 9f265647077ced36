"""Pruning: decide with a plan, then cut. The public names are listed in `__init__.pyi`."""

from pathlib import Path as _Path

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

# Module paths of the published package, such as `optipfair.pruning.utils`.
__path__.append(str(_Path(__file__).parents[1] / "compat" / "pruning"))
