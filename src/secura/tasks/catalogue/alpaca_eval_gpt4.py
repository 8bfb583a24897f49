"""AlpacaEval's instructions, answered by GPT-4: held out from either Alpaca set.

AlpacaEval itself asks a judge model which of two answers is better; here the answer is only
compared with GPT-4's, so the score is no AlpacaEval win rate.
"""

from dataclasses import replace

from secura.tasks.catalogue.alpaca import TASK as ALPACA

TASK = replace(
    ALPACA,
    name="alpaca_eval_gpt4",
    tests="following instructions that are in no training set, answers by GPT-4",
    source="AlpacaEval (Li et al. 2023, github.com/tatsu-lab/alpaca_eval, results/gpt4/model_outputs.json)",
    hub=None,  # tatsu-lab/alpaca_eval has a loading script, which no longer loads
    row_from_hub=None,
    max_answer_tokens=512,  # half of these answers are longer than Alpaca's 256
)
