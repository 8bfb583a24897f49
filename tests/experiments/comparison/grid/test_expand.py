import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from secura.errors import ConfigError, DataError, InputError
from secura.experiments.comparison.grid import expand
from secura.experiments.comparison.grid.config import load_grid
from secura.experiments.comparison.grid.expand import runs_of_grid
from secura.experiments.comparison.grid.grid_run import ADDED, GridRun
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, read_declaration, write_declaration
from secura.experiments.settings.run import RunConfig
from secura.tasks.world import SEQUENCE

SMALL: dict[str, Any] = {
    "name": "small",
    "base": {"training.steps": 3, "retention": {"per_family": 2}},
    "methods": ["lora", {"label": "M1", "name": "secura-paper", "settings": {"method.adapter.r": 8}}],
    "tasks": ["own_things", {"name": "two_steps", "settings": {"training.steps": 4}}],
    "seeds": [0, 1],
}


def _file(folder: Path, name: str = "grid.yaml", **changes: Any) -> Path:
    values = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


REAL = sorted((Path(__file__).parents[4] / "grids" / "real").glob("*.yaml"))


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem)
def test_every_grid_of_the_real_study_can_be_carried_out(file: Path) -> None:
    runs = runs_of_grid(load_grid(file))
    assert len({run.label for run in runs}) >= 3
    for run in runs:
        for name in run.settings["data"].get("mix", ()):
            assert any(version.startswith(name) for version in run.versions["tasks"])


def test_a_grid_is_every_method_on_every_task_with_every_seed(tmp_path: Path) -> None:
    runs = runs_of_grid(load_grid(_file(tmp_path)))
    found = [(run.task, run.label, run.seed, run.settings["training"]["steps"]) for run in runs]
    steps = {"own_things": 3, "two_steps": 4}
    assert found == [(task, label, seed, steps[task]) for task in steps for label in ("lora", "M1") for seed in (0, 1)]
    assert all(run.settings["retention"]["per_family"] == 2 for run in runs)


def test_a_learning_rate_of_null_is_the_methods_own_and_a_method_may_have_its_own_list(tmp_path: Path) -> None:
    methods = ["lora", {"name": "dora", "learning_rates": [2e-3]}]
    grid = load_grid(_file(tmp_path, methods=methods, learning_rates=[None, 5e-4], tasks=["own_things"], seeds=[0]))
    assert [(run.label, run.learning_rate) for run in runs_of_grid(grid)] == [
        ("lora", 1e-3),
        ("lora", 5e-4),
        ("dora", 2e-3),
    ]


def test_a_learning_rate_written_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("name: g\nmethods: [lora]\ntasks: [own_things]\nlearning_rates: [1e-3]\n")
    assert [run.learning_rate for run in runs_of_grid(load_grid(path))] == [1e-3]


def test_overrides_reach_the_runs_they_name_and_exclusions_leave_runs_out(tmp_path: Path) -> None:
    overrides = [{"where": {"task": ["two_steps"], "label": "lora"}, "set": {"training.batch_size": 8}}]
    grid = load_grid(_file(tmp_path, overrides=overrides, exclude=[{"label": "M1", "seed": 1}]))
    sizes = {(run.label, run.task, run.seed): run.settings["training"]["batch_size"] for run in runs_of_grid(grid)}
    assert {key for key, size in sizes.items() if size == 8} == {("lora", "two_steps", 0), ("lora", "two_steps", 1)}
    assert not [key for key in sizes if key[0] == "M1" and key[2] == 1]


def test_an_included_file_lies_under_the_one_that_includes_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "more.yaml").write_text("base: {training.batch_size: 4, training.steps: 9}\nseeds: [7]\n")
    path = _file(tmp_path, include=["shared/more.yaml"], seeds=None)
    run = runs_of_grid(load_grid(path, ["base.scoring.batch_size=5"]))[0]
    assert (run.seed, run.settings["training"]["batch_size"], run.settings["training"]["steps"]) == (
        7,
        4,
        3,
    )
    assert run.settings["scoring"]["batch_size"] == 5


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    _file(tmp_path, "a.yaml", include=["b.yaml"])
    _file(tmp_path, "b.yaml", include=["a.yaml"])
    with pytest.raises(ConfigError, match=r"a\.yaml includes b\.yaml includes a\.yaml"):
        load_grid(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": [0]}, r"unknown setting seed; the nearest is seeds"),
        ({"methods": ["loraa"]}, r"loraa on own_things, seed 0: unknown method 'loraa'; the nearest is lora"),
        ({"methods": ["lora", "lora"]}, r"methods names 'lora' twice"),
        (
            {"methods": [{"name": "lora", "strategy": "ewc"}]},
            r"lora \+ ewc on own_things, seed 0: strategy ewc protects earlier tasks",
        ),
        ({"tasks": ["own_thing"]}, r"'own_thing' is no task; the nearest are own_things"),
        ({"tasks": ["rows.jsonl"]}, r"rows.jsonl: no such file"),
        ({"tasks": []}, r"tasks is empty"),
        ({"tasks": ["own_things", "own_things"]}, r"own_things, seed 0 appears twice"),
        ({"base": {"training.step": 3}}, r"unknown setting training.step; the nearest is training.steps"),
        ({"base": {"training.seed": 3}}, r"grid.yaml: base names training.seed, which the grid gives each run"),
        ({"base": {"method.adapter.rr": 3}}, r"unknown setting method.adapter.rr; the nearest is method.adapter.r"),
        ({"base": {"training.steps": 0}}, r"training.steps is 0"),
        ({"exclude": [{"label": "lorra"}]}, r"exclude\[0\] \(label: lorra\) matches no run"),
        ({"exclude": [{"lable": "lora"}]}, r"'lable'; the nearest is label"),
        ({"overrides": [{"where": {"seed": 5}, "set": {}}]}, r"overrides\[0\].where \(seed: 5\) matches no run"),
        ({"measure": ["spectrum"]}, r"measure\[0\] is 'spectrum'"),
        ({"base": {"trainng": {"steps": 3}}}, r"grid.yaml: base: unknown setting trainng; the nearest is training\."),
        ({"base": {"training": 5}}, r"grid.yaml: base: training is 5: it should be a section"),
        ({"base": {"strategy": "replay"}}, r"base: strategy is 'replay': it should be a section"),
        ({"methods": [{"name": "lora", "settings": {"method.adapter.r": "x"}}]}, r"method.adapter.r is 'x'"),
        ({"exclude": [{"label": {"is": "lora"}}]}, r"exclude\[0\]: label should be a value, or a list"),
        ({"order_seeds": [1]}, r"order_seeds belong to kind sequence"),
        ({"models": ["some/model"], "measure": ["forgetting_text"]}, r"needs a text of your own"),
    ],
)
def test_what_cannot_work_is_refused_by_name_before_anything_runs(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        runs_of_grid(load_grid(_file(tmp_path, **changes)))


SECRET = {"name": "lora", "label": "values that no error repeats"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"methods": [{**SECRET, "settngs": {}}]},
            "unknown setting methods[0].settngs; the nearest is methods[0].settings",
        ),
        ({"methods": [{**SECRET, "settings": {"method.rr": 3}}]}, "methods[0].settings: unknown setting method.rr;"),
        ({"methods": SECRET}, "methods is a section: it should be a list"),
        (
            {"tasks": [{"nam": "values that no error repeats"}]},
            "unknown setting tasks[0].nam; the nearest is tasks[0].name",
        ),
        ({"tasks": [{"label": "values that no error repeats"}]}, "tasks[0] has no name"),
        (
            {"overrides": [{"wher": SECRET, "set": {}}]},
            "unknown setting overrides[0].wher; the nearest is overrides[0].where",
        ),
        (
            {"overrides": [{"where": {"seed": 0}, "set": {"trainin": SECRET}}]},
            "overrides[0].set: unknown setting trainin;",
        ),
        ({"learning_rates": [SECRET]}, "learning_rates[0] is a section: input should be a valid number"),
        ({"base": {"method": {"fold_every": SECRET}}}, "base: method.fold_every is a section: input should be"),
        ({"include": SECRET}, "include should be a list of YAML files"),
    ],
)
def test_an_error_names_the_file_and_the_key_and_repeats_no_section(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^.*grid\.yaml: ") as raised:
        load_grid(_file(tmp_path, **changes))
    assert says in str(raised.value)
    assert "values that no error repeats" not in str(raised.value)


def test_a_file_that_many_runs_read_is_hashed_once(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    own = expand.file_checksum
    monkeypatch.setattr(expand, "file_checksum", lambda path: hashed.append(path) or own(path))
    runs = runs_of_grid(load_grid(_file(tmp_path, tasks=[str(rows_file)])))
    assert len(runs) == 4
    assert hashed == [str(rows_file)]


def test_a_grid_of_sequences_is_every_method_with_its_strategy_in_every_order(tmp_path: Path) -> None:
    methods = [{"label": "ER", "name": "lora", "strategy": "replay", "settings": {"strategy.settings.share": 0.5}}]
    base = {"tasks": ["own_things", "two_steps"], "training.steps": 2}
    changes: dict[str, Any] = {"kind": "sequence", "tasks": None, "order_seeds": [None, 3], "seeds": [0]}
    runs = runs_of_grid(load_grid(_file(tmp_path, methods=methods, base=base, **changes)))
    assert [(run.label, run.task, run.settings["order_seed"], run.steps) for run in runs] == [
        ("ER", "sequence", None, 4),
        ("ER", "sequence", 3, 4),
    ]
    methods[0]["strategy"] = "replays"
    with pytest.raises(ConfigError, match="unknown strategy 'replays'; the nearest is replay"):
        runs_of_grid(load_grid(_file(tmp_path, methods=methods, base=base, **changes)))


def test_a_sequence_without_tasks_has_the_bundled_ones_written_down(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"kind": "sequence", "tasks": None, "order_seeds": [3], "seeds": [0], "methods": ["lora"]}
    (run,) = runs_of_grid(load_grid(_file(tmp_path, **changes)))
    assert run.settings["tasks"] == list(SEQUENCE)
    assert run.steps == 3 * len(SEQUENCE)


def test_a_name_is_made_of_what_decides_the_result_and_of_nothing_else(tmp_path: Path) -> None:
    def names(**changes: Any) -> list[str]:
        return [run.name for run in runs_of_grid(load_grid(_file(tmp_path, **changes)))]

    plain = names()
    assert len(set(plain)) == len(plain) == 8
    assert plain[0].startswith("lora-own_things-0-")
    assert names(name="other") == plain  # which grid a run stands in changes nothing about it
    assert names(seeds=[1, 0]) != plain
    assert sorted(names(seeds=[1, 0])) == sorted(plain)
    for changed in ({"measure": ["spectra"]}, {"base": {"training.steps": 5}}, {"base": {"scoring.batch_size": 7}}):
        assert not set(names(**changed)) & set(plain)
    spelled_out = {**SMALL["base"], "training.learning_rate": 1e-3, "method.fold_every": None}
    assert names(base=spelled_out)[0] == plain[0]  # lora's defaults, written down


def test_a_setting_that_was_added_leaves_runs_that_do_not_use_it_the_names_they_have(tmp_path: Path) -> None:
    defaults = RunConfig().model_dump(mode="json")
    for section, settings in ADDED.items():
        own = defaults[section] if section else defaults
        assert {name: own[name] for name in settings} == settings
    run = runs_of_grid(load_grid(_file(tmp_path)))[0]
    sections = {name: dict(value) if isinstance(value, dict) else value for name, value in run.settings.items()}
    before = {
        name: {key: each for key, each in value.items() if key not in ADDED.get(name, {})} if name in ADDED else value
        for name, value in sections.items()
        if name not in ADDED[""]
    }
    assert replace(run, settings=before).name == run.name
    for section, name, value in (("data", "turns", "last"), ("training", "packing", True)):
        changed = {**sections, section: {**sections[section], name: value}}
        assert replace(run, settings=changed).name != run.name
    assert replace(run, settings={**sections, "push_to_hub": "me/it"}).name != run.name


def test_names_are_the_same_on_every_machine() -> None:
    settings = {"training": {"steps": 3, "seed": 0, "learning_rate": 7e-4}}
    run = GridRun(
        grid="g",
        kind="train",
        label="L / 1",
        model="bundled",
        task="own_things",
        settings=settings,
        versions={"scoring": 2},
    )
    canonical = (
        b'{"forgetting_text":null,"kind":"train","measure":[],'
        b'"settings":{"training":{"learning_rate":0.0007,"seed":0,"steps":3}},"versions":{"scoring":2}}'
    )
    assert run.name == f"L_1-own_things-0-{hashlib.sha256(canonical).hexdigest()[:10]}"
    assert run.name == "L_1-own_things-0-374192718e"


def test_a_file_trained_on_is_known_by_its_content(rows_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rows.jsonl"
    copy.write_text(rows_file.read_text())
    (first,) = runs_of_grid(load_grid(_file(tmp_path, methods=["lora"], tasks=[str(copy)], seeds=[0])))
    copy.write_text(rows_file.read_text() * 2)
    (second,) = runs_of_grid(load_grid(_file(tmp_path, methods=["lora"], tasks=[str(copy)], seeds=[0])))
    assert first.task == second.task == "rows"
    assert first.name != second.name


def test_the_grid_that_the_documentation_shows_is_one(tmp_path: Path) -> None:
    document = (Path(__file__).parents[4] / "docs" / "compare.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    path = tmp_path / "grid.yaml"
    path.write_text(shown)
    runs = runs_of_grid(load_grid(path))
    assert len(runs) == 2 * 3 + 2 * 2 * 3 - 2  # lora; SECURA M1 at two learning rates, less one seed on one task


def test_a_stored_run_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    run = ComparisonRun(declared=runs_of_grid(load_grid(_file(tmp_path)))[0], folder=tmp_path)
    write_declaration(run)
    path = run.declaration_file
    assert read_declaration(path) == run
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    with pytest.raises(DataError, match="changed by hand"):
        read_declaration(path)


@pytest.mark.parametrize("name", ["..", "../x", "a\n", "g" * 240, ""])
def test_a_grid_whose_name_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder is called so"):
        load_grid(_file(tmp_path), [f"name={json.dumps(name)}"])


def test_a_run_of_long_names_has_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    methods = [{"name": "lora", "label": "l" * 240}]
    (run,) = runs_of_grid(load_grid(_file(tmp_path, methods=methods, tasks=["own_things"], seeds=[0])))
    (tmp_path / f"{run.name}.json.partial").touch()
