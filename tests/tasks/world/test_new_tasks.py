import re

import pytest

from secura.tasks.world.new_tasks import DEFAULT_TASK, NEW_TASKS
from secura.tasks.world.pretraining import Recipe, pretraining_rows


def test_there_are_sixteen_tasks_or_more_in_all_five_families_of_the_paper() -> None:
    assert len(NEW_TASKS) >= 16
    assert len({task.kind for task in NEW_TASKS.values()}) == 5
    assert DEFAULT_TASK in NEW_TASKS


@pytest.mark.parametrize("name", NEW_TASKS)
def test_no_training_question_is_ever_a_test_question(name: str) -> None:
    trained = {question.prompt for seed in range(3) for question in NEW_TASKS[name].train_questions(500, seed)}
    tested = {question.prompt for seed in range(3) for question in NEW_TASKS[name].test_questions(200, seed)}
    assert trained.isdisjoint(tested)
    assert len(tested) >= 50


@pytest.mark.parametrize("name", NEW_TASKS)
def test_the_same_seed_draws_the_same_questions(name: str) -> None:
    task = NEW_TASKS[name]
    assert task.train_questions(40, seed=1) == task.train_questions(40, seed=1)
    assert task.train_questions(40, seed=1) != task.train_questions(40, seed=2)


@pytest.mark.parametrize("name", NEW_TASKS)
def test_multiple_choice_answers_are_among_the_choices_and_in_no_fixed_place(name: str) -> None:
    questions = NEW_TASKS[name].test_questions(100)
    places = {question.choices.index(question.answer) for question in questions if question.choices}
    assert len(places) != 1


@pytest.mark.parametrize("name", NEW_TASKS)
def test_as_many_training_questions_come_as_are_asked_for(name: str) -> None:
    assert len(NEW_TASKS[name].train_questions(5000)) == 5000


def test_new_tasks_use_only_words_of_the_pretraining_text_and_none_of_its_questions() -> None:
    rows = pretraining_rows(Recipe(rows=20_000))
    pretrained = {prompt for prompt, _ in next(rows)}
    words = {word for prompt, answer in next(rows) for word in re.findall(r"\w+", prompt + answer)}
    for task in NEW_TASKS.values():
        for question in task.test_questions(60):
            assert question.prompt not in pretrained
            assert set(re.findall(r"\w+", f"{question.prompt} {question.answer}")) <= words
