"""The processes of one run: started by torchrun or `accelerate launch`, they share every batch.

Each process carries out the same program. The main one, of rank 0, writes every file and says
everything; the others wait for it where they must. A run of one process needs none of this,
and every function here then answers at once.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

from secura.errors import SecuraError

Result = TypeVar("Result")
Sharding = Literal["none", "fsdp1", "fsdp2", "zero1", "zero2", "zero3"]

_PATIENCE = timedelta(days=7)
"""How long one process may do something alone, such as asking a model its questions."""
_UNTIL_THE_LAST_ERROR = timedelta(seconds=10)
"""How long an error waits for the same error of the other processes."""

_UNTIL_THREADS_ARE_DONE = 0.1
"""In seconds. A thread of torch that cleans up after the last exchange may need the interpreter, which torch 2.6 holds
while it waits for that thread to end: without a pause some programs never ended."""

_groups: dict[str, Any] = {}
"""Two groups of all processes over CPU memory, once `join_processes` has made them."""


def join_processes() -> None:
    """Meet the processes that were launched together with this one; nothing where there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _groups:
        return
    if computes_on_cpu() and sharding().startswith("zero"):
        # With cpu=True accelerate would pass DeepSpeed over without a word.
        PartialState(backend="gloo")
    else:
        PartialState(cpu=computes_on_cpu())
    _groups["patient"] = dist.new_group(backend="gloo", timeout=_PATIENCE)
    _groups["hasty"] = dist.new_group(backend="gloo", timeout=_UNTIL_THE_LAST_ERROR)


def leave_processes() -> None:
    """Part from the other processes at the end of the program."""
    if _groups:
        _groups.clear()
        time.sleep(_UNTIL_THREADS_ARE_DONE)
        dist.destroy_process_group()


def has_joined() -> bool:
    """Whether this process has met the others."""
    return bool(_groups)


def computes_on_cpu() -> bool:
    """Whether launched processes compute on the CPU: for want of a GPU, or as accelerate was told."""
    return not torch.cuda.is_available() or _is_set("ACCELERATE_USE_CPU")


def process_count() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if _groups else 1


def process_index() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _groups else 0


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return process_index() == 0


def sharding() -> Sharding:
    """How the launcher asked for weights to be divided among the processes."""
    if _is_set("ACCELERATE_USE_FSDP"):
        return "fsdp2" if os.environ.get("FSDP_VERSION", "1") == "2" else "fsdp1"
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        stage = _zero_stage()
        return "none" if stage == 0 else f"zero{stage}"  # type: ignore[return-value]  # 1, 2 or 3
    return "none"


def divides_weights() -> bool:
    """Whether a process holds a part of each weight only, while it trains."""
    return process_count() > 1 and sharding() in ("fsdp2", "zero3")


def wait_for_everyone() -> None:
    """Go on once every process has come this far."""
    if _groups:
        dist.barrier(group=_groups["patient"])


def gather_from_everyone(value: Result) -> list[Result]:
    """What every process holds, in their order, given to each of them."""
    if not _groups:
        return [value]
    gathered: list[Any] = [None] * process_count()
    dist.all_gather_object(gathered, value, group=_groups["patient"])
    return gathered


def from_main_process(compute: Callable[[], Result]) -> Result:
    """What the main process computes, given to all; the others wait, and fail as it fails."""
    if not _groups:
        return compute()
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome = [compute(), None]
        except Exception as problem:
            outcome = [None, _told(problem)]
            dist.broadcast_object_list(outcome, src=0, group=_groups["patient"])
            raise
    dist.broadcast_object_list(outcome, src=0, group=_groups["patient"])
    result, problem = outcome
    if problem is not None:
        raise problem
    return result


def errors_of_everyone(own: str) -> list[str] | None:
    """The errors of all processes, in their order; None where another is not failing too."""
    if not _groups:
        return [own]
    gathered: list[Any] = [None] * process_count()
    try:
        dist.all_gather_object(gathered, own, group=_groups["hasty"])
    except RuntimeError:  # gloo's way to say that time is up, or that another process is gone
        return None
    return gathered


def _told(problem: Exception) -> Exception:
    """The error as the other processes raise it; they may not know its class's arguments."""
    if isinstance(problem, SecuraError):
        return problem
    return RuntimeError(f"{type(problem).__name__}: {problem}")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "on")


def _zero_stage() -> int:
    own_file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if own_file is not None:
        settings = json.loads(Path(own_file).read_text(encoding="utf-8"))
        return int(settings.get("zero_optimization", {}).get("stage", 0))
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))  # accelerate's own default


def let_fsdp_shard_on_cpu() -> None:
    """Have accelerate's FSDP2 work between processes on CPUs.

    accelerate 1.15 turns FSDP on for GPUs and their like only, and would train whole copies
    on CPUs without a word. PyTorch's `fully_shard` itself works there over gloo.
    """
    state = PartialState()
    if sharding() == "fsdp2" and state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
