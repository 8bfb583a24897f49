import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model
from torch.testing import assert_close

from secura.errors import ConfigError
from secura.training.examples import IGNORED, Example, PadToLongest

pytest.importorskip("trl")

from secura.training.packing import packs, refuse_rows_that_see_others, rows_apart, without_padding

ROWS = [Example(tokens=[9 + (7 * row + place) % 40 for place in range(4 + row)], learned_from=2) for row in range(6)]


def test_rows_share_as_few_as_hold_them_and_none_is_cut() -> None:
    packed = packs(ROWS, 13)
    assert [sum(lengths) for lengths in packed["seq_lengths"]] == [len(row) for row in packed["input_ids"]]
    assert [len(row) for row in packed["input_ids"]] == [13, 13, 13]  # 9 and 4, 8 and 5, 7 and 6
    assert sorted(token for row in packed["input_ids"] for token in row) == sorted(
        token for row in ROWS for token in row.tokens
    )


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gpt2"])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_follow_one_another_see_nothing_of_each_other(architecture: str, packed: bool) -> None:
    model = tiny_model(architecture)
    padded = PadToLongest(pad_token=0)(ROWS)
    apart = model(**padded, use_cache=False).loss
    rows = packs(ROWS, 20) if packed else rows_apart(ROWS)
    batch = without_padding(0)([rows[index] for index in range(len(rows))])
    assert "attention_mask" not in batch
    together = model(**batch, use_cache=False).loss
    assert_close(together, apart, rtol=1e-4, atol=1e-5)  # sums of other orders
    learned = (batch["labels"] != IGNORED).sum()
    assert learned == sum(row.learned_tokens for row in ROWS)


def test_gradients_are_those_of_rows_apart() -> None:
    found = []
    for batch in (PadToLongest(pad_token=0)(ROWS), without_padding(0)(list(rows_apart(ROWS)))):
        model = tiny_model("llama")
        model(**batch, use_cache=False).loss.backward()
        found.append(torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]))
    assert_close(*found, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_model_whose_masks_go_by_positions_passes(architecture: str) -> None:
    refuse_rows_that_see_others(tiny_model(architecture), ROWS, pad_token=0)


def test_a_model_whose_rows_see_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(ConfigError, match=r"would see the row before it.*leave out training.packing"):
        refuse_rows_that_see_others(tiny_model("llama"), ROWS, pad_token=0)
