"""Attaches an adapter to a base that FSDP2 has already divided: a program for tests.

Started in however many processes; the main one writes what it found as JSON to the file named.
"""

import json
import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from adapted_models import llama, llama_config, moved, secura_layers, tokens
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from secura import MergeError, fold
from secura.adapters.sharding import is_sharded


def main() -> None:
    dist.init_process_group("gloo")
    found = attached()
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()


def attached() -> dict[str, object]:
    """What differs between an adapter on a divided base and the same on a whole one."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    base = llama()
    for block in base.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(base, mesh=mesh)
    gathered: list[weakref.ref[torch.Tensor]] = []
    most_at_once = 0
    gather = DTensor.full_tensor

    def watched(tensor: DTensor, **settings: object) -> torch.Tensor:
        nonlocal most_at_once
        whole = gather(tensor, **settings)  # type: ignore[arg-type]
        gathered.append(weakref.ref(whole))
        most_at_once = max(most_at_once, sum(one() is not None for one in gathered))
        return whole

    DTensor.full_tensor = watched  # type: ignore[method-assign]
    try:
        divided = moved(get_peft_model(base, llama_config()))
    finally:
        DTensor.full_tensor = gather  # type: ignore[method-assign]
    whole = moved(get_peft_model(llama(), llama_config()))
    pairs = list(zip(secura_layers(divided), secura_layers(whole), strict=True))
    found = {
        "sharded": all(is_sharded(layer._linear.weight) for layer, _ in pairs),
        "gathered": len(gathered),
        "most_at_once": most_at_once,
        "same_indices": all(
            torch.equal(one.secura_columns["default"], other.secura_columns["default"])
            and torch.equal(one.secura_rows["default"], other.secura_rows["default"])
            for one, other in pairs
        ),
        "same_fingerprints": all(torch.equal(one.fingerprint(), other.fingerprint()) for one, other in pairs),
    }
    found["logits_apart"] = _apart(divided, whole)
    for model in (divided, whole):
        fold(model, "task")
    found["folded_logits_apart"] = _apart(divided, whole)
    try:
        divided.merge_adapter()
    except MergeError as problem:
        found["merge"] = str(problem)
    return found


def _apart(divided: torch.nn.Module, whole: torch.nn.Module) -> float:
    with torch.no_grad():
        return float((divided(tokens()).logits - whole(tokens()).logits).abs().max())


if __name__ == "__main__":
    main()
