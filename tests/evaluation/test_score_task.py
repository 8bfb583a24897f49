import json
import math
import random
from dataclasses import replace

import pytest
import torch
from models_that_know import model_that_knows
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer
from torch.testing import assert_close

from secura.errors import DataError
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.score_task import measure, score_task
from secura.evaluation.task_score import ItemScore, TaskScore, as_json, from_json
from secura.evaluation.text_metrics import corpus_bleu, corpus_chrf, sentence_bleu
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Metric, Task

TOKENIZER = tiny_tokenizer()
CHOICES: list[Item] = [
    Question(prompt=f"{'sky ' * words}is?", answer="red", choices=("blue", "a long grey one", "red"))
    for words in range(1, 9)
]
FREE: list[Item] = [Question(prompt=f"{'sky ' * words}is?", answer=f"it is {words} in all") for words in range(1, 9)]
TEXTS: list[Item] = [PlainText(text="What is the colour of the sky? " * words) for words in (1, 5, 2, 20)]


def _task(metric: Metric, **settings: object) -> Task:
    return Task(
        name="asked",
        version=3,
        tests="the sky",
        source="here",
        prompt_reason="none",
        metric=metric,
        item=lambda row: PlainText(text=row["text"]),
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("metric", ["exact_match", "number_match", "rouge1", "rougeL", "bleu", "chrf"])
def test_a_model_that_knows_every_answer_scores_one_by_every_metric(metric: Metric) -> None:
    score = score_task(model_that_knows(TOKENIZER, FREE), TOKENIZER, _task(metric), FREE)
    assert_close(score.value, 1.0)
    assert [each.given for each in score.items] == [item.answer for item in FREE if isinstance(item, Question)]
    assert all(each.correct == (True if metric.endswith("match") else None) for each in score.items)
    assert (score.task, score.version, score.metric, score.truncated) == ("asked", 3, metric, 0)


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_by_length"])
def test_a_model_that_knows_half_of_the_choices_scores_half(metric: Metric) -> None:
    sure = [item for number, item in enumerate(CHOICES) if number % 2]
    wrong = [replace(item, answer="blue") for item in CHOICES if item not in sure and isinstance(item, Question)]
    score = score_task(model_that_knows(TOKENIZER, [*sure, *wrong]), TOKENIZER, _task(metric), CHOICES)
    assert score.value == 0.5
    assert score.also == {"accuracy": 0.5, "accuracy_by_length": 0.5}
    assert [each.given for each in score.items] == ["blue", "red"] * 4
    assert [each.correct for each in score.items] == [False, True] * 4
    assert [each.score for each in score.items] == [0.0, 1.0] * 4


def test_choices_are_measured_both_ways_and_given_is_the_headlines() -> None:
    # A random model holds each token for about as likely: the sum goes to the shorter, the mean to the longer.
    asked: list[Item] = [
        Question(prompt=f"{'sky ' * words}is?", answer="zq", choices=("zq", "the colour of the sky"))
        for words in (1, 4)
    ]
    model = tiny_model()
    by_sum = score_task(model, TOKENIZER, _task("accuracy"), asked)
    by_length = score_task(model, TOKENIZER, _task("accuracy_by_length"), asked)
    assert by_sum.also == by_length.also
    assert by_sum.value == by_sum.also["accuracy"]
    assert by_length.value == by_length.also["accuracy_by_length"]
    assert [each.given for each in by_sum.items] == ["zq"] * 2
    assert [each.given for each in by_length.items] == ["the colour of the sky"] * 2
    assert [each.likelihoods for each in by_sum.items] == [each.likelihoods for each in by_length.items]


def test_text_is_scored_by_the_mean_over_all_tokens_not_over_texts() -> None:
    score = score_task(tiny_model(), TOKENIZER, _task("perplexity"), TEXTS)
    tokens = sum(each.tokens for each in score.items)
    nats = math.fsum(each.score * each.tokens for each in score.items)
    assert_close(score.value, math.exp(nats / tokens))
    assert_close(score.also["nats_per_token"], nats / tokens)
    read = sum(len(item.text.encode()) for item in TEXTS if isinstance(item, PlainText))
    assert_close(score.also["bits_per_byte"], nats / math.log(2) / read)
    assert all(each.correct is None and not each.given for each in score.items)


@pytest.mark.parametrize(
    ("metric", "items", "architecture"),
    [
        ("accuracy", CHOICES, "llama"),
        ("accuracy", CHOICES, "gemma2"),
        ("exact_match", FREE, "gemma2"),
        ("bleu", FREE, "llama"),
        ("perplexity", TEXTS, "llama"),
    ],
)
def test_a_score_depends_neither_on_the_batch_size_nor_on_the_order(
    metric: Metric, items: list[Item], architecture: str
) -> None:
    model, task = tiny_model(architecture), _task(metric, max_answer_tokens=12)
    alone = score_task(model, TOKENIZER, task, items, batch_size=1)
    order = random.Random(1).sample(range(len(items)), len(items))
    for size in (3, "auto", BatchSize(5, torch.device("cpu"))):
        together = score_task(model, TOKENIZER, task, items, batch_size=size)  # type: ignore[arg-type]
        shuffled = score_task(model, TOKENIZER, task, [items[index] for index in order], batch_size=size)  # type: ignore[arg-type]
        assert list(shuffled.items) == [together.items[index] for index in order]  # to the bit
        assert_close(shuffled.value, together.value, rtol=1e-12, atol=0)  # sums of the same numbers
        assert_close(together.value, alone.value, rtol=1e-6, atol=1e-6)  # batched products round otherwise
        for one, other in zip(together.items, alone.items, strict=True):
            assert (one.given, one.correct, one.tokens) == (other.given, other.correct, other.tokens)
            assert_close(one.likelihoods, other.likelihoods, rtol=1e-6, atol=1e-5)
            assert_close(one.score, other.score, rtol=1e-6, atol=1e-6)


def test_likelihoods_of_a_tiny_bfloat16_model_move_with_the_batch_by_less_than_one_in_two_hundred() -> None:
    model = tiny_model().to(torch.bfloat16)  # type: ignore[call-arg]
    alone = score_task(model, TOKENIZER, _task("accuracy"), CHOICES, batch_size=1)
    together = score_task(model, TOKENIZER, _task("accuracy"), CHOICES, batch_size=8)
    for one, other in zip(together.items, alone.items, strict=True):
        assert_close(one.likelihoods, other.likelihoods, rtol=5e-3, atol=0)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.train(training)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    for metric, items in (("accuracy", CHOICES), ("exact_match", FREE), ("perplexity", TEXTS)):
        score_task(model, TOKENIZER, _task(metric), items)  # type: ignore[arg-type]
    assert all(module.training == training for module in model.modules() if not isinstance(module, torch.nn.ModuleDict))
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("metric", "items"), [("accuracy", CHOICES), ("exact_match", FREE), ("perplexity", TEXTS)])
def test_progress_counts_every_item_once(metric: Metric, items: list[Item]) -> None:
    for architecture in ("llama", "gemma2"):
        seen: list[int] = []
        repeated = [*items, items[0]]
        score_task(tiny_model(architecture), TOKENIZER, _task(metric), repeated, batch_size=3, on_progress=seen.append)
        assert sum(seen) == len(repeated)


def test_truncated_answers_are_counted_beside_their_score() -> None:
    long = [*FREE, Question(prompt="all?", answer="grey " * 30)]
    task = _task("exact_match", max_answer_tokens=25)
    score = score_task(model_that_knows(TOKENIZER, long), TOKENIZER, task, long)
    assert score.truncated == 1
    assert [each.truncated for each in score.items] == [False] * len(FREE) + [True]
    assert score.value == len(FREE) / len(long)


def test_a_stop_string_of_the_task_ends_its_answers() -> None:
    asked: list[Item] = [Question(prompt="all?", answer="grey\nand more")]
    model = model_that_knows(TOKENIZER, asked)
    (found,) = score_task(model, TOKENIZER, _task("exact_match", stop=("\n",)), asked).items
    assert found.given == "grey"
    (found,) = score_task(model, TOKENIZER, _task("exact_match", stop=()), asked).items
    assert found.given == "grey\nand more"


def test_a_free_answer_is_right_by_its_questions_rule_where_the_metric_is_match() -> None:
    said: list[Item] = [Question(prompt="sky?", answer="It is Blue."), Question(prompt="how many?", answer="7.0 or so")]
    rules: list[Item] = [
        Question(prompt="sky?", answer="grey", accept=("blue",), match="contains"),
        Question(prompt="how many?", answer="7", match="number"),
    ]
    model = model_that_knows(TOKENIZER, said)
    score = score_task(model, TOKENIZER, _task("match"), rules)
    assert [each.correct for each in score.items] == [True, True]
    assert score.value == 1.0
    assert score_task(model, TOKENIZER, _task("exact_match"), rules).value == 0.0


def test_a_chat_template_is_used_where_the_tokenizer_has_one() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    assert score_task(model_that_knows(tokenizer, FREE), tokenizer, _task("exact_match"), FREE).value == 1.0
    assert score_task(model_that_knows(tokenizer, CHOICES), tokenizer, _task("accuracy"), CHOICES).value == 1.0


def test_corpus_metrics_are_of_the_corpus_and_items_have_their_own() -> None:
    given, right = ["it is blue and grey", "a long red sky"], ["it is blue and red", "a long red sky at night"]
    asked = [Question(prompt="?", answer=each) for each in right]
    scores, value, also = measure("bleu", given, asked)
    assert value == also["bleu"] == corpus_bleu(given, right)
    assert also["chrf"] == corpus_chrf(given, right)
    assert scores == [sentence_bleu(*pair) for pair in zip(given, right, strict=True)]
    assert measure("rouge1", given, asked)[2].keys() == {"rouge1", "rougeL"}


@pytest.mark.parametrize(
    ("metric", "items", "says"),
    [
        ("accuracy", [], "no items"),
        ("accuracy", FREE, "must be {question, choices, answer}"),
        ("exact_match", CHOICES, "must be {prompt, target}"),
        ("exact_match", [*FREE, *TEXTS], "must be {prompt, target}"),
        ("perplexity", FREE, "which needs rows with {text}"),
        ("perplexity", [PlainText(text="")], "its texts are empty"),
    ],
)
def test_items_that_do_not_fit_the_metric_are_refused(metric: Metric, items: list[Item], says: str) -> None:
    with pytest.raises(DataError, match=says):
        score_task(tiny_model(), TOKENIZER, _task(metric), items)


def test_a_score_comes_back_from_json_with_its_questions() -> None:
    for metric, items in (("accuracy", CHOICES), ("exact_match", FREE), ("perplexity", TEXTS)):
        score = score_task(tiny_model(), TOKENIZER, _task(metric, max_answer_tokens=4), items)  # type: ignore[arg-type]
        stored = json.loads(json.dumps(as_json(score), allow_nan=False))
        assert from_json(stored, items) == score
        assert "prompt" not in json.dumps(stored["items"])


def test_what_a_model_holds_for_impossible_comes_back_from_json() -> None:
    item = ItemScore(item=CHOICES[0], given="red", score=1.0, correct=True, likelihoods=(-math.inf, -1.5, -2.0))
    score = TaskScore(task="asked", version=1, metric="perplexity", value=math.inf, also={}, items=(item,))
    stored = json.loads(json.dumps(as_json(score), allow_nan=False))
    assert from_json(stored, CHOICES[:1]) == score


def test_a_stored_score_of_other_items_is_refused() -> None:
    score = score_task(tiny_model(), TOKENIZER, _task("accuracy"), CHOICES)
    with pytest.raises(ValueError, match="8 answers to 7 items"):
        from_json(as_json(score), CHOICES[1:])
