"""OptiPFair: make an open language model smaller, and know what it cost.

The public names are listed in `__init__.pyi`; each loads its module on first use, so that
importing the package is cheap and has no side effect.
"""

from pathlib import Path as _Path

import lazy_loader as _lazy

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

# The module path of the published package, `optipfair.distillation`.
__path__.append(str(_Path(__file__).parent / "compat"))
