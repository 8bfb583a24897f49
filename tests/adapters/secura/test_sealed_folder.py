import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, llama, llama_config, logits, moved, saved_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file

from secura.adapters import fold
from secura.adapters.secura.sealed_folder import check_seal, is_sealed, seal_folder
from secura.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj.secura_"


def older(folder: Path, **settings: Any) -> tuple[Path, torch.Tensor]:
    """An adapter as it was saved before there were seals, and its logits."""
    model = adapted(llama(), llama_config(reference="moving", modules_to_save=["lm_head"], **settings))
    for seed in range(3):
        fold(model, "one")
        moved(model, seed=seed)
    saved_adapter(model, folder)
    config = json.loads((folder / CONFIG).read_text())
    del config["saved"]["seal"], config["saved"]["base"]
    (folder / CONFIG).write_text(json.dumps(config))
    found = load_file(folder / WEIGHTS)
    kept = {key: each for key, each in found.items() if not key.endswith((".secura_seal", ".secura_base"))}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    return folder, logits(model)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = load_file(folder / WEIGHTS)
    change(found)
    save_file(found, folder / WEIGHTS)


@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_an_older_adapter_is_sealed_and_computes_what_it_did(change: str, tmp_path: Path) -> None:
    folder, expected = older(tmp_path / "saved", change=change, inner_r=None, output_bias=True)
    assert not is_sealed(folder)
    seal_folder(folder)
    check_seal(folder)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(folder)).eval()), expected)
    change_weights(folder, lambda found: found["base_model.model.lm_head.weight"].neg_())
    with pytest.raises(ConfigError, match=r"lm_head.weight in the adapter is not what was saved"):
        check_seal(folder)
    with pytest.raises(ConfigError, match=r"lm_head.weight in the adapter is not what was saved"):
        PeftModel.from_pretrained(llama(), str(folder))


def test_a_sealing_that_was_broken_off_between_its_two_files_can_be_done_again(tmp_path: Path) -> None:
    folder, expected = older(tmp_path / "saved")
    config = (folder / CONFIG).read_text()
    seal_folder(folder)
    (folder / CONFIG).write_text(config)
    seal_folder(folder)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(folder)).eval()), expected)
    (folder / CONFIG).write_text(config)
    change_weights(folder, lambda found: found[Q + "change.inner"].neg_())
    with pytest.raises(ConfigError, match="its weights are not those that were sealed"):
        seal_folder(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.pop(Q + "change.outer"), "secura_change.outer is missing, but the settings say"),
        (lambda found: found.update({Q + "change.inner": torch.ones(6, 4)}), "is of rank 6, but the settings say 4"),
        (lambda found: found.update({Q + "more": torch.ones(2)}), r"secura_more is \(2,\), but the settings say none"),
        (lambda found: found.update({"base_model.model.model.norm.weight": torch.ones(2)}), "no tensor of its own"),
        (lambda found: found.update({Q + "folds.0-2:one.core": torch.ones(2, 4, 4)}), r"say \(3, 4, 4\)"),
        (lambda found: found[Q + "columns"].add_(1), "secura_columns is not what adapter_config.json says"),
        (lambda found: found[Q + "fingerprint"].add_(1), "secura_fingerprint is not what adapter_config.json says"),
        (lambda found: found[Q + "scale"].add_(1), "secura_scale is not what adapter_config.json says"),
        (lambda found: found[Q + "change.inner"].fill_(torch.inf), "holds NaN or infinity"),
        (lambda found: [found.pop(key) for key in list(found) if "q_proj" in key], "is in one of its files alone"),
    ],
)
def test_files_that_do_not_agree_are_not_sealed(
    change: Callable[[dict[str, torch.Tensor]], object], says: str, tmp_path: Path
) -> None:
    folder, _ = older(tmp_path / "saved")
    change_weights(folder, change)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=says):
        seal_folder(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
