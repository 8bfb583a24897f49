"""How near a generated answer comes to the right one: equal, the same number, or overlapping.

Every score is a share of 1; sacrebleu's own numbers are these times 100.

    exact_match     letter for letter, but for white space at the ends
    number_match    the same number, as GSM8K asks: 1.50 is 1.5, $1,200 is 1200
    rouge           ROUGE-1 and ROUGE-L, F measures, by rouge-score with its Porter stemmer
    bleu, chrf      by sacrebleu, whose signatures go beside every score

The stemmer is on as in lm-evaluation-harness's CNN/DailyMail task and in most summarisation
papers; `evaluate.load("rouge")` leaves it off. rouge-score lowercases and drops all but the
letters a to z and the digits: ü parts a word in two, and an answer in another script holds
no word and scores 0. BLEU's tokenizer 13a wants words set apart by spaces, so it says little
about Chinese or Japanese; chrF, over letters, does not mind.

The mean of sentence scores is not the corpus score. BLEU and chrF are reported over the
corpus; sentence scores serve to pair answers. Corpus BLEU is 0 where no answer has four
words in a row, however right; sentence BLEU counts only the orders an answer is long enough for.

Sources: Cobbe et al. 2021, arXiv:2110.14168 (GSM8K); Lin 2004 (ROUGE); Papineni et al. 2002
(BLEU); Popović 2015 (chrF); Post 2018, arXiv:1804.08771 (signatures).
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from secura.errors import DataError

_NUMBER = re.compile(
    r"""
    (?:(?<![\w)])(?P<minus>[-\u2212]))?        # not the minus of 10-5 or of 2019-2020
    (?:[$€£]\ ?(?P<inner>[-\u2212])?)?
    (?P<digits>
        (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?
        |(?<![0-9])\.[0-9]+
    )
    """,
    re.VERBOSE,
)
_MARKED = re.compile(r"\#{4}\s*" + _NUMBER.pattern, re.VERBOSE)


def exact_match(given: str, right: str) -> bool:
    """Whether an answer is the right one letter for letter, white space at the ends aside."""
    return given.strip() == right.strip()


def extracted_number(text: str) -> Decimal | None:
    """The number an answer comes to: the first that follows `####`, or else the last in the text.

    GSM8K ends each solution with `#### 72`; a model that was not taught to do so most often
    ends with its result. Commas between thousands, a currency sign before the number and a
    percent sign after it are left out, so 50 % is 50. Signs may be - or −; what ends in a
    full stop is read without it. `1/2` and `1e5` are two numbers each.

    Against the two filters of lm-evaluation-harness's `gsm8k`, which compare strings:

        answer                         here     strict-match   flexible-extract
        #### 72                        72       72             72
        So 72.                         72       [invalid]      72
        #### $72                       72       [invalid]      72
        #### 72.00 for 72              right    wrong          wrong
        #### 72, as 8 * 9 = 72 shows   72       72             72
        #### 72, which is 8 * 9        72       72             9
        It is 72 ...                   72       [invalid]      ..
        It is 80-8                     8        [invalid]      -8

    Returns:
        The number, or None where the text holds none.
    """
    numbers = list(_NUMBER.finditer(text))
    found = _MARKED.search(text) or (numbers[-1] if numbers else None)
    if found is None:
        return None
    return _value(found)


def first_number(text: str) -> tuple[int, Decimal] | None:
    """The first number of a text, read as `extracted_number` reads one, with its place; None where there is none."""
    found = _NUMBER.search(text)
    return None if found is None else (found.start(), _value(found))


def _value(found: re.Match[str]) -> Decimal:
    number = Decimal(found["digits"].replace(",", ""))
    return number.copy_negate() if found["minus"] or found["inner"] else number  # −number rounds to 28 digits


def number_match(given: str, right: str) -> bool:
    """Whether an answer comes to the same number as the right one; see `extracted_number`.

    Raises:
        DataError: if the right answer holds no number, so that no answer could be right.
    """
    wanted = extracted_number(right)
    if wanted is None:
        raise DataError(
            f"the right answer {right!r} contains no number to compare; score this task by exact_match instead."
        )
    return extracted_number(given) == wanted


def rouge(given: str, right: str) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L of an answer, as F measures: {"rouge1": ..., "rougeL": ...}.

    F = 2PR/(P + R), with P and R the shares of the answer's and of the right answer's words
    that the two have in common: counted singly for ROUGE-1, in the longest common subsequence
    for ROUGE-L, which here runs over the whole text and not by sentence (`rougeLsum`).
    """
    scores = _rouge_scorer().score(target=right, prediction=given)
    return {name: float(score.fmeasure) for name, score in scores.items()}


def sentence_bleu(given: str, right: str) -> float:
    """BLEU of one answer, of the n-gram orders it is long enough for."""
    return _share(BLEU(effective_order=True).sentence_score(given, [right]).score)


def corpus_bleu(given: Sequence[str], right: Sequence[str]) -> float:
    """BLEU of all answers together, each against one right answer; `bleu_signature` says which BLEU."""
    _check_paired(given, right)
    return _share(BLEU().corpus_score(given, [right]).score)


def sentence_chrf(given: str, right: str) -> float:
    """The chrF of one answer: F₂ of its character n-grams up to order 6."""
    return _share(CHRF().sentence_score(given, [right]).score)


def corpus_chrf(given: Sequence[str], right: Sequence[str]) -> float:
    """The chrF of all answers together; `chrf_signature` says which chrF."""
    _check_paired(given, right)
    return _share(CHRF().corpus_score(given, [right]).score)


@lru_cache(maxsize=1)
def bleu_signature() -> str:
    """What sacrebleu calls the BLEU of `corpus_bleu`, to be reported beside it.

    `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:...`; `sentence_bleu` differs in `eff:yes`.
    """
    return _signature(BLEU())


@lru_cache(maxsize=1)
def chrf_signature() -> str:
    """What sacrebleu calls the chrF of `corpus_chrf` and `sentence_chrf`, to be reported beside it."""
    return _signature(CHRF())


def _share(score: float) -> float:
    return min(1.0, score / 100)  # sacrebleu's best is 100.00000000000004


def _signature(metric: BLEU | CHRF) -> str:
    metric.corpus_score(["a"], [["a"]])  # the number of references, a part of it, is known after a score alone
    return str(metric.get_signature())


def _check_paired(given: Sequence[str], right: Sequence[str]) -> None:
    if len(given) != len(right):
        raise ValueError(f"{len(given)} answers cannot be scored against {len(right)} right ones.")
    if not given:
        raise ValueError("there are no answers to score.")


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which takes a second or two

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
