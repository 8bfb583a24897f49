import json
import math
from decimal import Decimal
from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

from secura.errors import DataError
from secura.evaluation.text_metrics import (
    bleu_signature,
    chrf_signature,
    corpus_bleu,
    corpus_chrf,
    exact_match,
    extracted_number,
    number_match,
    rouge,
    sentence_bleu,
    sentence_chrf,
)

ENGLISH = ("the cat sat on the mat", "a dog ran past the old house")
OTHERS = ("the cat is on the mat", "the old dog ran past a house")


def test_white_space_at_the_ends_does_not_matter_but_letters_do() -> None:
    assert exact_match(" blue\n", "blue")
    assert not exact_match("Blue", "blue")
    assert not exact_match("light  blue", "light blue")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 + 3 = 12, so\n#### 12", "12"),
        ("#### 5\n\nQuestion: 7 + 1?\n#### 8", "5"),
        ("####7 of 9", "7"),
        ("#### $1,234.50", "1234.5"),
        ("#### step by step, 3 and 4", "4"),
        ("## 3 is no mark, 4 is last", "4"),
        ("The answer is 1,450,000.", "1450000"),
        ("1,2,3", "3"),
        ("12,3456", "3456"),
        ("between 12,34 and 5,678", "5678"),
        ("1.50", "1.5"),
        ("half of it: .5", "0.5"),
        ("50%", "50"),
        ("it fell by -3", "-3"),
        ("it fell by \u22123.25", "-3.25"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("$ 5", "5"),
        ("10-5", "5"),
        ("in 2019-2020", "2020"),
        ("(4)-3", "3"),
        ("007", "7"),
        (r"\boxed{42}", "42"),
        ("1/2", "2"),
    ],
)
def test_the_number_an_answer_comes_to(text: str, number: str) -> None:
    assert extracted_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "#### ", "####", "- . , $ %", "½", "٣"])
def test_a_text_without_digits_comes_to_no_number(text: str) -> None:
    assert extracted_number(text) is None


def test_numbers_match_by_value() -> None:
    assert number_match("so $1,200.00", "#### 1200")
    assert not number_match("so 1200.01", "#### 1200")
    assert not number_match("no idea", "#### 1200")
    assert number_match("-0", "0")


def test_a_right_answer_without_a_number_is_the_tasks_mistake() -> None:
    with pytest.raises(DataError, match="exact_match"):
        number_match("3", "three")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2), st.sampled_from(["{}", "#### {}", "it is {}."]))
def test_a_number_that_was_written_is_read_again(number: Decimal, sentence: str) -> None:
    for written in (f"{number:f}", f"{number:,f}"):
        assert extracted_number(sentence.format(written)) == number


def test_every_gsm8k_solution_comes_to_what_follows_its_mark(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "gsm8k.test.jsonl").read_text().splitlines()]
    for row in rows:
        assert extracted_number(row["target"]) == Decimal(row["target"].split("#### ")[1].replace(",", ""))


@pytest.mark.parametrize(
    ("answer", "here", "strict", "flexible"),
    [
        ("#### 72", True, True, True),
        ("So 72.", True, False, True),
        ("#### $72", True, False, True),
        ("#### 72.00", True, False, False),
        ("#### 72, as 8 * 9 = 72 shows", True, True, True),
        ("#### 72, which is 8 * 9", True, True, False),
        ("It is 72 ...", True, False, False),
        ("It is 80-72", True, False, False),
    ],
)
def test_how_lm_evals_gsm8k_filters_judge_the_same_answers(
    answer: str, here: bool, strict: bool, flexible: bool
) -> None:
    """The table in `extracted_number`, against lm-eval's own code with the settings of its `gsm8k.yaml`."""
    filters = (
        RegexFilter(r"#### (\-?[0-9\.\,]+)"),
        RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    )
    judged = [number_match(answer, "8 * 9 = 72\n#### 72")]
    for each in filters:
        (extracted,) = each.apply([[answer]], [{}])
        ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
        scored = exact_match_hf_evaluate(
            extracted, ["8 * 9 = 72\n#### 72"], regexes_to_ignore=ignored, ignore_case=True
        )
        judged.append(bool(scored["exact_match"]))
    assert judged == [here, strict, flexible]


def test_rouge_by_hand() -> None:
    # "the cat is on the mat" against "the cat sat on the mat": 5 of 6 words each, in one common subsequence.
    assert rouge(OTHERS[0], ENGLISH[0]) == pytest.approx({"rouge1": 5 / 6, "rougeL": 5 / 6})
    # 4 words all among the 5 right ones: P = 1, R = 4/5, F = 8/9. In order only "b c": P = 2/4, R = 2/5, F = 4/9.
    assert rouge("c d a b", "a b x c d") == pytest.approx({"rouge1": 8 / 9, "rougeL": 4 / 9})
    # The stemmer makes one word of "running" and "run"; words of three letters are left as they are.
    assert rouge("running", "run")["rouge1"] == 1.0
    assert rouge("", "blue") == rouge("blue", "") == {"rouge1": 0.0, "rougeL": 0.0}


def test_rouge_sees_no_letters_but_latin_ones() -> None:
    assert rouge("привет", "привет") == {"rouge1": 0.0, "rougeL": 0.0}
    assert rouge("Bär", "b r") == {"rouge1": 1.0, "rougeL": 1.0}  # ä parts the word in two


def test_bleu_and_chrf_are_sacrebleus_own() -> None:
    assert corpus_bleu(OTHERS, ENGLISH) == pytest.approx(sacrebleu.corpus_bleu(OTHERS, [ENGLISH]).score / 100)
    assert corpus_chrf(OTHERS, ENGLISH) == pytest.approx(sacrebleu.corpus_chrf(OTHERS, [ENGLISH]).score / 100)
    theirs = sacrebleu.sentence_bleu(OTHERS[0], [ENGLISH[0]], use_effective_order=True)
    assert sentence_bleu(OTHERS[0], ENGLISH[0]) == pytest.approx(theirs.score / 100)
    assert sentence_chrf(OTHERS[0], ENGLISH[0]) == pytest.approx(
        sacrebleu.sentence_chrf(OTHERS[0], [ENGLISH[0]]).score / 100
    )


def test_bleu_by_hand() -> None:
    # 4-grams of "a b c d e" against "a b c d x": 4/5, 3/4, 2/3, 1/2 shared; their product is 1/5, no brevity penalty.
    assert sentence_bleu("a b c d e", "a b c d x") == pytest.approx((1 / 5) ** 0.25)
    # Against 10 words the answer of 5 is short: times e^(1 − 10/5).
    assert sentence_bleu("a b c d e", "a b c d x y z u v w") == pytest.approx((1 / 5) ** 0.25 * math.exp(-1))


def test_a_short_right_answer_is_whole_by_itself_but_nothing_to_the_corpus() -> None:
    assert sentence_bleu("ja bitte", "ja bitte") == 1.0
    assert corpus_bleu(["ja bitte"], ["ja bitte"]) == 0.0
    assert corpus_chrf(["ja bitte"], ["ja bitte"]) == 1.0
    assert sentence_bleu("", "ja") == sentence_chrf("", "ja") == 0.0


def test_signatures_name_what_was_measured() -> None:
    version = f"version:{sacrebleu.__version__}"
    assert bleu_signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert chrf_signature() == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"


@pytest.mark.parametrize("metric", [corpus_bleu, corpus_chrf])
def test_a_corpus_needs_as_many_answers_as_right_ones(metric) -> None:
    with pytest.raises(ValueError, match="2 answers"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no answers"):
        metric([], [])


@pytest.mark.ci
@given(st.text(max_size=40), st.text(max_size=40))
def test_every_sentence_score_is_a_share_of_1(given_text: str, right: str) -> None:
    for score in (
        sentence_bleu(given_text, right),
        sentence_chrf(given_text, right),
        *rouge(given_text, right).values(),
    ):
        assert 0 <= score <= 1
