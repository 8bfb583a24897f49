import pytest
import torch

from secura.training.memory import is_out_of_memory, out_of_memory_sentence

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is "
    "free. Process 7 has 77.84 GiB memory in use. Of the allocated memory 70.00 GiB is allocated by PyTorch. If "
    "reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True"
)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 68719476736 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(problem: BaseException, expected: bool) -> None:
    assert is_out_of_memory(problem) == expected


def test_an_allocation_that_cannot_be_made_on_this_machine_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (
            torch.OutOfMemoryError(OF_CUDA),
            "GPU memory ran out when 2.50 GiB more were asked for, of 79.10 GiB in all; ",
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 68719476736 bytes."),
            "main memory ran out when 68.7 GB more were asked for; ",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "GPU memory ran out; ",
        ),
        (MemoryError(), "main memory ran out; "),
    ],
)
def test_one_sentence_says_what_ran_out_how_much_was_asked_for_and_the_way_out(
    problem: BaseException, says: str
) -> None:
    said = out_of_memory_sentence(problem)
    assert said is not None
    assert said.startswith(says)
    assert "training.batch_size" in said
    assert "gradient_checkpointing" in said
    assert "ALLOC" not in said


def test_an_allocation_that_cannot_be_made_is_said_with_its_size() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    said = out_of_memory_sentence(raised.value)
    assert said is not None
    assert said.startswith("main memory ran out when 1,152,921,504.6 GB more were asked for; ")


def test_another_error_is_not_said_as_one_of_memory() -> None:
    assert out_of_memory_sentence(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
