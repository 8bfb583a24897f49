from pathlib import Path

import torch
from safetensors.torch import save_file

from secura.training.checkpoint_seal import seal, seal_holds
from secura.training.checkpoints import checkpoints, damaged_checkpoints, last_good_checkpoint


def _checkpoint(folder: Path, step: int, *, value: float = 1.0, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    save_file({"weight": torch.tensor([value])}, path / "adapter_model.safetensors")
    if whole:
        seal(path)
    return path


def test_the_newest_whole_checkpoint_without_nan_is_the_good_one(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 9)
    good = _checkpoint(tmp_path, 10)
    broken = _checkpoint(tmp_path, 20, value=float("nan"))
    _checkpoint(tmp_path, 30, whole=False)
    assert checkpoints(tmp_path)[0] == broken
    assert last_good_checkpoint(tmp_path) == good


def test_a_folder_without_checkpoints_has_no_good_one(tmp_path: Path) -> None:
    assert last_good_checkpoint(tmp_path) is None


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path: Path) -> None:
    good = _checkpoint(tmp_path, 10)
    damaged = _checkpoint(tmp_path, 20)
    content = bytearray((damaged / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "adapter_model.safetensors").write_bytes(bytes(content))
    assert damaged_checkpoints(tmp_path) == [damaged]
    assert last_good_checkpoint(tmp_path) == good


def test_a_seal_covers_the_folders_inside(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, 10, whole=False)
    assert not seal_holds(path)
    (path / "strategy").mkdir()
    (path / "strategy" / "buffer.json").write_text("[]")
    seal(path)
    assert seal_holds(path)
    (path / "strategy" / "buffer.json").unlink()
    assert not seal_holds(path)
