"""Every error and warning of the library.

    OptiPFairError
    ├── ArgumentError          (ValueError)    a wrong argument, or two that are mutually exclusive
    │   └── UnknownNameError                   a name that no registry holds, with close matches
    ├── UnsupportedModelError  (ValueError)    the model, or what is asked of it, is not supported
    ├── DataError              (ValueError)    data to calibrate or evaluate on that cannot be used
    ├── CheckpointError        (ValueError)    a model on disk that cannot be read
    ├── OutputError            (ValueError)    an output path that cannot be written
    ├── VerificationError      (RuntimeError)  a result that does not reload as it was
    ├── ModelOutputError       (RuntimeError)  a model gives numbers that are not finite
    └── DistributedError       (RuntimeError)  another process of the same run failed

    PruningWarning             (UserWarning)   done, but probably not what was meant

A `ValueError` means: refused before anything changed. The messages say what was given, what is
allowed and what to do.
"""

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "DistributedError",
    "ModelOutputError",
    "OptiPFairError",
    "OutputError",
    "PruningWarning",
    "UnknownNameError",
    "UnsupportedModelError",
    "VerificationError",
]


class OptiPFairError(Exception):
    """Base of all errors of this library."""


class ArgumentError(OptiPFairError, ValueError):
    """An argument is wrong, or excludes another one."""


class UnknownNameError(ArgumentError):
    """A name that is not registered."""


class UnsupportedModelError(OptiPFairError, ValueError):
    """The model, or what is asked of it, is not supported."""


class DataError(OptiPFairError, ValueError):
    """Data to calibrate or to evaluate on that cannot be used."""


class CheckpointError(OptiPFairError, ValueError):
    """A model on disk that cannot be read."""


class OutputError(OptiPFairError, ValueError):
    """An output path that cannot be written."""


class VerificationError(OptiPFairError, RuntimeError):
    """A written model does not reload as the model it was written from."""


class ModelOutputError(OptiPFairError, RuntimeError):
    """A model gives numbers that are not finite, so nothing can be said about it."""


class DistributedError(OptiPFairError, RuntimeError):
    """Another process of the same run failed; its own error says why."""


class PruningWarning(UserWarning):
    """The request was carried out, but is probably not what was meant."""
