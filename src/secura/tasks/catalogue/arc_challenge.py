"""ARC, the challenge set: the questions that search and word statistics get wrong."""

from dataclasses import replace

from secura.tasks.catalogue.arc_easy import TASK as ARC_EASY
from secura.tasks.task import HubRows

TASK = replace(
    ARC_EASY,
    name="arc_challenge",
    tests="grade-school science, questions that a search engine gets wrong",
    source="AI2 Reasoning Challenge, challenge set (Clark et al. 2018, arXiv:1803.05457)",
    hub=HubRows(path="allenai/ai2_arc", config="ARC-Challenge"),
)
