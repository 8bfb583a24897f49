"""What is measured while a run learns: the loss of held-out rows, and how much of what the base knew is left."""

from collections.abc import Sequence

from rich.console import Console

from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.scoring import score_questions
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.settings.run import RunConfig
from secura.tasks.question import Question
from secura.training.evaluations import Evaluations, Look


def evaluations_of(run: PreparedRun[RunConfig], known: Sequence[Question], console: Console) -> Evaluations | None:
    """What `training.eval_every` asks for; None where it is not set.

    Args:
        run: its settings.
        known: questions that the base answers right; where a share is to be kept, those that steer alone, since
            nothing may be seen of those that certify.
        console: where is said what was found.
    """
    training = run.config.training
    if training.eval_every is None:
        return None

    def look(step: int) -> Look:
        size = run.config.scoring.batch_size
        with merged_for_scoring(run.model):
            loss = mean_answer_loss(run.model, run.tokenizer, run.task.test, max_tokens=run.max_tokens, batch_size=size)
            answers = score_questions(run.model, run.tokenizer, known, batch_size=size) if known else []
        right = sum(answer.correct for answer in answers)
        found = Look(step=step, loss=loss, kept=right / len(known) if known else None)
        said = [] if loss is None else [f"held-out rows cost {loss:.3f} nats a token"]
        said += [f"{right} of {len(known)} known questions are still answered right"] if known else []
        console.print(f"step {step}: {'; '.join(said) or 'nothing to measure'}", highlight=False, soft_wrap=True)
        return found

    return Evaluations(
        every=training.eval_every,
        look=look,
        best=training.best,
        keeps=training.best_keeps,
        patience=training.patience,
    )
