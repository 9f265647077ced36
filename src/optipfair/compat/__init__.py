"""Names of the published package of the same name, all of them forwarded; no logic.

Each folder continues the path of the room of its name: `compat/pruning/utils.py` is found as
`optipfair.pruning.utils`. Nothing else imports from here.
"""
