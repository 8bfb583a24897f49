import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launched_processes
import pytest
import torch
import torch.distributed as dist
from oldest_versions import needs_fsdp2_on_a_cpu
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from secura.adapters.sharding import gathered, is_sharded, own_part, shard_like, whole, whole_shape

PROGRAM = Path(__file__).with_name("divided_base.py")


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one process, whose DTensors are whole in truth but not by their type."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_divided_tensor_is_gathered_and_divided_again() -> None:
    values = torch.arange(15.0).reshape(5, 3)
    divided = distribute_tensor(values, init_device_mesh("cpu", (1,)), [Shard(0)])
    assert is_sharded(divided)
    assert not is_sharded(values)
    for tensor in (divided, values):
        assert type(whole(tensor)) is torch.Tensor
        assert torch.equal(whole(tensor), values)
        assert torch.equal(own_part(tensor), values)
        assert whole_shape(tensor) == (5, 3)
        with gathered(tensor) as tensor_whole:
            assert torch.equal(tensor_whole, values)
    divided += shard_like(values, divided)
    assert torch.equal(whole(divided), 2 * values)


@needs_fsdp2_on_a_cpu
@pytest.mark.usefixtures("one_process")
def test_an_adapter_on_a_divided_base_is_the_one_on_a_whole_base() -> None:
    _check(_program().attached())


@needs_fsdp2_on_a_cpu
@pytest.mark.slow
def test_two_processes_gather_one_weight_at_a_time_and_choose_as_one_does(tmp_path: Path) -> None:
    ended = launched_processes.run([str(PROGRAM), str(tmp_path / "found.json")])
    assert [each.code for each in ended] == [0, 0], ended[0].errors + ended[1].errors
    _check(json.loads((tmp_path / "found.json").read_text()))


def _check(found: dict[str, Any]) -> None:
    assert found["sharded"]
    assert found["gathered"] >= 4  # q and v of two blocks
    assert found["most_at_once"] == 1
    assert found["same_indices"]
    assert found["same_fingerprints"]
    assert found["logits_apart"] < 1e-5
    assert found["folded_logits_apart"] < 1e-5
    assert "divided among processes" in found["merge"]


def _program() -> Any:
    spec = importlib.util.spec_from_file_location("divided_base", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program
