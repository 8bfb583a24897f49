from tiny_models import tiny_tokenizer

from secura.experiments.run.questions import matchable
from secura.tasks.question import PlainText, Question

SHORT, LONG = "blue", "blue and grey " * 20


def test_a_long_answer_is_left_to_its_loss_unless_its_row_says_how_it_is_compared() -> None:
    asked = [
        Question(prompt="a?", answer=SHORT),
        Question(prompt="b?", answer=LONG, match="contains"),
        Question(prompt="c?", answer=LONG, choices=(SHORT, LONG)),
    ]
    left = [Question(prompt="d?", answer=LONG), PlainText(text=SHORT)]
    assert matchable(tiny_tokenizer(), [*left, *asked], 8) == (asked, left)
