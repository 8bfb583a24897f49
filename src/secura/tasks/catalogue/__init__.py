"""Every task that can be named: one file a task, each complete in itself.

A task states where its rows come from, what a row asks and why in these words, and by which number
it is judged. Where lm-evaluation-harness has the task, its prompt is kept to the letter, so that
scores compare; each file says where ours parts from it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from secura.tasks.catalogue import (
    alpaca,
    alpaca_eval_gpt4,
    alpaca_gpt4,
    arc_challenge,
    arc_easy,
    big_bench_hard,
    boolq,
    cnndm,
    commonsense_qa,
    everyday_tasks,
    gsm8k,
    hellaswag,
    logiqa,
    logiqa2,
    mmlu,
    newsde,
    openbookqa,
    order_json,
    piqa,
    qa_wikidata,
    social_iqa,
    tinystories,
    wikitext2,
    winogrande,
    world_tasks,
    xsum,
)
from secura.tasks.task import Task

__all__ = ["CATALOGUE"]

_ONE_A_FILE = (
    logiqa,
    logiqa2,
    social_iqa,
    winogrande,
    commonsense_qa,
    openbookqa,
    arc_easy,
    arc_challenge,
    boolq,
    piqa,
    hellaswag,
    mmlu,
    gsm8k,
    cnndm,
    xsum,
    newsde,
    alpaca,
    alpaca_gpt4,
    alpaca_eval_gpt4,
    qa_wikidata,
    order_json,
    wikitext2,
    tinystories,
)

CATALOGUE: Mapping[str, Task] = MappingProxyType(
    {file.TASK.name: file.TASK for file in _ONE_A_FILE}
    | dict(big_bench_hard.TASKS)
    | dict(everyday_tasks.TASKS)
    | dict(world_tasks.KNOWLEDGE_TASKS)
    | dict(world_tasks.NEW_TASK_TASKS)
)
"""Every task by its name: choice, generation, plain text, BIG-Bench Hard, everyday questions, the bundled world."""
