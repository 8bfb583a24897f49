"""The questions of a sequence, group by group, and their scores."""

from collections.abc import Mapping, Sequence

from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.scoring import score_questions
from secura.experiments.run.questions import matchable
from secura.experiments.sequence.matrix import GroupScore, QuestionGroup
from secura.experiments.sequence.stages import Stage
from secura.experiments.settings.run import ScoringConfig
from secura.tasks.question import Item


def questions_by_group(
    tests: Mapping[str, Sequence[Item]], retention: Sequence[Item]
) -> dict[QuestionGroup, list[Item]]:
    """What is asked: of each task that has questions, and of each family of knowledge."""
    groups = {QuestionGroup("task", name): list(test) for name, test in tests.items() if test}
    for item in retention:
        groups.setdefault(QuestionGroup("knowledge", item.family), []).append(item)
    return groups


def score_groups(
    stage: Stage, groups: Mapping[QuestionGroup, Sequence[Item]], scoring: ScoringConfig
) -> dict[QuestionGroup, GroupScore]:
    """Score every group, with the adapter merged as it would be exported."""
    with merged_for_scoring(stage.model):
        return {group: score_group(stage, items, scoring) for group, items in groups.items()}


def score_group(stage: Stage, items: Sequence[Item], scoring: ScoringConfig) -> GroupScore:
    """Score one group: right or wrong where answers can be matched, nats per token otherwise."""
    questions, rest = matchable(stage.tokenizer, items, scoring.max_answer_tokens)
    size = scoring.batch_size
    if not questions:
        loss = mean_answer_loss(stage.model, stage.tokenizer, rest, max_tokens=stage.max_tokens, batch_size=size)
        return GroupScore(nats_per_token=loss)
    answers = score_questions(stage.model, stage.tokenizer, questions, batch_size=size)
    return GroupScore(right="".join("1" if answer.correct else "0" for answer in answers))
