from secura.cli.compare_view import _shown_label


def test_a_label_tells_the_order_that_was_written_from_a_permuted_one() -> None:
    rows = [{"label": "LoRA", "model": "bundled", "learning_rate": 1e-3, "order_seed": seed} for seed in (None, 1)]
    assert [_shown_label(row, ["order_seed"]) for row in rows] == ["LoRA, order as written", "LoRA, order seed 1"]
    assert _shown_label(rows[0], ["learning_rate"]) == "LoRA, lr 1.0e-03"
