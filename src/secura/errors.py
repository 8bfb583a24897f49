"""Every error that secura raises on purpose.

    SecuraError
    ├── InputError          what the user gave cannot be used; raised before any compute
    │   ├── ConfigError        a setting: unknown key, bad value, impossible combination
    │   ├── DataError          a data file: missing, empty, or a row that cannot be read
    │   └── BaseMismatchError  an adapter met a base model with other weights than its own
    ├── MergeError          an adapter that no single weight matrix equals
    ├── FoldError           a fold or an undo that cannot be done
    └── TrainingError       training had to stop, such as at a NaN loss
        └── StoppedError        Ctrl-C, SIGTERM or SIGHUP stopped it, and it can go on

Each message names the value, the limit and the way out, on one line. Functions of
`secura.numerics` know only PyTorch and raise `ValueError`.
"""


class SecuraError(Exception):
    """Base of every error that secura raises on purpose."""


class InputError(SecuraError, ValueError):
    """What the user gave cannot be used."""


class ConfigError(InputError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(InputError):
    """A data file is missing, empty, or holds a row that cannot be used."""


class BaseMismatchError(InputError):
    """An adapter was made for a base model with other weights."""


class MergeError(SecuraError, ValueError):
    """An adapter cannot be merged into its base weight."""


class FoldError(SecuraError, RuntimeError):
    """A fold or an undo that cannot be done in the model's present state."""


class TrainingError(SecuraError, RuntimeError):
    """Training had to stop before its last step."""


class StoppedError(TrainingError):
    """Ctrl-C, SIGTERM or SIGHUP stopped the work; the same command goes on with it."""
