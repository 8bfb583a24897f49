"""Long texts beside one another, cut so that what tells them apart is seen."""

from collections.abc import Sequence
from os.path import commonprefix


def told_apart(texts: Sequence[str], letters: int) -> list[str]:
    """Texts of at most so many letters each, from a little before the first place where they differ.

    Two choices of a question may agree for hundreds of letters; cut at their ends they would look alike.

    Args:
        texts: of one question, such as the right answer and the answer given; an empty one is no text to differ from.
        letters: the most that is kept of each, with the `…` that stands for the rest.
    """
    different = {text for text in texts if text}
    shared = len(commonprefix([*different])) if len(different) > 1 else 0  # noqa: RUF071  # texts, not paths
    too_long = any(len(text) > letters for text in different)
    start = max(0, shared - letters // 3) if too_long else 0
    return [_cut(text, start, letters) for text in texts]


def _cut(text: str, start: int, letters: int) -> str:
    shown = "…" + text[start + 1 :] if start and text else text
    return shown if len(shown) <= letters else shown[: letters - 1] + "…"
