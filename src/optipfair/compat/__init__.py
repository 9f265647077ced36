"""Names of the published package of the same name, forwarded to where the code is.

Each folder continues the path of the room of its name: `compat/pruning/utils.py` is found as
`optipfair.pruning.utils`, and what lies here itself as a module of `optipfair`. Nothing imports
from here. Only the small helpers of `bias/utils.py` have no other home.
"""
