"""In which order a sequence learns its tasks."""

import random

from secura.errors import ConfigError
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.world import SEQUENCE


def ordered_tasks(config: SequenceConfig) -> list[str]:
    """The tasks in the order they are learned.

    Raises:
        ConfigError: if there are none, or one has no name or is named twice.
    """
    names = config.tasks
    if names is None:
        if config.model.path is not None:
            raise ConfigError("your own model needs your own tasks; list them under tasks.")
        names = list(SEQUENCE)
    if not names:
        raise ConfigError("tasks is empty; list at least one task.")
    if not all(name.strip() for name in names):
        raise ConfigError("tasks names a task '', without a name; name a bundled task or a file.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"tasks names {repeated[0]} twice; each task is learned once.")
    if config.order_seed is not None:
        names = random.Random(f"order/{config.order_seed}").sample(names, len(names))
    return list(names)
