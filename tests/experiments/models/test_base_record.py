import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from secura.errors import BaseMismatchError, ConfigError
from secura.experiments.models.base_record import (
    BASE_RECORD,
    BaseFingerprint,
    base_fingerprint,
    base_record,
    check_base,
)
from secura.experiments.settings.run import ModelConfig

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _fingerprint(dtype: torch.dtype, *, moved_by: float = 0.0) -> BaseFingerprint:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).add_(moved_by)
    return base_fingerprint(model.to(dtype))


@pytest.mark.parametrize("used", FLOATS)
@pytest.mark.parametrize("made", FLOATS)
def test_a_base_is_recognised_in_the_dtype_it_is_loaded_in(
    made: torch.dtype, used: torch.dtype, tmp_path: Path
) -> None:
    if {made, used} == {torch.bfloat16, torch.float16}:
        pytest.skip("two roundings of one weight have no exact value in common")
    (tmp_path / BASE_RECORD).write_text(json.dumps(base_record(ModelConfig(path="mine"), _fingerprint(made))))
    assert check_base(tmp_path, _fingerprint(used), "mine") is None


@pytest.mark.parametrize("moved_by", [1e-1, 1e-6])
def test_other_weights_are_refused_even_where_they_round_alike(moved_by: float, tmp_path: Path) -> None:
    made = _fingerprint(torch.float32)
    (tmp_path / BASE_RECORD).write_text(json.dumps(base_record(ModelConfig(path="mine"), made)))
    with pytest.raises(BaseMismatchError, match="was made for mine with other weights than yours"):
        check_base(tmp_path, _fingerprint(torch.float32, moved_by=moved_by), "yours")


def test_a_record_from_before_roundings_were_kept_still_tells_bases_apart(tmp_path: Path) -> None:
    old = {"model": "mine", "fingerprint": _fingerprint(torch.bfloat16).exact}
    (tmp_path / BASE_RECORD).write_text(json.dumps(old))
    assert check_base(tmp_path, _fingerprint(torch.float32), "mine") is None
    with pytest.raises(BaseMismatchError):
        check_base(tmp_path, _fingerprint(torch.float32, moved_by=0.1), "mine")


def test_without_a_record_another_name_is_a_doubt_and_the_same_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/theirs"}))
    fingerprint = _fingerprint(torch.float32)
    assert check_base(tmp_path, fingerprint, "elsewhere/theirs") is None
    doubt = check_base(tmp_path, fingerprint, "mine")
    assert doubt is not None
    assert "made for org/theirs, not for mine" in doubt


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / BASE_RECORD).write_text('{"model": ')
    with pytest.raises(ConfigError, match=r"secura_base\.json is not JSON"):
        check_base(tmp_path, _fingerprint(torch.float32), "mine")
