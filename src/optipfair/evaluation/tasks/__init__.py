"""The tasks, one module for each data set or kind. Importing this registers them all."""

from . import ability as ability
from . import arithmetic as arithmetic
from . import bbq as bbq
from . import crows_pairs as crows_pairs
from . import next_token as next_token
from . import stereoset as stereoset
from . import winobias as winobias
from . import winogender as winogender
from .task import TASKS as TASKS
