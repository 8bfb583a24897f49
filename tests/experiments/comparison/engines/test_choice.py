from pathlib import Path

import pytest

from secura.errors import ConfigError
from secura.experiments.comparison.engines.choice import make_engine


@pytest.mark.parametrize(
    ("name", "assignment", "said"),
    [
        ("slurm", "partitoin=gpu", "no setting 'partitoin'; the nearest is partition"),
        ("slurm", "minutes=soon", "minutes is 'soon'"),
        ("slurm", "minutes=0", "slurm minutes is 0; it is at least 1"),
        ("ray", "adress=x", "no setting 'adress'; the nearest is address"),
        ("ray", "gpus=[1]", r"gpus is \[1\]"),
        ("local", "gpus=1", "engine local has no settings"),
    ],
)
def test_a_setting_that_an_engine_cannot_use_is_refused_by_name(
    name: str, assignment: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_engine(name, folder=tmp_path, workers=None, assignments=[assignment])  # type: ignore[arg-type]


def test_settings_and_workers_reach_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed; `make test-all` installs it")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    (programs / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    given = ["partition=gpu", "minutes=90", "memory_gb=64", "options={constraint: a100}"]
    engine = make_engine("slurm", folder=tmp_path, workers=3, assignments=given)
    asked = engine._executor._executor._make_submission_file_text("true", "0").split("\n")  # type: ignore[attr-defined]
    wanted = ("partition=gpu", "time=90", "mem=64GB", "constraint=a100", "gpus-per-node=1", "requeue")
    assert {f"#SBATCH --{each}" for each in wanted} <= set(asked)
    assert engine._executor._executor.parameters["array_parallelism"] == 3  # type: ignore[attr-defined]
