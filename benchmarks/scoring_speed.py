"""Seconds to score 1,000 multiple-choice questions of the bundled world, beside lm-evaluation-harness.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/scoring_speed.py

The same questions, the same model in memory, the same number of rows at once, taking turns in
one process, each with its own tokenizing and its own choosing. Beside the seconds on the wall stand
the seconds of processor time, which other work on the machine moves less. The harness is timed twice:

- `whole`: `simple_evaluate` on the exported tasks, as `secura eval --lm-eval` runs it;
- `core`: its model wrapper alone on requests that are ready, the least it can do. It shares a
  prompt among choices of one token, as ours does, and reads the whole prompt again for longer ones.

Two sets of questions: the world's own, whose choices are mostly one token, and the same with
words after each choice, so that every choice is several tokens.
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.evaluation.lm_eval_bridge import export_tasks, harness_scores
from secura.evaluation.provenance import provenance
from secura.evaluation.score_task import score_task
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.finding import GROUPS
from secura.tasks.prompting import prompt_text
from secura.tasks.question import Question
from secura.tasks.task import Task
from secura.tasks.task_items import task_items
from secura.tasks.world import load_bundled_model, load_bundled_tokenizer

ROWS = 64


def world_choices(count: int) -> tuple[Task, list[Question]]:
    """Multiple-choice questions of every family of the world that has choices."""
    tasks = [CATALOGUE[name] for name in GROUPS["world"] if CATALOGUE[name].kind == "choice"]
    drawn = [task_items(task, count=count) for task in tasks]
    turns = [item for turn in zip(*drawn, strict=False) for item in turn if isinstance(item, Question)]
    return replace(tasks[0], name="world_choices", metric="accuracy"), turns[:count]


def with_longer_choices(questions: Sequence[Question]) -> list[Question]:
    """The same questions, every choice with words after it."""
    return [
        replace(
            each, choices=tuple(f"{choice} in the end" for choice in each.choices), answer=f"{each.answer} in the end"
        )
        for each in questions
    ]


def ours(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, questions: Sequence[Question]
) -> float:
    return score_task(model, tokenizer, task, questions, batch_size=ROWS).value


def harness_whole(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, questions: Sequence[Question], folder: Path
) -> float:
    del task, questions
    names = [path.stem for path in folder.glob("*.yaml")]
    (score,) = harness_scores(model, tokenizer, names, batch_size=ROWS, include=folder)
    return score.values["acc,none"]


def harness_core(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, questions: Sequence[Question]
) -> float:
    del task
    build: Any = HFLM  # its registry's decorator hides the signature
    wrapped = build(pretrained=model, tokenizer=tokenizer, batch_size=ROWS)
    requests = [
        Instance("loglikelihood", {}, (prompt_text(tokenizer, question.asked), f" {choice}"), 0)
        for question in questions
        for choice in question.choices
    ]
    found = iter(wrapped.loglikelihood(requests, disable_tqdm=True))
    right = 0
    for question in questions:
        sums = [next(found)[0] for _ in question.choices]
        right += question.choices[max(range(len(sums)), key=sums.__getitem__)] == question.answer
    return right / len(questions)


def timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds on the wall, seconds of all threads' processor time, and what the run found."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        began, worked = time.perf_counter(), time.process_time()
        value = run()
        return time.perf_counter() - began, time.process_time() - worked, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    wanted = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    console = Console(width=120)
    model, tokenizer = load_bundled_model(), load_bundled_tokenizer()
    task, plain = world_choices(wanted.count)
    table = Table(
        title=f"{len(plain)} questions, {ROWS} rows at once, {torch.get_num_threads()} threads; median (range)"
    )
    for heading in ("choices", "scorer", "seconds", "ratio to ours", "processor seconds", "ratio to ours", "right"):
        table.add_column(heading)
    for kind, questions in (("of one token, mostly", plain), ("of several tokens", with_longer_choices(plain))):
        with tempfile.TemporaryDirectory() as folder:
            export_tasks([(task, questions)], Path(folder))
            scorers: dict[str, Callable[[], float]] = {
                "ours": lambda asked=questions: ours(model, tokenizer, task, asked),
                "lm-eval, core": lambda asked=questions: harness_core(model, tokenizer, task, asked),
                "lm-eval, whole": lambda asked=questions, path=Path(folder): harness_whole(
                    model, tokenizer, task, asked, path
                ),
            }
            add_rows(table, kind, scorers, wanted.repeats)
    console.print(table)
    console.print(provenance(), highlight=False)


def add_rows(table: Table, kind: str, scorers: dict[str, Callable[[], float]], repeats: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in scorers}
    values = {name: timed(run)[2] for name, run in scorers.items()}  # the first round warms up
    for _ in range(repeats):
        for name, run in scorers.items():
            times[name].append(timed(run)[:2])
    for name in scorers:
        cells = []
        for clock in (0, 1):
            own = [each[clock] for each in times[name]]
            mine = [each[clock] for each in times["ours"]]
            cells += [spread(own), spread([one / other for one, other in zip(own, mine, strict=True)])]
        table.add_row(kind, name, *cells, f"{values[name]:.1%}")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
