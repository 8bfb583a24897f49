import pytest
from tiny_models import tiny_tokenizer

from secura.errors import ConfigError, DataError
from secura.experiments.data import TaskRows
from secura.experiments.run.rows import count_steps, fit_task, longest_row
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.run import RunConfig, TrainingConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.tasks.question import Item, Question

SHORT: list[Item] = [Question(prompt=f"{number}?", answer="a") for number in range(15)]
LONG: list[Item] = [Question(prompt="long " * 30, answer="a")]
BOTH = (RunConfig, SequenceConfig)


def _fit(config: LearningConfig, train: list[Item], test: list[Item] | None = None) -> tuple[list[Item], list[str]]:
    notes: list[str] = []
    rows = TaskRows(name="rows", train=train, test=test, suggested_steps=None)
    return fit_task(config, "rows", rows, tiny_tokenizer(), 20, notes).test, notes


@pytest.mark.parametrize(
    ("training", "rows", "suggested", "steps"),
    [
        ({"epochs": 0.5, "batch_size": 1}, 15, None, 8),
        ({"epochs": 1.0, "batch_size": 4}, 16, None, 4),
        ({"epochs": 1.0, "batch_size": 4, "gradient_accumulation": 2}, 17, None, 3),
        ({}, 40, None, 3),
        ({}, 40, 150, 150),
        ({"epochs": 2.0}, 40, 150, 5),
        ({"steps": 7}, 40, 150, 7),
        ({"epochs": 0.01}, 3, None, 1),
    ],
)
def test_steps_are_as_set_as_suggested_or_as_many_as_the_epochs_take(
    training: dict[str, int | float], rows: int, suggested: int | None, steps: int
) -> None:
    assert count_steps(TrainingConfig(**training), rows, suggested) == steps  # type: ignore[arg-type]


def test_very_few_steps_are_told_with_the_way_out_unless_they_were_asked_for() -> None:
    def notes(*settings: str) -> list[str]:
        config = load_config_of(RunConfig, None, ["data.test_share=0.0", *settings])
        return _fit(config, SHORT)[1]

    (note,) = notes("training.epochs=1")
    assert "15 rows, which make 1 steps of 16 rows" in note
    assert "training.epochs=107 makes about 100 steps" in note
    assert notes("training.steps=1") == []
    assert notes("training.epochs=107") == []


@pytest.mark.parametrize("kind", BOTH)
def test_test_questions_fit_whole_or_are_refused_or_left_out(kind: type[RunConfig] | type[SequenceConfig]) -> None:
    with pytest.raises(DataError, match="the test questions of rows: 1 of 16 rows are longer than"):
        _fit(load_config_of(kind, None), SHORT, [*SHORT, *LONG])
    config = load_config_of(kind, None, ["data.too_long=truncate", "training.steps=2"])
    test, notes = _fit(config, SHORT, [*SHORT, *LONG])
    assert test == SHORT
    assert notes == ["1 test rows are longer than 20 tokens and are not asked"]


@pytest.mark.parametrize("kind", BOTH)
def test_a_truncated_question_is_learned_from_and_not_asked(kind: type[RunConfig] | type[SequenceConfig]) -> None:
    settings = ["data.too_long=truncate", "training.steps=2", "data.test_share=0.9"]
    test, _ = _fit(load_config_of(kind, None, settings), [*SHORT, *LONG])
    assert test
    assert LONG[0] not in test


def test_a_row_may_be_as_long_as_the_context_and_no_longer() -> None:
    assert [longest_row(None, 64), longest_row(32, 64), longest_row(32, None)] == [64, 32, 32]
    with pytest.raises(ConfigError, match=r"data\.max_length is 65, but the model reads 64 tokens"):
        longest_row(65, 64)
    with pytest.raises(ConfigError, match=r"set data\.max_length"):
        longest_row(None, None)
