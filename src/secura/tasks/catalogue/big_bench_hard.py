"""The 27 tasks of BIG-Bench Hard: one table, since only the instruction and the form of the answer differ.

Where the data list options, an answer is chosen by its letter, or by its word where the options are
two words; lm-evaluation-harness's `leaderboard_bbh` does the same with three examples before the
question. Where they list none, the answer is generated and compared as a whole.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from secura.tasks.catalogue.row_shapes import answer_row, choice_question, choice_row, free_question, letter_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


@dataclass(frozen=True, kw_only=True)
class _Subtask:
    """One line of the table."""

    tests: str
    """What it tests."""
    instruction: str
    """The sentence before the question, as published with the data."""
    answer: Literal["letter", "word", "free"]
    """How it is answered."""
    max_answer_tokens: int = 32
    """Tokens after which a free answer is cut."""


_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_SHUFFLED = (
    "A task requiring determining the final positions of a set of objects given their initial positions and a "
    "description of a sequence of swaps."
)


def _letter(tests: str, instruction: str) -> _Subtask:
    return _Subtask(tests=tests, instruction=instruction, answer="letter")


def _word(tests: str, instruction: str) -> _Subtask:
    return _Subtask(tests=tests, instruction=instruction, answer="word")


def _free(tests: str, instruction: str, max_answer_tokens: int = 32) -> _Subtask:
    return _Subtask(tests=tests, instruction=instruction, answer="free", max_answer_tokens=max_answer_tokens)


_SUBTASKS = {
    "boolean_expressions": _free(
        "evaluating a Boolean expression", "Evaluate the result of a random Boolean expression."
    ),
    "causal_judgement": _word("what an ordinary reader calls a cause", "Answer questions about causal attribution."),
    "date_understanding": _letter("date arithmetic", "Infer the date from context."),
    "disambiguation_qa": _letter(
        "whom a pronoun means, if that can be told", "Clarify the meaning of sentences with ambiguous pronouns."
    ),
    "dyck_languages": _free("closing open brackets", "Correctly close a Dyck-n word."),
    "formal_fallacies": _word(
        "valid or invalid arguments", "Distinguish deductively valid arguments from formal fallacies."
    ),
    "geometric_shapes": _letter("naming the shape of an SVG path", "Name geometric shapes from their SVG paths."),
    "hyperbaton": _letter("the order of adjectives", "Order adjectives correctly in English sentences."),
    "logical_deduction_three_objects": _letter("ordering three objects", _DEDUCTION),
    "logical_deduction_five_objects": _letter("ordering five objects", _DEDUCTION),
    "logical_deduction_seven_objects": _letter("ordering seven objects", _DEDUCTION),
    "movie_recommendation": _letter("finding a similar film", "Recommend movies similar to the given list of movies."),
    "multistep_arithmetic_two": _free("nested integer arithmetic", "Solve multi-step arithmetic problems."),
    "navigate": _word(
        "whether the steps lead back to the start",
        "Given a series of navigation instructions, determine whether one would end up back at the starting point.",
    ),
    "object_counting": _free(
        "counting objects of a kind", "Questions that involve enumerating objects and asking the model to count them."
    ),
    "penguins_in_a_table": _letter(
        "reading a small table", "Answer questions about a table of penguins and their attributes."
    ),
    "reasoning_about_colored_objects": _letter(
        "colours and positions of objects",
        "Answer extremely simple questions about the colors of objects on a surface.",
    ),
    "ruin_names": _letter(
        "which edit of a name is funny",
        "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    ),
    "salient_translation_error_detection": _letter(
        "the kind of error in a translation",
        "Detect the type of error in an English translation of a German source sentence.",
    ),
    "snarks": _letter("which sentence is sarcastic", "Determine which of two sentences is sarcastic."),
    "sports_understanding": _free(
        "whether a sentence about sports is plausible",
        "Determine whether an artificially constructed sentence relating to sports is plausible or not.",
    ),
    "temporal_sequences": _letter(
        "free time in a schedule", "Answer questions about which times certain events could have occurred."
    ),
    "tracking_shuffled_objects_three_objects": _letter("following three swapped objects", _SHUFFLED),
    "tracking_shuffled_objects_five_objects": _letter("following five swapped objects", _SHUFFLED),
    "tracking_shuffled_objects_seven_objects": _letter("following seven swapped objects", _SHUFFLED),
    "web_of_lies": _free("who tells the truth", "Evaluate a random boolean function expressed as a word problem."),
    "word_sorting": _free("sorting words alphabetically", "Sort a list of words.", 192),
}


def _item(subtask: _Subtask, row: Row) -> Question:
    question = row["prompt"] if subtask.answer == "free" else f"{row['question']}\nOptions:\n{_options(subtask, row)}"
    prompt = f"{subtask.instruction}\n\nQ: {question}\nA:"
    if subtask.answer == "free":
        return free_question(row, prompt)
    if subtask.answer == "word":
        return choice_question(row, prompt)
    by_letter = letter_question(row, prompt)
    return Question(
        prompt=prompt,
        choices=tuple(f"({letter})" for letter in by_letter.choices),
        answer=f"({by_letter.answer})",
    )


def _options(subtask: _Subtask, row: Row) -> str:
    marks: Sequence[str] = [f"({letter})" for letter in string.ascii_uppercase]
    if subtask.answer == "word":
        marks = ["-"] * len(row["choices"])
    return "\n".join(f"{mark} {choice}" for mark, choice in zip(marks, row["choices"], strict=False))


def _row_from_hub(subtask: _Subtask, row: Row) -> Row | None:
    if subtask.answer == "free":
        return answer_row(row["input"], row["target"])
    question, _, listed = row["input"].partition("\nOptions:\n")
    options = re.findall(r"^(\([A-Z]\)|-) (.*?)\s*$", listed, re.MULTILINE)
    wanted = row["target"].strip()
    right = [number for number, (mark, text) in enumerate(options) if wanted in (mark, text)]
    return choice_row(question, [text for _, text in options], right[0] if right else -1)


_HOW = {
    "letter": "the options in the prompt, answered by letter",
    "word": "the two options in the prompt, answered by the word",
    "free": "the answer generated, up to the end of the line",
}


def _task(name: str, subtask: _Subtask) -> Task:
    return Task(
        name=f"bbh_{name}",
        version=1,
        tests=subtask.tests,
        source="BIG-Bench Hard (Suzgun et al. 2022, arXiv:2210.09261)",
        prompt_reason=(
            "The published instruction, `Q:`, the question and `A:`, as in lm-evaluation-harness's bbh_zeroshot; "
            f"{_HOW[subtask.answer]}. Zero-shot, without a chain of thought."
        ),
        metric="exact_match" if subtask.answer == "free" else "accuracy",
        item=partial(_item, subtask),
        # The data have one split; the last two fifths are for scoring.
        hub=HubRows(path="SaylorTwift/bbh", config=name, test_split="test[60%:]", train_split="test[:60%]"),
        row_from_hub=partial(_row_from_hub, subtask),
        stop=("\n", "Q:"),
        max_answer_tokens=subtask.max_answer_tokens,
    )


TASKS: Mapping[str, Task] = {task.name: task for task in (_task(*line) for line in _SUBTASKS.items())}
