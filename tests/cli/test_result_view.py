import os
from pathlib import Path

from rich.console import Console

from secura.cli.result_view import show_result
from secura.evaluation.certificate import Certificate
from secura.evaluation.open_answers import ChangedAnswer
from secura.evaluation.retention import BeforeAndAfter
from secura.evaluation.scoring import ScoredAnswer
from secura.experiments.run.train import Losses, RunResult
from secura.tasks.question import Question


def _answers(family: str, pattern: str) -> list[ScoredAnswer]:
    """One answer a letter: `r` is right, any other wrong."""
    return [
        ScoredAnswer(
            question=Question(prompt=f"{family} {index}?", answer="yes", family=family),
            given="yes" if letter == "r" else letter,
            correct=letter == "r",
        )
        for index, letter in enumerate(pattern)
    ]


def _shown(certificate: Certificate | None = None, **families: tuple[str, str]) -> str:
    """What 80 columns show of families, each with its answers before and after."""
    before = [answer for family, (pattern, _) in families.items() for answer in _answers(family, pattern)]
    after = [answer for family, (_, pattern) in families.items() for answer in _answers(family, pattern)]
    result = RunResult(
        task="a task of a rather long name",
        new_task=BeforeAndAfter(before=_answers("new", "x" * 200), after=_answers("new", "r" * 150 + "x" * 50)),
        new_task_loss=Losses(before=10.612, after=0.048),
        retention=BeforeAndAfter(before=before, after=after),
        retention_loss=Losses(before=None, after=None),
        changed=[ChangedAnswer(prompt="How are you?", before="Well.", after="Thank you for writing.", change=1.0)],
        scale=1.0,
        points=[],
        certificate=certificate,
        training_seconds=1.0,
        saved=Path("runs/out/adapter"),
        report=Path("runs/out/retention.json"),
    )
    with open(os.devnull, "w") as nowhere:
        console = Console(width=80, record=True, file=nowhere)
        show_result(console, result)
    return console.export_text()


def _row(shown: str, name: str) -> list[str]:
    line = next(line for line in shown.splitlines() if line.startswith(f"│ {name}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_share_that_is_kept_is_rounded_as_the_share_that_is_right() -> None:
    shown = _shown(ages=("r" * 612, "r" * 607 + "x" * 5))  # 99.18 %
    assert _row(shown, "ages") == ["ages", "612", "100.0%", "99.1%", "99.1%", "98.1%", "0"]


def test_two_right_answers_where_one_was_are_too_few_to_tell_and_not_200_percent() -> None:
    shown = _shown(ages=("r" + "x" * 9, "rr" + "x" * 8))
    assert _row(shown, "ages") == ["ages", "10", "10.0%", "20.0%", "too few to tell", "", "1"]
    assert "200.0%" not in shown


def test_what_was_kept_has_its_lower_end_and_the_gains_beside_it() -> None:
    shown = _shown(ages=("r" * 50, "r" * 49 + "x"), words=("r" * 40 + "x" * 60, "x" * 10 + "r" * 90), odd=("xx", "xx"))
    assert _row(shown, "ages") == ["ages", "50", "100.0%", "98.0%", "98.0%", "89.3%", "0"]
    assert _row(shown, "words") == ["words", "100", "40.0%", "90.0%", "75.0%", "58.8%", "60"]
    assert _row(shown, "odd") == ["odd", "2", "0.0%", "0.0%", "knew none", "", "0"]
    assert _row(shown, "all") == ["all", "152", "59.2%", "91.4%", "87.7%", "79.1%", "60"]
    assert _row(shown, "answered right") == ["answered right", "200", "0.0%", "75.0%", "+75.0 points"]
    assert "at least: lower end of the 95% interval; gained: right only after" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_certificate_is_said_in_one_sentence_and_explained() -> None:
    certificate = Certificate(
        outcome="certified",
        keep=0.95,
        confidence=0.95,
        seed=0,
        select_items=40,
        items=120,
        points=2,
        scale=0.5,
        kept=119,
    )
    shown = " ".join(_shown(certificate, capitals=("rrr", "rrr")).split())
    assert "At least 95% of what the base answered right it still answers right, with 95% confidence" in shown
    assert "chose 0.5 of what was learned among 2 points" in shown


def test_a_family_is_shown_as_it_is_called_and_does_nothing_to_the_terminal() -> None:
    shown = _shown(**{"[red]\x1b[2J": ("rrr", "rrx")})
    assert "[red]\\x1b[2J" in shown
