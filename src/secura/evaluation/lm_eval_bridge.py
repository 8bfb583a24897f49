"""lm-evaluation-harness, both ways: its tasks on our model in memory, our tasks in its format.

What `simple_evaluate` does to a model that is already loaded, and what is done about it here
(lm-eval 0.4.13):

- Its `batch_size` never reaches the model object, which then works row by row. It is given to
  the wrapper instead, and halved here where memory runs out: the wrapper's own `auto` first
  tries rows as long as the context, which takes minutes on a CPU.
- It seeds `random`, NumPy and PyTorch. Their states are put back.
- It leaves the model in evaluation mode, and calls `tie_weights`, which would undo an adapter
  merged into an output layer that was tied. The mode is put back, the call is left out.
- It sets a padding token on the tokenizer. It is given a copy.
- Its comparison of two models treats their answers as independent samples. What comes back
  here holds every item's score, for the paired tests of `secura.evaluation.significance`.
"""

import copy
import difflib
import io
import json
import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError, DataError
from secura.evaluation import lm_eval_rows
from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, called_model, in_evaluation_mode, vocabulary_size
from secura.file_names import file_name
from secura.tasks.question import Item, PlainText
from secura.tasks.task import Task
from secura.training.memory import is_out_of_memory

EXPORTED_PREFIX = "secura_"
"""Exported tasks are called so, since the harness lets a later task of the same name replace its own."""

_ROWS_FILE = "secura_rows.py"
_LOGITS_AT_FIRST = {"cuda": 2**31, "cpu": 2**28}
_TOKENS_OF_A_ROW = 1024
"""The harness keeps the logits of every token; this is the row that its first batch size is made for."""


@dataclass(frozen=True, kw_only=True)
class HarnessScore:
    """What the harness says of one of its tasks, or of a group of them."""

    task: str
    """Its name there."""
    version: str
    """Its version there."""
    examples: int | None
    """How many solved examples stand before each question; None for a group."""
    values: Mapping[str, float]
    """The harness's numbers by its own names, `metric,filter`, such as `acc,none`."""
    per_item: Mapping[str, Sequence[float]]
    """The same item by item, in the order of the task's rows, where an item has a number of its own."""


def harness_scores(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Any],
    *,
    batch_size: Wanted = "auto",
    count: int | None = None,
    examples: int | None = None,
    chat_template: bool = False,
    include: Path | None = None,
) -> list[HarnessScore]:
    """Run tasks of lm-evaluation-harness on a model in memory, and leave the model as it was.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: its tokenizer.
        tasks: names of the harness's tasks, groups or tags; or what `harness_tasks` made of them.
        batch_size: rows at once; `auto` starts from the vocabulary and halves where memory runs out.
        count: the first so many rows of each task; None is all.
        examples: solved examples before each question; None is each task's own number.
        chat_template: whether prompts go through the tokenizer's chat template, which the
            harness leaves out unless asked.
        include: folder of further task YAML files, such as `export_tasks` writes.

    Returns:
        A score for each task and each group, in the harness's order.

    Raises:
        ConfigError: if lm-eval is not installed, or a name stands for no task there.
        DataError: if a task's rows cannot be loaded.
    """
    named = [task for task in tasks if isinstance(task, str)]
    loaded = [task for task in tasks if not isinstance(task, str)]
    if named:
        loaded += harness_tasks(named, include=include)
    with _quiet(), _same_randomness(), _as_it_was(model):
        rows = _first_rows(model) if batch_size == "auto" else batch_size
        while True:
            found = _evaluate(_harness(), model, tokenizer, loaded, rows, count, examples, chat_template)
            if found is not None:
                return _scores(found)
            torch.cuda.empty_cache()
            rows //= 2


def _harness() -> Any:
    try:
        import lm_eval
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as problem:
        raise ConfigError(
            f"tasks of lm-evaluation-harness need it installed: pip install 'secura[lm-eval]' ({problem})."
        ) from problem
    return lm_eval


def harness_tasks(names: Sequence[str], *, include: Path | None = None) -> list[Any]:
    """Load tasks of the harness with their rows, before any compute is spent on a model.

    Args:
        names: its tasks, groups or tags.
        include: folder of further task YAML files.

    Raises:
        ConfigError: if lm-eval is not installed, or a name stands for no task there.
        DataError: if a task's rows cannot be loaded.
    """
    with _quiet(), _same_randomness():
        harness = _harness()
        # Its own thousands of files take seconds to read, and are not needed for an export.
        own = include is not None and all((include / f"{name}.yaml").is_file() for name in names)
        manager = harness.tasks.TaskManager(
            include_path=None if include is None else str(include), include_defaults=not own
        )
        unknown = next((name for name in names if name not in manager.all_tasks), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, manager.all_tasks, n=3)
            hint = f"the nearest are {', '.join(near)}" if near else "`lm_eval ls tasks` lists them"
            raise ConfigError(f"{unknown!r} is no task of lm-evaluation-harness; {hint}.")
        return [task for name in names for task in _loaded(manager, name)]


def _loaded(manager: Any, name: str) -> list[Any]:
    """A group whole, so that it is summed up; the members of a tag one by one."""
    try:
        found = manager.load([name])
    except (OSError, LookupError, ValueError) as problem:  # what data sets fail with
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        raise DataError(f"lm-evaluation-harness could not load the rows of {name} ({reason}).") from problem
    return [found["groups"][name]] if name in found["groups"] else list(found["tasks"].values())


def _first_rows(model: Model) -> int:
    logits = _LOGITS_AT_FIRST["cpu" if model.device.type == "cpu" else "cuda"]
    fitting = logits // (_TOKENS_OF_A_ROW * vocabulary_size(model))
    return max(1, min(BatchSize("auto", model.device).rows, fitting))


def _evaluate(
    harness: Any,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Any],
    rows: int,
    count: int | None,
    examples: int | None,
    chat_template: bool,
) -> Any:
    """The harness's results; None where memory ran out and fewer rows may fit."""
    try:
        wrapped = harness.models.huggingface.HFLM(
            pretrained=called_model(model), tokenizer=copy.deepcopy(tokenizer), batch_size=rows
        )
        return harness.simple_evaluate(
            model=wrapped,
            tasks=tasks,
            task_manager=harness.tasks.TaskManager(include_defaults=False),
            limit=count,
            num_fewshot=examples,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            bootstrap_iters=0,
            log_samples=True,
        )
    except (RuntimeError, MemoryError) as problem:
        if rows == 1 or not is_out_of_memory(problem):
            raise
    return None


def _scores(found: Any) -> list[HarnessScore]:
    return [
        HarnessScore(
            task=name,
            version=str(found["versions"].get(name)),
            examples=found["n-shot"].get(name),
            values={
                metric: float(value)
                for metric, value in values.items()
                if "," in metric and "_stderr," not in metric and isinstance(value, int | float)
            },
            per_item=_per_item(found["samples"].get(name, ())),
        )
        for name, values in found["results"].items()
    ]


def _per_item(samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
    columns: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        for metric in sample["metrics"]:
            value = sample[metric]
            # A corpus metric, such as BLEU, keeps texts or pairs instead.
            if isinstance(value, int | float | np.number):
                columns.setdefault(f"{metric},{sample['filter']}", []).append(float(value))
    return {name: tuple(values) for name, values in columns.items()}


@contextmanager
def _as_it_was(model: Model) -> Iterator[None]:
    """Put the model's mode back, and keep `tie_weights` from it."""
    called = called_model(model)
    called.__dict__["tie_weights"] = _nothing
    try:
        with in_evaluation_mode(model):
            yield
    finally:
        del called.__dict__["tie_weights"]


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Put back the states of the generators that the harness seeds."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is this one that the harness seeds
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for `tie_weights`."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's notices on standard output and in its log; errors still come."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def export_tasks(tasks: Sequence[tuple[Task, Sequence[Item]]], folder: Path) -> list[str]:
    """Write tasks with their items so that `lm_eval --include_path FOLDER --tasks NAMES` runs them.

    Prompts are written out whole, one row an item, so the harness asks what `score_task` asks;
    docs/evaluation.md says where its tokens may differ. Models with a chat template are asked
    as we ask them with `--apply_chat_template`.

    Args:
        tasks: each with the items to ask.
        folder: made where it is missing; files of the same tasks are replaced.

    Returns:
        The names of the tasks in the harness.

    Raises:
        DataError: for a task without items, or a question that is a chat of several turns,
            which rows cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(lm_eval_rows.__file__, folder / _ROWS_FILE)
    names = []
    for task, items in tasks:
        if not items:
            raise DataError(f"task {task.name} has no items to export; give it rows.")
        name = EXPORTED_PREFIX + file_name(task.name)
        rows = [_exported_row(task, item) for item in items]
        settings = _settings(task, name)
        if task.kind == "choice":
            settings["target_delimiter"] = _joined_alike(rows)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(_as_yaml(settings), encoding="utf-8")
        names.append(name)
    return names


def _exported_row(task: Task, item: Item) -> dict[str, Any]:
    if isinstance(item, PlainText):
        return {"text": item.text}
    if item.turns:
        raise DataError(f"task {task.name} asks in several turns ({item.prompt[:60]!r}), which cannot be exported.")
    # As `secura.tasks.prompting` reads it.
    prompt = item.prompt.rstrip(" ")
    if not item.choices:
        ruled = {"match": item.match, "accept": list(item.right_answers)} if task.metric == "match" else {}
        return {"prompt": prompt, "target": item.answer, **ruled}
    return {"prompt": prompt, "choices": list(item.choices), "answer": item.choices.index(item.answer)}


def _joined_alike(rows: Sequence[dict[str, Any]]) -> str:
    """What stands between prompt and choice in every row; where rows differ, the choices take it over."""
    joints = ["" if not row["prompt"] or row["prompt"][-1].isspace() else " " for row in rows]
    if len(set(joints)) == 1:
        return joints[0]
    for row, joint in zip(rows, joints, strict=True):
        row["choices"] = [joint + choice for choice in row["choices"]]
    return ""


class _Function(str):
    """The name of a function, which the harness's YAML marks."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Function` as `!function name`."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def _settings(task: Task, name: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task": name,
        "tag": "secura",
        "custom_dataset": _Function("secura_rows.rows"),
        "dataset_kwargs": {"secura_task": name},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": task.version},
    }
    if task.kind == "text":
        metrics = ["bits_per_byte", "byte_perplexity", "word_perplexity"]
        return {
            **common,
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": metric} for metric in metrics],
        }
    if task.kind == "choice":
        metrics = [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ]
        return {
            **common,
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": metrics,
        }
    function, metrics = _MEASURED[task.metric]
    return {
        **common,
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "process_results": _Function(f"secura_rows.{function}"),
        "generation_kwargs": {
            "until": [each for each in task.stop if each],
            "max_gen_toks": task.max_answer_tokens,
            "do_sample": False,
            "temperature": 0.0,
        },
        "metric_list": [
            {"metric": metric, "aggregation": aggregation, "higher_is_better": True}
            for metric, aggregation in metrics.items()
        ],
    }


_MEASURED: dict[str, tuple[str, dict[str, str]]] = {
    "exact_match": ("exact_match", {"exact_match": "mean"}),
    "match": ("match", {"match": "mean"}),
    "number_match": ("number_match", {"number_match": "mean"}),
    "rouge1": ("overlap", {"rouge1": "mean", "rougeL": "mean"}),
    "rougeL": ("overlap", {"rouge1": "mean", "rougeL": "mean"}),
    "bleu": ("translation", {"bleu": "bleu", "chrf": "chrf"}),
    "chrf": ("translation", {"bleu": "bleu", "chrf": "chrf"}),
}
"""For each metric of generated answers, the function of `lm_eval_rows` and how the harness sums up what it returns."""


def _as_yaml(settings: Mapping[str, Any]) -> str:
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
