import pytest
from tiny_models import tiny_tokenizer

from secura.errors import ConfigError, DataError
from secura.experiments.data import MixedRows, TaskRows
from secura.experiments.run.rows import count_steps, examples_of, fit_task, longest_row, notes_on_rows
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.run import RunConfig, TrainingConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.tasks.data_rows import item_from_row
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


def test_rows_mixed_in_make_their_share_of_what_is_learned_and_are_named() -> None:
    general: list[Item] = [Question(prompt=f"{number}!", answer="b") for number in range(2)]
    mixed = (MixedRows(name="data/general.jsonl", share=0.25, rows=general),)
    rows = TaskRows(name="data/rows.jsonl", train=SHORT, test=[], suggested_steps=None, mixed=mixed)
    config, notes = load_config_of(RunConfig, None, ["training.steps=1"]), list[str]()
    task = fit_task(config, "rows", rows, tiny_tokenizer(), 20, notes)
    ends = [str(tiny_tokenizer().decode(example.tokens[example.learned_from :])) for example in task.examples]
    assert (ends.count(" a<eos>"), ends.count(" b<eos>")) == (15, 5)
    assert notes == [
        "what is learned is 75% rows.jsonl (15 rows), and replayed beside it 25% general.jsonl (5 rows of its 2, each "
        "up to 3 times)"
    ]
    assert fit_task(config, "rows", rows, tiny_tokenizer(), 20, []).examples == task.examples


CHAT = {
    "messages": [
        {"role": role, "content": content}
        for role, content in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    ]
}


def test_what_a_row_has_and_the_model_does_not_see_is_told() -> None:
    def notes(row: dict, *, chat: bool, unused: tuple[str, ...] = ()) -> list[str]:
        train = [item_from_row(row, where="row")]
        rows = TaskRows(name="rows", train=train, test=[], suggested_steps=None, unused=unused)
        return notes_on_rows(rows, tiny_tokenizer(chat=chat), "all")

    assert notes(CHAT, chat=True) == []
    (only_last,) = notes(CHAT, chat=False)
    assert "of the 1 rows with several assistant turns only the last is learned" in only_last
    with_tools = {"messages": CHAT["messages"][:2], "tools": [{"name": "f"}]}
    assert notes(with_tools, chat=True) == [
        "the tokenizer's chat template shows no tools, so the model does not see the tools of the rows"
    ]
    assert "is not shown the tools" in notes(with_tools, chat=False)[0]
    (not_used,) = notes(CHAT, chat=True, unused=("id", "source"))
    assert not_used.startswith("not used of rows: id, source;")


def test_all_assistant_turns_are_learned_unless_the_last_alone_is_wanted() -> None:
    train = [item_from_row(CHAT, where="row")] * 2
    rows = TaskRows(name="rows", train=train, test=[], suggested_steps=None)

    def learned(*settings: str) -> int:
        config = load_config_of(RunConfig, None, ["training.steps=1", *settings])
        return fit_task(config, "rows", rows, tiny_tokenizer(chat=True), 99, []).examples[0].learned_tokens

    assert (learned(), learned("data.turns=last")) == (4, 2)


def test_a_row_that_the_template_cannot_write_is_refused_by_its_number() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('no') if messages[0].content == 'a' else 'x' }}"
    items = [item_from_row({"prompt": prompt, "target": "b"}, where="row") for prompt in ("c", "a")]
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: the tokenizer's chat template refuses"):
        examples_of(items, tokenizer, "all", source="rows.jsonl")
