from pathlib import Path

import pytest
import torch
from adapted_models import adapted, llama, llama_config
from transformers import TrainerControl, TrainerState, TrainingArguments

from secura.errors import TrainingError
from secura.training.stop_at_non_finite import StopAtNonFinite


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("model.layers.1.mlp.up_proj", r"the base model's own model\.layers\.1\.mlp\.up_proj\.weight holds NaN"),
        ("model.layers.1.self_attn.q_proj", r"the base model's own model\.layers\.1\.self_attn\.q_proj\.weight"),
        (None, "try a lower learning rate"),
    ],
)
def test_a_broken_base_is_named_and_the_rate_is_not_blamed(broken: str | None, says: str, tmp_path: Path) -> None:
    base = llama()
    model = adapted(base, llama_config())
    if broken is not None:
        with torch.no_grad():
            getattr(base.get_submodule(broken), "base_layer", base.get_submodule(broken)).weight[0, 0] = torch.nan
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TrainingError, match=says) as raised:
        StopAtNonFinite().on_log(arguments, TrainerState(), TrainerControl(), logs={"loss": float("nan")}, model=model)
    assert ("rate" in str(raised.value)) is (broken is None)
