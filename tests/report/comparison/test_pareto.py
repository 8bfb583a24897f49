from dataclasses import replace
from pathlib import Path

from made_records import made_grids, made_record, write_peft_results

from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.record_files import read_records
from secura.report.comparison.exhibit import Absent, Exhibit, Plot
from secura.report.comparison.pareto import pareto, published
from secura.report.comparison.runs import GridRuns
from secura.report.comparison.style import styles_of


def _run(label: str, gain: int, kept: int, seed: int = 0, **changes):
    return made_record(
        label,
        seed=seed,
        gain=Tally.of_totals(asked=100, before=0, after=gain),
        knowledge={"homes": Tally.of_totals(asked=100, before=100, after=kept)},
        **changes,
    )


def _shown(*records) -> Exhibit:
    grid = GridRuns(name="g", records=records)
    found = pareto(grid, styles_of(grid.labels))
    assert isinstance(found, Exhibit)
    return found


def test_the_front_is_what_nothing_else_matches_on_both() -> None:
    exhibit = _shown(_run("A", 90, 50), _run("B", 60, 80), _run("C", 50, 70), _run("D", 90, 40))
    on_front = {row[0].text: row[3].text for row in exhibit.tables[0].rows}
    assert on_front == {"A": "on it", "B": "on it", "C": "", "D": ""}
    (plot,) = exhibit.panels
    assert isinstance(plot, Plot)
    assert plot.front == [(50, 90), (50, 60), (80, 60)]
    assert "On the front of the means are A and B, of 4." in exhibit.sentence


def test_points_carry_their_intervals_over_seeds_on_both_axes() -> None:
    exhibit = _shown(*(_run("A", 80 + seed, 60 + 2 * seed, seed) for seed in range(3)), _run("B", 10, 10))
    (plot,) = exhibit.panels
    assert isinstance(plot, Plot)
    first, second = (series.points[0] for series in plot.series)
    assert (first.x, first.y) == (62, 81)
    assert first.x_ends is not None
    assert first.y_ends is not None
    assert first.x_ends[0] < 62 < first.x_ends[1]
    assert second.x_ends is None


def test_a_label_that_lacks_a_task_is_missing_and_not_averaged_over_fewer() -> None:
    both = [_run("A", 90, 50, task=task) for task in ("x", "y")]
    exhibit = _shown(*both, _run("B", 99, 99, task="x"))
    rows = {row[0].text: row for row in exhibit.tables[0].rows}
    assert (rows["B"][1].state, rows["B"][1].detail) == ("missing", "1 of the tasks have it")
    assert "Not placed, for lack of a task: B." in exhibit.sentence


def test_points_nats_and_sequences_have_a_panel_each() -> None:
    points = _run("A", 90, 50, task="x")
    nats = replace(_run("A", 0, 50, task="y"), gain=None, gain_nats=(3.0, 1.0))
    sequence = next(record for record in made_grids(seeds=1) if record.sequence)
    exhibit = _shown(points, nats, replace(sequence, label="A"))
    assert [panel.y.title.split(",")[0] for panel in exhibit.panels if isinstance(panel, Plot)] == [
        "gain on the new task",
        "fall of the new task's loss",
        "gain over all tasks",
    ]


def test_a_grid_without_both_numbers_says_what_would_bring_them() -> None:
    found = pareto(GridRuns(name="g", records=[made_record(gain=None)]), styles_of(["LoRA"]))
    assert isinstance(found, Absent)
    assert "retention.path" in found.remedy


def test_pefts_points_stand_beside_ours_on_axes_that_mean_the_same(tmp_path: Path) -> None:
    write_peft_results(tmp_path, count=5)
    ours = made_record(forgetting_nats=0.1)
    without = made_record("B")
    records = [*read_records(tmp_path), ours, without]
    exhibit = published(records, styles_of(["LoRA", "B"]))
    assert exhibit is not None
    (plot,) = exhibit.panels
    assert isinstance(plot, Plot)
    assert plot.title == "PEFT: meta-llama/Llama-3.2-3B, MetaMathQA; ours: bundled, own_things"
    assert plot.x.turned
    assert {series.label for series in plot.series if not series.label.startswith("method")} == {"LoRA"}
    assert "models, tasks and texts differ" in exhibit.note
    assert exhibit.sentence.startswith("Of 5 published results on meta-llama/Llama-3.2-3B, method")
    named = [series.named for series in plot.series if series.named]
    assert named
    assert all(name.startswith("method") for name in named)
    assert len(exhibit.tables[0].rows) == 6
    assert published([ours], styles_of(["LoRA"])) is None
