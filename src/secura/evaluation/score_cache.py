"""Scores of a base model, kept between runs: the base is asked the same questions again and again.

A score is stored under everything it depends on: the model's fingerprint, the task's version
key, the questions and their prompts in tokens, and how the model computes. It lies in `$SECURA_CACHE`, else in
`$XDG_CACHE_HOME/secura`, else in `~/.cache/secura`, one JSON file a score. A file that is
damaged is told of and counts as missing.

The fingerprint samples each weight (see `secura.experiments.models.base_record`), so a model
edited by hand in a few values may be taken for the one before; `--fresh` asks it anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from secura.evaluation.task_score import TaskScore, as_json, from_json
from secura.file_names import file_name
from secura.json_text import parsed_json
from secura.tasks.prompting import prompt_tokens, token_ids
from secura.tasks.question import Item, PlainText
from secura.tasks.task import Task
from secura.tasks.task_items import task_version_key

_FORMAT = 1
"""Raised whenever a file of an earlier secura would be read wrongly."""


@dataclass(frozen=True, kw_only=True)
class ScoreKey:
    """All that a score depends on."""

    model: str
    """Fingerprint of the model's weights."""
    arithmetic: str
    """Type of the weights in memory and kind of device, such as `torch.float32 on cpu`."""
    task: str
    """The task's version key: its prompt, its metric, and how an answer ends."""
    items: str
    """Checksum of what is asked, right answers included."""
    prompts: str
    """Checksum of the prompts as the tokens that the model reads."""
    scoring: int
    """Version of the scorer."""


def score_key(
    model: str,
    arithmetic: str,
    task: Task,
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase,
    *,
    scoring: int,
) -> ScoreKey:
    """The key of one model's score on one task's questions."""
    return ScoreKey(
        model=model,
        arithmetic=arithmetic,
        task=task_version_key(task),
        items=_checksum([_asked(item) for item in items]),
        prompts=_checksum([_read_tokens(item, tokenizer) for item in items]),
        scoring=scoring,
    )


def _asked(item: Item) -> dict[str, Any]:
    """All that an item is; a rule that is not set leaves it as it was before there were rules, and so its key."""
    unset = {"match": "exact", "accept": (), "tools": (), "answer_turn": None}
    return {name: value for name, value in asdict(item).items() if name not in unset or value != unset[name]}


def _read_tokens(item: Item, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(item, PlainText):
        return token_ids(tokenizer, item.text, special=True)
    return prompt_tokens(tokenizer, item.asked)


def cache_folder() -> Path:
    """Where scores are kept, by the environment."""
    own = os.environ.get("SECURA_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants relative paths ignored.
    root = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return root / "secura"


@dataclass(frozen=True, kw_only=True)
class ScoreCache:
    """The scores kept in one folder."""

    folder: Path
    """Where they are; made when the first score is stored."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, such as files that could not be read."""

    def load(self, key: ScoreKey, name: str, items: Sequence[Item]) -> TaskScore | None:
        """The score stored under `key` for the task called `name`, or None.

        Args:
            key: what the score must have been made with.
            name: the task's name, the beginning of the file's.
            items: the questions asked; a stored score holds answers alone.
        """
        path = self.path(key, name)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as problem:
            self.notes.append(f"cached score {path} cannot be read, so the base is asked again ({problem})")
            return None
        try:
            stored = parsed_json(text)
            body = stored["body"]
            if stored["checksum"] != _checksum(body) or body["key"] != asdict(key):
                raise ValueError("its checksum or its key does not match")
            return from_json(body["score"], items)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            reason = " ".join(str(problem).split())[:100]
            self.notes.append(f"cached score {path} is damaged, so the base is asked again ({reason})")
            return None

    def store(self, key: ScoreKey, score: TaskScore) -> None:
        """Keep a score, whole or not at all; a folder that cannot be written to is told of."""
        path = self.path(key, score.task)
        body = {"key": asdict(key), "score": as_json(score)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own: two runs may store the same score at once.
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump({"checksum": _checksum(body), "body": body}, file)
                os.replace(partial, path)
            finally:
                Path(partial).unlink(missing_ok=True)
        except OSError as problem:
            self.notes.append(f"the base's score on {score.task} could not be kept in {self.folder} ({problem})")

    def path(self, key: ScoreKey, name: str) -> Path:
        """The file of a score."""
        digest = _checksum(asdict(key))[:24]
        return self.folder / "scores" / f"v{_FORMAT}" / key.model[:16] / f"{file_name(name)}-{digest}.json"


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
