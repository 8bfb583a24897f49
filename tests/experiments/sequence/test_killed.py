"""A sequence that is killed, again and again and anywhere, ends with the bits of one that was not."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SETTINGS = [
    "tasks=[different_homes, pair_in_short]",
    "training.steps=24",
    "training.save_every=4",
    "training.batch_size=4",
    "data.test_rows=12",
    "data.train_rows=60",
    "retention.per_family=4",
]
METHODS = {
    "secura, moving reference": ["method.name=secura", "method.adapter.reference=moving", "method.fold_every=5"],
    "replay": ["method.name=lora", "strategy.name=replay", "strategy.settings.share=0.5"],
    "ewc": ["method.name=lora", "strategy.name=ewc", "strategy.settings.fisher_examples=12"],
    "own text": [
        "method.name=lora",
        "strategy.name=own_text",
        "strategy.settings.texts=12",
        "strategy.settings.tokens=16",
        "strategy.settings.task_texts=64",
    ],
}
PATIENCE_SECONDS = 120


def start(out: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    yaml = out.with_suffix(".yaml")
    yaml.touch()
    command = [str(Path(sys.executable).with_name("secura")), "sequence", str(yaml), "--out", str(out)]
    command += [part for setting in [*SETTINGS, *settings] for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SECURA_CACHE": str(out.parent / "cache")}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def steps_logged(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.glob("task-*/log.jsonl"))


def cells_scored(out: Path) -> int:
    path = out / "matrix.json"
    return path.read_text().count('"right"') if path.is_file() else 0


def unsealed_checkpoint(out: Path) -> bool:
    return any(not (path / "seal.json").exists() for path in out.glob("task-*/checkpoint-*"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while the base is scored": lambda out: 0 < cells_scored(out) < 15,
    "in the first steps": lambda out: steps_logged(out) >= 2,
    "in a save": unsealed_checkpoint,
    "after a save": lambda out: bool(list(out.glob("task-01*/checkpoint-8/seal.json"))),
    "between steps": lambda out: steps_logged(out) >= 15,
    "while texts of a task are written": lambda out: bool(list(out.glob("task-01*/bank.writing/*.json"))),
    "at the end of a task": lambda out: bool(list(out.glob("after-01*.partial"))) or bool(list(out.glob("after-01*"))),
    "while a stage is scored": lambda out: 15 < cells_scored(out) < 30,
    "in the second task": lambda out: bool(list(out.glob("task-02*/log.jsonl"))) and steps_logged(out) > 26,
    "in a save of the second task": lambda out: bool(list(out.glob("task-02*/checkpoint-12"))),
    "at the end of the second task": lambda out: bool(list(out.glob("after-02*"))),
    "while the last stage is scored": lambda out: cells_scored(out) > 32,
}


SIGNALS = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])


def kill_when(process: subprocess.Popen[bytes], due: Callable[[], bool]) -> bool:
    """Kill a run, or ask it to end, as soon as something is so; whether it was still running."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if due():
                number = next(SIGNALS)
                process.send_signal(number)
                _, errors = process.communicate(timeout=PATIENCE_SECONDS)
                # Done already, or before Python has taken signals over, or as it should be.
                assert process.returncode in (0, -number, 128 + number), errors.decode()
                return True
        except OSError:  # a file that was there is gone, which is what we are watching
            continue
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return False


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(METHODS[name], id=name, marks=pytest.mark.ci if name == "replay" else pytest.mark.slow)
        for name in METHODS
    ],
)
def test_a_sequence_killed_at_many_moments_ends_with_the_same_bits(settings: list[str], tmp_path: Path) -> None:
    finish(start(tmp_path / "undisturbed", settings))
    killed = tmp_path / "killed"
    kills = 0
    for due in MOMENTS.values():
        if not due_already(due, killed):
            kills += kill_when(start(killed, settings), lambda due=due: due(killed))
    draw = random.Random(0)
    while kills < 10:  # moments that came too quickly to be seen
        fresh = tmp_path / f"again-{draw.random()}"
        began = time.monotonic()
        wait = draw.uniform(4.0, 9.0)
        kills += kill_when(start(fresh, settings), lambda began=began, wait=wait: time.monotonic() - began > wait)
        finish(start(fresh, settings))
        assert_same_bits(tmp_path / "undisturbed", fresh)
    finish(start(killed, settings))
    assert kills >= 10
    assert_same_bits(tmp_path / "undisturbed", killed)


def due_already(due: Callable[[Path], bool], out: Path) -> bool:
    """Whether a moment lies behind a run already, so that waiting for it again would kill it at once."""
    return out.exists() and due(out)


def assert_same_bits(one: Path, other: Path) -> None:
    assert (one / "matrix.json").read_bytes() == (other / "matrix.json").read_bytes()
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert names
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
