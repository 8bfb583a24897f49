"""Alpaca's instructions, answered by GPT-4."""

from dataclasses import replace

from secura.tasks.catalogue.alpaca import TASK as ALPACA
from secura.tasks.task import HubRows

TASK = replace(
    ALPACA,
    name="alpaca_gpt4",
    tests="following instructions, answers by GPT-4",
    source="Instruction Tuning with GPT-4 (Peng et al. 2023, arXiv:2304.03277)",
    hub=HubRows(path="vicgalle/alpaca-gpt4", test_split="train[:1000]", train_split="train[1000:]"),
    max_answer_tokens=512,  # one answer in three is longer than Alpaca's 256
)
