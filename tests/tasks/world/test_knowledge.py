import pytest

from secura.tasks.world.knowledge import KNOWLEDGE, knowledge_questions


def test_the_same_seed_draws_the_same_questions() -> None:
    assert knowledge_questions(20, seed=3) == knowledge_questions(20, seed=3)
    assert knowledge_questions(20, seed=3) != knowledge_questions(20, seed=4)


def test_every_family_is_asked_and_named() -> None:
    assert {question.family for question in knowledge_questions(5)} == set(KNOWLEDGE)


def test_a_prompt_has_one_answer_whatever_the_seed() -> None:
    answers: dict[str, str] = {}
    for seed in range(5):
        for question in knowledge_questions(100, seed):
            assert answers.setdefault(question.prompt, question.answer) == question.answer


def test_there_are_multiple_choice_and_free_families() -> None:
    questions = knowledge_questions(5)
    assert {bool(question.choices) for question in questions} == {True, False}


@pytest.mark.parametrize("family", KNOWLEDGE)
def test_no_question_is_asked_twice(family: str) -> None:
    prompts = [question.prompt for question in knowledge_questions(60) if question.family == family]
    assert len(set(prompts)) == len(prompts) >= 20
