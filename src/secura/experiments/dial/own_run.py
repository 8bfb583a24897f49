"""What a run of ours held out and what it asked for: so that its result can be dialled without naming any data."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.evaluation.causal_model import Model, context_length
from secura.experiments.data import NO_RETENTION
from secura.experiments.files import ADAPTER_FOLDER, CONFIG_FILE, MODEL_FOLDER
from secura.experiments.run.folder import check_kind
from secura.experiments.run.rows import fit_task, longest_row, read_rows, retention_of, that_fit_whole
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.trusted_tasks import refuse_foreign_tasks
from secura.tasks.question import Item


def own_run(tuned: str) -> Path | None:
    """The folder of the run that a folder is, or lies in; None where it is of no run of one task."""
    folder = Path(tuned)
    if folder.name in (ADAPTER_FOLDER, MODEL_FOLDER) and not (folder / CONFIG_FILE).is_file():
        folder = folder.parent
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        check_kind(folder, RunConfig)
    except ConfigError:  # a sequence, whose tasks the user has to name
        return None
    return folder


def own_settings(run: Path, *, trust_tasks: bool) -> RunConfig:
    """The settings of a run.

    Raises:
        ConfigError: if they cannot be read, or name a Python file that the user does not trust.
    """
    config = load_config_of(RunConfig, str(run / CONFIG_FILE))
    refuse_foreign_tasks(config, run / CONFIG_FILE, trust=trust_tasks)
    return config


def held_out_rows(
    run: Path, model: Model, tokenizer: PreTrainedTokenizerBase, *, trust_tasks: bool = False
) -> list[Item]:
    """The rows on which the run measured its gain.

    Raises:
        InputError: if its data cannot be read any more, or may not be, or it held out none.
    """
    config = own_settings(run, trust_tasks=trust_tasks)
    (rows,) = read_rows(config)
    longest = longest_row(config.data.max_length, context_length(model, tokenizer))
    test = fit_task(config, Path(rows.name).name, rows, tokenizer, longest, []).test
    if not test:
        raise ConfigError(
            f"the run in {run} held out no rows, so its gain cannot be measured; name tasks with --tasks."
        )
    return test


def retained_questions(
    run: Path, model: Model, tokenizer: PreTrainedTokenizerBase, *, trust_tasks: bool = False
) -> list[Item]:
    """The questions about what the run was not to lose.

    Raises:
        InputError: if they cannot be read any more, or may not be, or it asked none.
    """
    config = own_settings(run, trust_tasks=trust_tasks)
    if config.retention.path == NO_RETENTION:
        raise ConfigError(f"the run in {run} asked no questions about what must not be lost; name some with --retain.")
    free = config.model_copy(update={"retention": config.retention.model_copy(update={"min_retention": None})})
    longest = longest_row(config.data.max_length, context_length(model, tokenizer))
    return that_fit_whole(retention_of(free), tokenizer, context_length(model, tokenizer) or longest)
