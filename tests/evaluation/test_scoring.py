import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_that_know import model_that_knows
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from torch.testing import assert_close

from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.score_task import score_task
from secura.evaluation.scoring import answer_limits, score_questions, sum_log_likelihoods
from secura.tasks.finding import find_tasks
from secura.tasks.prompting import answer_tokens, end_tokens, prompt_tokens
from secura.tasks.question import PlainText, Question
from secura.tasks.task_items import task_items

PAIRS = [([5, 6, 7], [8]), ([9], [10, 11, 12]), ([20, 21, 22, 23, 24], [25, 26])]
FREE = [Question(prompt="sky " * length + "?", answer="blue") for length in (1, 7, 3, 5)]
CHOICES = [
    Question(prompt=f"{word}?", answer="red", choices=("red", "blue green", "grey")) for word in ("a", "of the sky")
]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_log_likelihoods_are_those_of_each_row_alone(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    together = sum_log_likelihoods(model, tokenizer, PAIRS, batch_size=3)
    for (context, continuation), found in zip(PAIRS, together, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        places = range(len(context) - 1, len(context) + len(continuation) - 1)
        plain = sum(logits[place, token].item() for place, token in zip(places, continuation, strict=True))
        assert_close(found, plain, rtol=1e-5, atol=1e-5)  # float32, batched and padded


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_answers_do_not_depend_on_the_batch_size(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    alone = score_questions(model, tokenizer, [*FREE, *CHOICES], batch_size=1)
    assert score_questions(model, tokenizer, [*FREE, *CHOICES], batch_size=8) == alone


def test_a_choice_is_the_one_of_highest_summed_log_likelihood() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    question = CHOICES[1]
    context = prompt_tokens(tokenizer, question.prompt)
    pairs = [(context, answer_tokens(tokenizer, question.prompt, each, end=False)) for each in question.choices]
    sums = sum_log_likelihoods(model, tokenizer, pairs)
    likeliest = question.choices[max(range(3), key=sums.__getitem__)]
    (scored,) = score_questions(model, tokenizer, [question])
    assert scored.given == likeliest
    assert scored.correct == (likeliest == "red")


@pytest.mark.parametrize("name", ["arc_easy", "commonsense_qa"])
def test_rows_of_a_task_are_chosen_by_its_rule_in_training_as_in_evaluation(name: str, tmp_path: Path) -> None:
    rows = [
        {"question": f"{'sky ' * words}is?", "choices": ["zq", "the colour of the sky", "grey"], "answer": words % 3}
        for words in range(1, 9)
    ]
    (tmp_path / f"{name}.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = find_tasks([name])
    items = task_items(task, data=tmp_path)
    questions = [item for item in items if isinstance(item, Question)]
    model, tokenizer = tiny_model(), tiny_tokenizer()
    trained, evaluated = score_questions(model, tokenizer, questions), score_task(model, tokenizer, task, items)
    assert [each.given for each in trained] == [each.given for each in evaluated.items]
    assert [each.correct for each in trained] == [each.correct for each in evaluated.items]


def test_a_question_by_length_takes_the_choice_of_highest_log_likelihood_per_character() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    question = Question(prompt="sky is?", answer="zq", choices=("zq", "the colour of the sky"))
    by_sum, by_length = score_questions(model, tokenizer, [question, replace(question, by_length=True)])
    assert (by_sum.given, by_length.given) == ("zq", "the colour of the sky")


def test_what_the_model_says_is_scored_right_when_it_is_the_right_answer() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    (said,) = score_questions(model, tokenizer, FREE[:1])
    assert not said.correct
    wanted = Question(prompt=FREE[0].prompt, answer=said.given)
    (again,) = score_questions(model, tokenizer, [wanted])
    # The random model never ends by itself, so it says as much as a longer answer allows.
    assert again.given.startswith(said.given)


RULED = [
    Question(prompt="sky?", answer="blue", match="contains"),
    Question(prompt="sea?", answer="grey", accept=("BLUE",), match="first_line"),
    Question(prompt="how many?", answer="7", match="number"),
    Question(prompt="row?", answer='{"a": 1}', match="json"),
    Question(prompt="grass?", answer="green"),
    Question(prompt="snow?", answer="white"),
]
SAID = ["Well, it is\n\nblue.", "Blue!\nSo I think.", "7 of them", '{"a":\n1.0}', "green\nas grass", "White"]


def test_each_free_answer_is_read_by_its_own_rule_and_ends_where_the_rule_says() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    known = [Question(prompt=asked.prompt, answer=said) for asked, said in zip(RULED, SAID, strict=True)]
    scored = score_questions(model_that_knows(tokenizer, known), tokenizer, RULED)
    assert [each.question for each in scored] == RULED
    assert [each.correct for each in scored] == [True, True, True, True, True, False]
    # Letter for letter, an answer ends with its line; by any other rule it may go on, up to the end of the turn.
    assert [each.given for each in scored] == [*SAID[:4], "green", "White"]


def test_an_answer_by_a_rule_may_be_longer_than_the_right_one_but_not_endless() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    questions = [Question(prompt="sky?", answer="blue", match="contains")]
    assert answer_limits(tokenizer, questions) == (24, ())
    wordy = [Question(prompt="sky?", answer="grey " * 100)]
    (scored,) = score_questions(model_that_knows(tokenizer, wordy), tokenizer, questions)
    assert len(tokenizer(scored.given, add_special_tokens=False)["input_ids"]) <= 24
    longer = [Question(prompt="sky?", answer="blue", accept=("it is blue and grey " * 5,), match="contains")]
    assert answer_limits(tokenizer, longer)[0] == 8 + len(
        answer_tokens(tokenizer, "sky?", longer[0].accept[0], end=False)
    )


@pytest.mark.parametrize(("answers", "stop"), [(["blue", " a\n"], ("\n",)), (["blue", "a\nb"], ())])
def test_letter_for_letter_answers_end_at_a_line_break_unless_one_holds_it(
    answers: list[str], stop: tuple[str, ...]
) -> None:
    tokenizer = tiny_tokenizer()
    questions = [Question(prompt="?", answer=answer) for answer in answers]
    longest = max(len(answer_tokens(tokenizer, "?", answer, end=False)) for answer in answers)
    assert answer_limits(tokenizer, questions) == (longest + 8, stop)


def test_the_models_own_generation_settings_are_set_aside_and_put_back() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    plain = score_questions(model, tokenizer, FREE)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    assert score_questions(model, tokenizer, FREE) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_a_prompt_that_fills_the_context_is_still_answered() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    full = Question(prompt="z" * (CONTEXT - 2), answer="blue")
    assert len(prompt_tokens(tokenizer, full.prompt)) == CONTEXT - 2
    scored = score_questions(model, tokenizer, [full, *FREE], batch_size=8)
    assert scored[1:] == score_questions(model, tokenizer, FREE)


def test_scoring_leaves_the_model_in_the_mode_it_was_in() -> None:
    model = tiny_model().train()
    score_questions(model, tiny_tokenizer(), FREE[:1])
    assert model.training


def test_answer_loss_is_the_mean_over_all_answer_tokens() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    pairs = [
        (prompt_tokens(tokenizer, each.prompt), answer_tokens(tokenizer, each.prompt, each.answer, end=True))
        for each in FREE
    ]
    count = sum(len(tokens) for _, tokens in pairs)
    expected = -sum(sum_log_likelihoods(model, tokenizer, pairs)) / count
    assert_close(mean_answer_loss(model, tokenizer, FREE, max_tokens=CONTEXT), expected)
    assert mean_answer_loss(model, tokenizer, [], max_tokens=CONTEXT) is None


def test_a_plain_text_costs_what_its_own_loss_says() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    text = "What is the colour of the sky?"
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = model(tokens, labels=tokens).loss.item()
    found = mean_answer_loss(model, tokenizer, [PlainText(text=text)], max_tokens=CONTEXT)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_generated_answer_ends_where_the_chat_template_closes_a_turn() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer(chat=True)
    question = Question(prompt="sky?", answer="blue")
    end, other = end_tokens(tokenizer)[0], answer_tokens(tokenizer, "sky?", "blue", end=False)[0]
    closed = []
    for likeliest in (end, other):
        with torch.no_grad():
            model.lm_head.weight.zero_()  # every token equally likely, but for the bias of one
        bias = torch.zeros(len(tokenizer))
        bias[likeliest] = 9.0
        hook = model.lm_head.register_forward_hook(lambda module, inputs, logits, bias=bias: logits + bias)
        closed.append(score_questions(model, tokenizer, [question])[0].given)
        hook.remove()
    assert closed[0] == ""
    assert closed[1].startswith("b")
