"""What a user asks for, as one value: from it come keywords, command line, recipes and docs."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
