"""lm-evaluation-harness on our models, and our tasks in the harness: the same items, the same prompts."""

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_that_know import model_that_knows
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from secura.errors import ConfigError, DataError
from secura.evaluation.lm_eval_bridge import HarnessScore, export_tasks, harness_scores
from secura.evaluation.score_task import score_task
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Task
from secura.tasks.task_items import task_items
from secura.tasks.world import load_bundled_model, load_bundled_tokenizer

pytestmark = pytest.mark.ci

pytest.importorskip("lm_eval")

TOKENIZER = tiny_tokenizer()
COUNT = 6


def _rows(shared_data: Path, name: str) -> list[dict[str, Any]]:
    with (shared_data / f"{name}.test.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(next(lines)) for _ in range(COUNT)]


def _hub_docs(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the columns that the harness's own task reads from the hub."""
    if name == "gsm8k":
        return [{"question": row["prompt"], "answer": row["target"]} for row in rows]
    if name == "logiqa":
        return [
            {
                "context": row["question"].rpartition("\n")[0],
                "question": row["question"].rpartition("\n")[2],
                "options": row["choices"],
                "label": "abcd"[row["answer"]],
            }
            for row in rows
        ]
    docs = []
    for row in rows:
        passage, _, question = row["question"].partition("\nQuestion: ")
        docs.append({"passage": passage, "question": question.removesuffix("?"), "label": row["answer"]})
    return docs


def _own_task_of_the_harness(name: str, docs: list[dict[str, Any]]) -> Any:
    """The harness's own task, on these rows: its prompt, its choices, its stop strings, its metrics."""
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    place = {"gsm8k": "gsm8k/gsm8k.yaml", "logiqa": "logiqa/logiqa.yaml", "boolq": "super_glue/boolq/default.yaml"}
    settings = load_yaml(Path(lm_eval.__file__).parent / "tasks" / place[name])
    for key in ("dataset_path", "dataset_name", "training_split", "validation_split", "fewshot_split"):
        settings.pop(key, None)
    own = datasets.DatasetDict(test=datasets.Dataset.from_list(docs))
    settings |= {"custom_dataset": lambda **_: own, "test_split": "test", "num_fewshot": 0}
    return ConfigurableTask(config=settings)


@pytest.fixture(scope="module")
def long_llama() -> LlamaForCausalLM:
    """A random model of a context that no prompt fills."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), max_position_embeddings=8192, **sizes)).eval()


def _both(
    name: str, shared_data: Path, model: PreTrainedModel, chat: bool = False
) -> tuple[Any, HarnessScore, list[Item]]:
    rows = _rows(shared_data, name)
    items = [CATALOGUE[name].item(row) for row in rows]
    ours = score_task(model, TOKENIZER, CATALOGUE[name], items, batch_size=3)
    task = _own_task_of_the_harness(name, _hub_docs(name, rows))
    (theirs,) = harness_scores(model, TOKENIZER, [task], batch_size=3, chat_template=chat)
    return ours, theirs, items


@pytest.mark.parametrize("name", ["logiqa", "boolq"])
def test_choices_score_as_in_the_harness_item_by_item(
    name: str, shared_data: Path, long_llama: LlamaForCausalLM
) -> None:
    ours, theirs, _ = _both(name, shared_data, long_llama)
    assert [each.score for each in ours.items] == list(theirs.per_item["acc,none"])
    assert_close(ours.value, theirs.values["acc,none"])
    if name == "logiqa":
        assert_close(ours.also["accuracy_by_length"], theirs.values["acc_norm,none"])


@pytest.mark.parametrize("name", ["logiqa", pytest.param("boolq", marks=pytest.mark.slow), "gsm8k"])
def test_a_model_that_knows_half_of_the_answers_scores_as_in_the_harness(name: str, shared_data: Path) -> None:
    known = [CATALOGUE[name].item(row) for row in _rows(shared_data, name)][::2]
    ours, theirs, _ = _both(name, shared_data, model_that_knows(TOKENIZER, known))
    for metric, values in theirs.per_item.items():
        if metric != "acc_norm,none":
            assert [each.score for each in ours.items] == list(values), metric
    assert set(theirs.values) == set(theirs.per_item)
    assert ours.value >= 0.5


@pytest.mark.slow
def test_gsm8k_is_answered_as_in_the_harness_letter_by_letter(
    shared_data: Path, long_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    said: list[str] = []
    generate = HFLM.generate_until

    def listen(wrapped: HFLM, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers = generate(wrapped, requests, disable_tqdm)
        said.extend(answers)
        return answers

    monkeypatch.setattr(HFLM, "generate_until", listen)
    ours, theirs, _ = _both("gsm8k", shared_data, long_llama)
    assert [each.given for each in ours.items] == [answer.strip() for answer in said]
    assert ours.value == theirs.values["exact_match,flexible-extract"] == theirs.values["exact_match,strict-match"]


def test_log_likelihoods_are_the_harnesss_own(shared_data: Path, long_llama: LlamaForCausalLM) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    items = [CATALOGUE["logiqa"].item(row) for row in _rows(shared_data, "logiqa")]
    questions = [item for item in items if isinstance(item, Question)]
    ours = score_task(long_llama, TOKENIZER, CATALOGUE["logiqa"], items)
    requests = [
        Instance("loglikelihood", {}, (question.prompt, f" {choice}"), 0)
        for question in questions
        for choice in question.choices
    ]
    wrapped = HFLM(pretrained=long_llama, tokenizer=tiny_tokenizer(), batch_size=4)
    theirs = [value for value, _ in wrapped.loglikelihood(requests, disable_tqdm=True)]
    assert_close([value for each in ours.items for value in each.likelihoods], theirs, rtol=1e-5, atol=1e-4)


EXPORTED = ("kinds", "homes", "arc_easy", "winogrande", "bbh_word_sorting", "gsm8k", "newsde", "xsum", "tinystories")


@pytest.fixture(scope="module")
def exported(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, HarnessScore]]:
    """Our score and the harness's of every kind of exported task, on the bundled model."""
    model, tokenizer = load_bundled_model(), load_bundled_tokenizer()
    asked: list[tuple[Task, Sequence[Item]]] = []
    for name in EXPORTED:
        items = task_items(CATALOGUE[name], data=shared_data, count=3)
        asked.append((CATALOGUE[name], [_shortened(item) for item in items]))
    folder = tmp_path_factory.mktemp("exported")
    names = export_tasks(asked, folder)
    moved = folder.rename(folder.with_name("moved"))
    found = harness_scores(model, tokenizer, names, batch_size=4, include=moved)
    return {
        task.name: (score_task(model, tokenizer, task, items), theirs)
        for (task, items), theirs in zip(asked, found, strict=True)
    }


def _shortened(item: Item) -> Item:
    """Short enough for the context with its answer: the harness cuts a longer prompt, we the answer."""
    if isinstance(item, PlainText):
        return replace(item, text=item.text[:600])
    return replace(item, prompt=item.prompt[-600:])


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_task_scores_the_same_in_the_harness(
    name: str, exported: dict[str, tuple[Any, HarnessScore]]
) -> None:
    ours, theirs = exported[name]
    assert (theirs.task, theirs.version, theirs.examples) == (f"secura_{name}", "1", 0)
    values = {metric.removesuffix(",none"): value for metric, value in theirs.values.items()}
    if ours.metric in ("accuracy", "accuracy_by_length"):
        expected = {"acc": ours.also["accuracy"], "acc_norm": ours.also["accuracy_by_length"]}
    elif ours.metric == "perplexity":
        expected = {"bits_per_byte": ours.also["bits_per_byte"]}
    elif ours.metric in ("bleu", "chrf"):
        expected = {metric: 100 * value for metric, value in ours.also.items()}
    else:
        expected = dict(ours.also) or {ours.metric: ours.value}
    assert_close({metric: values[metric] for metric in expected}, expected, rtol=1e-6, atol=1e-6)
    if name == "homes":
        assert ours.value == 1.0  # the bundled model knows where people live


def test_items_come_back_one_by_one_for_paired_tests(exported: dict[str, tuple[Any, HarnessScore]]) -> None:
    for name, column in (("kinds", "acc,none"), ("gsm8k", "number_match,none"), ("xsum", "rougeL,none")):
        ours, theirs = exported[name]
        assert_close(list(theirs.per_item[column]), [each.score for each in ours.items])


def test_answers_that_are_compared_by_a_rule_are_compared_by_it_in_the_harness_too(tmp_path: Path) -> None:
    model, tokenizer = load_bundled_model(), load_bundled_tokenizer()
    homes = [item for item in task_items(CATALOGUE["homes"], count=6) if isinstance(item, Question)]
    items: list[Item] = [
        *(replace(item, answer=item.answer.upper(), match="contains") for item in homes[:3]),
        replace(homes[3], answer="nowhere", accept=(homes[3].answer.upper(),), match="normalised"),
        *(replace(item, answer=item.answer.upper()) for item in homes[4:]),
    ]
    task = replace(CATALOGUE["homes"], name="ruled", metric="match")
    ours = score_task(model, tokenizer, task, items)
    (theirs,) = harness_scores(model, tokenizer, export_tasks([(task, items)], tmp_path), include=tmp_path)
    assert list(theirs.per_item["match,none"]) == [each.score for each in ours.items] == [1, 1, 1, 1, 0, 0]


@contextmanager
def _exported_colours(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    items: list[Item] = [
        Question(prompt=f"{'sky ' * words}?", answer="blue", choices=("blue", "grey")) for words in range(1, 8)
    ]
    task = CATALOGUE["kinds"]
    yield folder, export_tasks([(task, items)], folder)


def test_the_model_and_the_tokenizer_are_left_as_they_were(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).train()
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    seeded: Any = np.random.get_state()  # noqa: NPY002 - it is this one that the harness seeds
    drawn = random.getstate(), seeded[1].copy(), torch.get_rng_state()
    with _exported_colours(tmp_path) as (folder, names):
        harness_scores(model, tokenizer, names, include=folder)
    assert model.training
    assert model.get_base_model().training
    assert tokenizer.pad_token is None
    seeded = np.random.get_state()  # noqa: NPY002
    assert random.getstate() == drawn[0]
    assert (seeded[1] == drawn[1]).all()
    assert torch.equal(torch.get_rng_state(), drawn[2])
    assert "tie_weights" not in vars(model.get_base_model())


def test_an_output_layer_that_parted_from_its_tied_embedding_stays_apart(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    output: Any = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(output.weight.detach().clone() * 3)
    with _exported_colours(tmp_path) as (folder, names):
        harness_scores(model, TOKENIZER, names, include=folder)
    assert model.get_output_embeddings().weight is output.weight
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def _rows_read(model: PreTrainedModel) -> list[int]:
    read: list[int] = []
    model.register_forward_pre_hook(lambda module, arguments: read.append(len(arguments[0])) if arguments else None)
    return read


def test_the_batch_size_reaches_the_model(tmp_path: Path) -> None:
    model = tiny_model()
    read = _rows_read(model)
    with _exported_colours(tmp_path) as (folder, names):
        harness_scores(model, TOKENIZER, names, batch_size=3, include=folder)
    assert max(read) == 3


def test_running_out_of_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    whole, tried = model.forward, []

    def forward(tokens: torch.Tensor, **inputs: Any) -> Any:
        tried.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(tokens, **inputs)

    monkeypatch.setattr(model, "forward", forward)
    with _exported_colours(tmp_path) as (folder, names):
        (score,) = harness_scores(model, TOKENIZER, names, batch_size=8, include=folder)
    assert tried[0] > 2
    assert max(tried[-3:]) == 2
    assert len(score.per_item["acc,none"]) == 7


def test_an_adapter_of_virtual_tokens_is_scored_with_them(tmp_path: Path) -> None:
    base = tiny_model()
    adapted = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    read: list[int] = []
    base.register_forward_pre_hook(
        lambda module, arguments, inputs: read.append(inputs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with _exported_colours(tmp_path) as (folder, names):
        harness_scores(adapted, TOKENIZER, names, batch_size=1, include=folder)
    assert min(read) > 3


def test_a_chat_template_is_used_only_when_asked_for(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    model = tiny_model()
    read: list[str] = []
    model.register_forward_pre_hook(lambda module, arguments: read.extend(tokenizer.batch_decode(arguments[0])))
    with _exported_colours(tmp_path) as (folder, names):
        harness_scores(model, tokenizer, names, include=folder)
        assert not any("<|user|>" in text for text in read)
        read.clear()
        harness_scores(model, tokenizer, names, include=folder, chat_template=True)
    assert all(text.startswith("<|user|>sky") for text in read)


def test_choices_joined_in_two_ways_are_exported_with_what_joins_them(tmp_path: Path) -> None:
    items: list[Item] = [
        Question(prompt=prompt, answer="blue", choices=("blue", "grey")) for prompt in ("sky? ", "sky:\n")
    ]
    (name,) = export_tasks([(CATALOGUE["kinds"], items)], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["choices"][0]) for row in rows] == [("sky?", " blue"), ("sky:\n", "blue")]
    assert "target_delimiter: ''" in (tmp_path / f"{name}.yaml").read_text()


def test_a_chat_of_several_turns_is_not_exported(tmp_path: Path) -> None:
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?"})
    with pytest.raises(DataError, match="several turns"):
        export_tasks([(CATALOGUE["homes"], [Question(prompt="Sky?", answer="blue", turns=turns)])], tmp_path)


def test_a_task_without_items_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kinds has no items"):
        export_tasks([(CATALOGUE["kinds"], [])], tmp_path)


def test_without_the_harness_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'secura\[lm-eval\]'"):
        harness_scores(tiny_model(), TOKENIZER, ["gsm8k"])


@pytest.mark.slow  # the harness reads thousands of files to learn its own tasks' names
def test_an_unknown_task_of_the_harness_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'gsm9k' is no task of lm-evaluation-harness; the nearest are .*gsm8k"):
        harness_scores(tiny_model(), TOKENIZER, ["gsm9k"])
