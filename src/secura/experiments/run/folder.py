"""The folder of a run: where it is, what may be in it, and whether the run in it can be gone on with."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from secura.errors import ConfigError, StoppedError
from secura.experiments.files import BASE_RECORD, CONFIG_FILE, RUN_RECORD
from secura.experiments.models.base_record import BaseFingerprint, check_base
from secura.experiments.models.loading import model_source
from secura.experiments.run.rows import PreparedTask
from secura.experiments.run.run_record import has_record, refuse_another_run, without_places
from secura.experiments.settings.layers import config_as_yaml, differences, load_config_of, read_yaml
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.experiments.settings.trusted_tasks import TRUST_OPTION, python_tasks
from secura.file_names import file_name
from secura.one_writer import holds_nothing, one_writer
from secura.stop_signals import what_stopped
from secura.training.processes import from_main_process
from secura.whole_files import write_json, write_text


def run_folder(config: LearningConfig, *, resume: bool) -> Path:
    """The folder of a run: the user's, or one in runs/ named for what is done.

    A run of one task gets a new folder each time; a sequence always the same, since the same command goes on with it.
    """
    if config.out is not None:
        return Path(config.out)
    if isinstance(config, SequenceConfig):
        return Path("runs") / f"sequence-{config.method.name}-{config.strategy.name}"
    if resume:
        raise ConfigError("--resume needs the folder of the run; name it with --out.")
    stem = Path((config.data.path or "").split(":")[0]).name.split(".")[0]
    first = Path("runs") / "-".join(part for part in (config.method.name, stem and file_name(stem)) if part)
    free = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], free) if not folder.exists())


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run that was begun."""
    return (folder / CONFIG_FILE).is_file()


def check_folder(folder: Path, kind: type[LearningConfig], *, resume: bool) -> None:
    """Refuse a folder that holds something else, or no run to go on with.

    Raises:
        ConfigError: with the way out.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out {folder} is a file; name a folder.")
    if resume and not is_begun(folder):
        raise ConfigError(f"out {folder} holds no run to resume (no {CONFIG_FILE}); leave out --resume.")
    if resume:
        check_kind(folder, kind)
    elif folder.is_dir() and not holds_nothing(folder):
        if kind is SequenceConfig:
            raise ConfigError(f"out {folder} is not empty and holds no sequence; name another folder with --out.")
        raise ConfigError(
            f"out {folder} is not empty; add --resume to continue the run in it, or name another folder with --out."
        )


def check_kind(folder: Path, kind: type[LearningConfig]) -> None:
    """Refuse the run of one task where a sequence is meant, and the other way round.

    Raises:
        ConfigError: naming the command that the folder is of.
    """
    is_sequence = "tasks" in read_yaml(folder / CONFIG_FILE)
    if kind is SequenceConfig and not is_sequence:
        raise ConfigError(f"{folder} holds a run of secura train, not a sequence; name a folder of secura sequence.")
    if kind is RunConfig and is_sequence:
        raise ConfigError(f"{folder} holds a sequence; continue it with: {_command(folder, SequenceConfig)}")


def check_same_run(
    folder: Path, config: LearningConfig, tasks: Sequence[PreparedTask], fingerprint: BaseFingerprint
) -> None:
    """Refuse to go on with the run in `folder` with other settings or rows, or on another model, than it began with.

    Raises:
        ConfigError: naming every setting that differs, or the task whose rows do.
        BaseMismatchError: if the model has other weights.
    """
    refuse_another_run(folder, config, tasks)
    changed = []
    if not has_record(folder):  # of an earlier version
        saved = load_config_of(type(config), str(folder / CONFIG_FILE))
        changed = differences(without_places(saved), without_places(config))
    if changed:
        raise ConfigError(
            f"the run in {folder} cannot be resumed with other settings: {'; '.join(changed)}; "
            "use the old settings, or name another folder with --out."
        )
    check_base(folder, fingerprint, model_source(config.model))


@contextmanager
def begun(
    folder: Path, config: LearningConfig, record: Mapping[str, Any], base: Mapping[str, str], *, resume: bool
) -> Iterator[None]:
    """Hold the folder of a run for as long as it is written to, and write down what the run is.

    Args:
        folder: of the run.
        config: its settings.
        record: of its settings and rows; see `run_record`.
        base: the record of the base model.
        resume: whether a run in the folder is gone on with.

    Raises:
        ConfigError: if another process holds the folder, or has used it since it was checked.
        StoppedError: if Ctrl-C stops what is done in the block, with how to go on.
    """
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(one_writer(folder))
            check_folder(folder, type(config), resume=resume)
            write_text(folder / CONFIG_FILE, config_as_yaml(config))
            write_json(folder / RUN_RECORD, record)
            write_json(folder / BASE_RECORD, base)

        from_main_process(begin)
        try:
            yield
        except KeyboardInterrupt:
            how = resume_command(folder, config)
            raise StoppedError(f"stopped by {what_stopped()} between the steps; to continue: {how}") from None


def resume_command(folder: Path, config: LearningConfig) -> str:
    """What to type to go on with a run."""
    return _command(folder, type(config)) + (f" {TRUST_OPTION}" if python_tasks(config) else "")


def _command(folder: Path, kind: type[LearningConfig]) -> str:
    out = shlex.quote(str(folder))
    if kind is SequenceConfig:
        return f"secura sequence {shlex.quote(str(folder / CONFIG_FILE))} --out {out}"
    return f"secura train --resume --out {out}"
