"""What each exhibit of a grid says, from numbers whose answer is known."""

import math
from dataclasses import replace

import pytest
from made_records import made_record

from secura.evaluation.spectra import Spectrum
from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.record import Cost, RunRecord, SequenceRecord
from secura.report.comparison.cost import cost, size_text
from secura.report.comparison.exhibit import Absent, Exhibit, HeatMap, Plot, Table
from secura.report.comparison.gradient_norms import gradient_norms
from secura.report.comparison.learning_rates import learning_rates
from secura.report.comparison.performance import performance
from secura.report.comparison.retention_curves import retention_curves
from secura.report.comparison.runs import GridRuns, Missing
from secura.report.comparison.score_matrices import score_matrices
from secura.report.comparison.spectra import spectra
from secura.report.comparison.style import styles_of


def _grid(*records: RunRecord, missing: tuple[Missing, ...] = ()) -> GridRuns:
    return GridRuns(name="g", records=records, missing=missing)


def _shown(made: Exhibit | Absent) -> Exhibit:
    assert isinstance(made, Exhibit)
    return made


def _row(table: Table, name: str) -> list[str]:
    return next([cell.text for cell in row] for row in table.rows if row[0].text == name)


def _right(label: str, after: int, seed: int = 0, **changes) -> RunRecord:
    return made_record(label, seed=seed, gain=Tally.of_totals(asked=100, before=5, after=after), **changes)


# ---- performance


def test_a_cell_is_the_mean_with_its_interval_and_a_clear_leader_is_marked() -> None:
    records = [_right(label, after + seed, seed) for label, after in (("A", 50), ("B", 90)) for seed in range(3)]
    exhibit = _shown(performance(_grid(*records)))
    table = exhibit.tables[0]
    assert _row(table, "base model") == ["base model", "5.0%"]
    assert _row(table, "B") == ["B", "91.0% ± 2.5"]
    assert [row[1].state for row in table.rows] == ["", "", "best"]
    assert "Right answers on the new task: B does best, 91.0%" in exhibit.sentence


def test_failed_and_missing_cells_say_so_and_why() -> None:
    failed = replace(_right("B", 0, task="x"), status="failed", gain=None, knowledge={}, error="loss is NaN")
    absent = Missing(label="A", model="bundled", task="x", seed=1, learning_rate=1e-3)
    nothing = Missing(label="C", model="bundled", task="x", seed=0, learning_rate=1e-3)
    exhibit = _shown(performance(_grid(_right("A", 50, task="x"), failed, missing=(absent, nothing))))
    cells = {row[0].text: row[1] for row in exhibit.tables[0].rows}
    assert (cells["A"].text, cells["A"].detail) == ("50.0% (n = 1)", "1 of 2 runs missing")
    assert (cells["B"].text, cells["B"].state, cells["B"].detail) == ("failed", "failed", "loss is NaN")
    assert (cells["C"].text, cells["C"].state) == ("missing", "missing")


def test_tasks_with_long_answers_have_a_table_in_nats() -> None:
    record = made_record(gain=None, gain_nats=(3.0, 1.25), task="stories")
    tables = _shown(performance(_grid(record, _right("LoRA", 50, task="x")))).tables
    assert [table.head for table in tables[:2]] == [["label", "x"], ["label", "stories"]]
    assert _row(tables[1], "base model")[1] == "3.000 nats"
    assert _row(tables[1], "LoRA")[1] == "1.250 (n = 1)"


# ---- learning rates


def test_the_harshest_rate_that_two_labels_share_decides_the_sentence() -> None:
    def kept(label: str, rate: float, share: int, seed: int) -> RunRecord:
        knowledge = {"homes": Tally.of_totals(asked=100, before=100, after=share + seed)}
        return made_record(label, learning_rate=rate, seed=seed, knowledge=knowledge)

    shares = {("A", 1e-3): 90, ("A", 1e-2): 20, ("B", 1e-3): 95, ("B", 1e-2): 80, ("B", 1e-1): 10}
    records = [kept(label, rate, share, seed) for (label, rate), share in shares.items() for seed in range(3)]
    dead = [replace(kept("C", rate, 0, 0), status="failed", knowledge={}, error="NaN") for rate in (1e-3, 1e-2)]
    exhibit = _shown(learning_rates(_grid(*records, *dead), styles_of("ABC")))
    assert exhibit.sentence.startswith("At 1e-2, the harshest rate: B keeps most knowledge, 81.0%")
    assert exhibit.sentence.endswith("All runs of C failed there.")
    table = exhibit.tables[0]
    assert table.head == ["label", "1e-3", "1e-2", "0.1"]
    assert _row(table, "A") == ["A", "91.0% ± 2.5", "21.0% ± 2.5", "not tried"]
    assert _row(table, "C")[1:3] == ["failed", "failed"]
    plot = exhibit.panels[0]
    assert isinstance(plot, Plot)
    assert [len(series.points) for series in plot.series] == [2, 3]


def test_one_rate_a_label_is_no_sweep() -> None:
    assert isinstance(learning_rates(_grid(_right("A", 50)), styles_of("A")), Absent)


# ---- sequences


def _sequence(label: str, last: float, seed: int, *, tasks: tuple[str, ...] = ("x", "y")) -> RunRecord:
    known = 0.5 + last / 2 + seed / 100
    made = SequenceRecord(tasks=tasks, scores=[[0.0, 0.0], [0.9, 0.1], [last, 0.8]], knowledge=[1.0, 0.9, known])
    knowledge = {"homes": Tally.of_totals(asked=100, before=100, after=round(100 * known))}
    return made_record(label, task="sequence", seed=seed, gain=None, knowledge=knowledge, sequence=made)


def test_retention_curves_go_from_the_base_to_the_last_task_with_a_band_over_seeds() -> None:
    records = [_sequence(label, last, seed) for label, last in (("A", 0.2), ("B", 0.8)) for seed in range(3)]
    exhibit = _shown(retention_curves(_grid(*records), styles_of("AB")))
    knowledge, learned = exhibit.panels
    assert isinstance(knowledge, Plot)
    assert isinstance(learned, Plot)
    assert [(point.x, round(point.y, 6)) for point in knowledge.series[0].points] == [(0, 100), (1, 90), (2, 61)]
    assert knowledge.series[0].points[2].y_ends is not None
    assert [round(point.y, 6) for point in learned.series[0].points] == [90, 50]
    assert exhibit.sentence.startswith("B keeps most of the base model's knowledge over 2 tasks, 91.0%")
    assert _row(exhibit.tables[0], "A")[3:5] == ["50.0% ± 0.0", "−70.0 ± 0.0"]  # ACC; 0.2 − 0.9


def test_a_score_matrix_is_the_mean_over_seeds_and_names_the_farthest_fall() -> None:
    records = [_sequence(label, last, seed) for label, last in (("A", 0.2), ("B", 0.8)) for seed in range(2)]
    exhibit = _shown(score_matrices(_grid(*records)))
    first = exhibit.panels[0]
    assert isinstance(first, HeatMap)
    assert (first.title, first.rows, first.names) == ("A", ["base", "1", "2"], ["x", "y"])
    assert first.cells == [[0.0, 0.0], [0.9, 0.1], [0.2, 0.8]]
    assert exhibit.sentence.startswith("The farthest fall is that of x under A: 70.0 points")
    assert "falls least under B (10.0 points)" in exhibit.sentence


def test_matrices_of_several_orders_name_columns_by_their_place() -> None:
    records = [_sequence("A", 0.2, 0), _sequence("A", 0.4, 1, tasks=("y", "x"))]
    (panel,) = _shown(score_matrices(_grid(*records))).panels
    assert isinstance(panel, HeatMap)
    assert panel.names == ["task 1", "task 2"]
    assert panel.cells[2][0] == pytest.approx(0.3)


def test_a_score_that_was_not_taken_stays_missing() -> None:
    record = _sequence("A", 0.2, 0)
    assert record.sequence is not None
    holed = replace(record, sequence=replace(record.sequence, scores=[[0.0, None], [0.9, None], [0.2, 0.8]]))
    exhibit = _shown(score_matrices(_grid(holed)))
    assert [row[2].text for row in exhibit.tables[0].rows] == ["missing", "missing", "80"]


def test_grids_without_sequences_have_neither() -> None:
    grid = _grid(_right("A", 50))
    assert isinstance(retention_curves(grid, styles_of("A")), Absent)
    assert isinstance(score_matrices(grid), Absent)


# ---- gradients, spectra, cost


def test_gradient_lines_are_medians_over_runs_on_a_log_axis_and_stay_few() -> None:
    records = [
        made_record(label, seed=seed, gradient_norms=[(step, norm * (1 + 0.1 * seed)) for step in range(1, 1001)])
        for label, norm in (("A", 2.0), ("B", 0.5))
        for seed in range(3)
    ]
    exhibit = _shown(gradient_norms(_grid(*records), styles_of("AB")))
    (plot,) = exhibit.panels
    assert isinstance(plot, Plot)
    assert plot.y.log
    assert max(len(series.points) for series in plot.series) <= 161
    assert plot.series[0].points[5].y == pytest.approx(2.2)
    assert exhibit.sentence.startswith("B has the smallest gradients, 0.548 (")


def _spectrum(layer: str, growth: float) -> Spectrum:
    before = [3.0, 2.0, 1.0]
    norm = math.sqrt(14)
    return Spectrum(
        layer=layer, before=before, after=[growth * each for each in before], norm_before=norm, norm_after=growth * norm
    )


def test_spectra_name_the_layer_that_moved_farthest_and_draw_it_before_and_after() -> None:
    records = [
        made_record(label, seed=seed, spectra=[_spectrum("q", one), _spectrum("v", two + seed / 1000)])
        for label, one, two in (("A", 1.01, 0.8), ("B", 1.0, 1.01))
        for seed in range(3)
    ]
    exhibit = _shown(spectra(_grid(*records), styles_of("AB")))
    moves, layer, _ = exhibit.panels
    assert isinstance(moves, Plot)
    assert isinstance(layer, Plot)
    assert [series.label for series in layer.series] == ["base model", "A", "B"]
    assert [round(point.y, 4) for point in layer.series[1].points] == [2.403, 1.602, 0.801]
    assert [round(series.points[0].x, 2) for series in moves.series] == [-9.45, 0.55]
    assert "The farthest moved layer is v under A, by −19.90%." in exhibit.sentence
    assert exhibit.sentence.startswith("B changes the norm least, whatever the direction, 0.55%")


def test_costs_are_medians_and_the_sentence_names_the_least_and_the_most() -> None:
    def of(label: str, weights: int, seconds: float, seed: int) -> RunRecord:
        made = Cost(
            trainable_weights=weights, total_weights=1_000_000, adapter_bytes=4_000_000, training_seconds=seconds
        )
        return made_record(label, seed=seed, cost=made)

    records = [of("A", 1000, 5.0 + seed, seed) for seed in range(3)] + [of("B", 9000, 18.0, 0)]
    exhibit = _shown(cost(_grid(*records)))
    assert exhibit.sentence == (
        "A trains the fewest weights, 1,000; B the most, 9,000. B takes 3.0 times as long as A, 18.0 s beside 6.0 s in "
        "the median."
    )
    assert _row(exhibit.tables[0], "A") == ["A", "1,000", "0.1%", "4 MB", "6.0", "missing", "3"]
    assert exhibit.tables[0].rows[0][4].detail == "5.0 to 7.0"


@pytest.mark.parametrize(("size", "said"), [(999, "999 B"), (270_000, "270 kB"), (3.6e7, "36 MB"), (2e9, "2 GB")])
def test_sizes_are_written_in_powers_of_ten(size: float, said: str) -> None:
    assert size_text(size) == said
