"""What a card says of a run, read from the files that `secura train` and `secura sequence` leave."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secura.adapters.secura.config import plain_peft_type
from secura.errors import DataError, SecuraError
from secura.evaluation.tally import Tally, together
from secura.experiments.files import ADAPTER_FOLDER, BASE_RECORD, MODEL_FOLDER, REPORT_FILE
from secura.experiments.run.certified import stored_certificate
from secura.experiments.sequence.matrix import QuestionGroup, read_matrix
from secura.experiments.sequence.run import SUMMARY_FILE
from secura.json_text import read_json
from secura.report.card.loading import hub_name


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of questions, before and after."""

    name: str
    """A family of knowledge, or a task."""
    tally: Tally
    """Right answers before and after, and what of them was kept."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, as far as a card tells of it."""

    folder: Path
    """Folder of the run."""
    saved: Path
    """Folder of what was made: an adapter or a whole model."""
    is_adapter: bool
    """Whether that is an adapter, which needs its base."""
    peft_type: str
    """The kind of adapter, by PEFT's name; empty for a whole model."""
    method: str
    """The method of `secura train`."""
    strategy: str
    """What was done against forgetting besides the adapter; empty for nothing."""
    base: str
    """The base model as the run named it: a hub id, a folder, or `bundled`."""
    fingerprint: str
    """Checksum of the base model."""
    learned: Sequence[Group]
    """What was learned: held-out questions of each task; empty where none could be matched."""
    tasks: Sequence[str]
    """Names of the tasks, in the order learned."""
    nats: tuple[float | None, float | None]
    """Mean nats per answer token on the new task before and after."""
    families: Sequence[Group]
    """Knowledge by family; empty where none was asked for."""
    knowledge: Tally | None
    """All families together."""
    prompt: str
    """A question of the new task, shown only where that is asked for; empty where none is stored."""
    steps: int | None
    """Optimizer steps, of each task in a sequence."""
    learning_rate: float | None
    """Peak learning rate."""
    trained_weights: int | None
    """Weights that were trained."""
    seconds: float | None
    """Wall-clock time of the steps; None where it is not stored."""
    seed: int
    """Seed of the run."""
    config: Mapping[str, Any]
    """All settings."""
    provenance: Mapping[str, Any]
    """Commit, versions and hardware."""
    certificate: Mapping[str, Any] | None = None
    """That enough was kept, as it is stored; None where the run has none."""

    @property
    def base_on_hub(self) -> str | None:
        """The base model's name on the Hub; None where it is bundled or lies in a folder."""
        return hub_name(self.base)

    @property
    def base_shown(self) -> str:
        """What the card calls the base model: never a path of the machine it was trained on."""
        return self.base_on_hub or Path(self.base).name

    @property
    def data_on_hub(self) -> list[str]:
        """Data sets of the Hub that were learned from."""
        names = [str(name).split(":")[0] for name in self._sources()]
        return [name for name in names if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not _is_file(name)]

    @property
    def data_shown(self) -> list[str]:
        """What was learned from, files by their names alone."""
        return [Path(str(name)).name if _is_file(str(name)) else str(name) for name in self._sources()]

    def _sources(self) -> list[Any]:
        if "tasks" in self.config:
            return list(self.tasks)
        return [self.config["data"]["path"] or self.tasks[0]]


def _is_file(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith((".jsonl", ".json", ".gz")) or Path(name).exists()


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        DataError: if the folder holds none, one that has not come to its end, or one with a damaged file.
    """
    folder = folder.parent if folder.name in (ADAPTER_FOLDER, MODEL_FOLDER) else folder
    for name, read in ((REPORT_FILE, _train_run), (SUMMARY_FILE, _sequence_run)):
        if not (folder / name).is_file():
            continue
        try:
            return read(folder)
        except SecuraError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
            raise DataError(
                f"{name} or another file of the run in {folder} is damaged ({type(problem).__name__}: {problem}); "
                "take the folder as the run left it."
            ) from problem
    if (folder / BASE_RECORD).is_file():
        raise DataError(f"{folder} holds an unfinished run; finish it, then make its card.")
    raise DataError(
        f"{folder} holds no finished run (no {REPORT_FILE} or {SUMMARY_FILE}); name a folder of secura train or "
        "secura sequence."
    )


def _train_run(folder: Path) -> FinishedRun:
    report = read_json(folder / REPORT_FILE)
    nats = report["new_task_nats_per_token"]
    new, retention = report["new_task"]["answers"], report["retention"]["answers"]
    prompts = [answer["prompt"] for answer in new]
    return FinishedRun(
        **_common(folder, report),
        method=report["method"],
        strategy=_strategy(report["config"]),
        learned=[_group(report["task"], *_flags(new))] if new else [],
        tasks=[report["task"]],
        nats=(nats["before"], nats["after"]),
        families=[
            _group(family, *_flags([answer for answer in retention if answer["family"] == family]))
            for family in dict.fromkeys(answer["family"] for answer in retention)
        ],
        knowledge=Tally.of_answers(*_flags(retention)) if retention else None,
        prompt=prompts[0] if prompts else "",
        steps=report["steps"],
        learning_rate=report["learning_rate"],
        seconds=report["training_seconds"],
        certificate=stored_certificate(folder),
    )


def _sequence_run(folder: Path) -> FinishedRun:
    summary = read_json(folder / SUMMARY_FILE)
    config = summary["config"]
    tasks = list(config["tasks"])
    matrix = read_matrix(folder, tasks)
    last = len(tasks)
    if last not in matrix.cells:
        raise DataError(f"{folder} holds a sequence whose last task is not scored; finish it, then make its card.")
    families = [Group(name=name, tally=tally) for name, tally in matrix.knowledge_kept(last).items()]
    learned = {task: matrix.tally(last, QuestionGroup("task", task)) for task in tasks}
    return FinishedRun(
        **_common(folder, summary),
        method=config["method"]["name"],
        strategy=_strategy(config),
        learned=[Group(name=task, tally=tally) for task, tally in learned.items() if tally is not None],
        tasks=tasks,
        nats=(None, None),
        families=families,
        knowledge=together(group.tally for group in families) if families else None,
        prompt="",
        steps=config["training"]["steps"],
        learning_rate=config["training"]["learning_rate"],
        seconds=None,
    )


def _strategy(config: Mapping[str, Any]) -> str:
    name = config.get("strategy", {}).get("name", "sequential")
    return "" if name == "sequential" else name


def _common(folder: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of run store alike."""
    saved = next((folder / name for name in (ADAPTER_FOLDER, MODEL_FOLDER) if (folder / name).is_dir()), None)
    if saved is None:
        raise DataError(f"{folder} holds neither {ADAPTER_FOLDER}/ nor {MODEL_FOLDER}/, so it has no result.")
    adapter = saved / "adapter_config.json"
    base = read_json(folder / BASE_RECORD)
    return {
        "folder": folder,
        "saved": saved,
        "is_adapter": adapter.is_file(),
        "peft_type": plain_peft_type(read_json(adapter)["peft_type"]) if adapter.is_file() else "",
        "base": base["model"],
        "fingerprint": stored["base_fingerprint"],
        "trained_weights": stored.get("trainable_weights"),
        "seed": stored["config"]["training"]["seed"],
        "config": stored["config"],
        "provenance": stored["provenance"],
    }


def _flags(answers: Sequence[Mapping[str, Any]]) -> tuple[list[bool], list[bool]]:
    """Whether each question was answered right, before and after."""
    return [answer["right_before"] for answer in answers], [answer["right_after"] for answer in answers]


def _group(name: str, before: Sequence[bool], after: Sequence[bool]) -> Group:
    return Group(name=name, tally=Tally.of_answers(before, after))
