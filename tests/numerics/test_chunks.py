import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close

from secura.numerics.chunks import over_chunks, positions_at_once
from secura.numerics.divergence import divergence, divergence_from_likeliest, likeliest

POSITIONS, WIDTH, VOCABULARY = 33, 17, 53


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((POSITIONS, WIDTH), (VOCABULARY, WIDTH), (POSITIONS, VOCABULARY))
    hidden, head, teacher = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return hidden.requires_grad_(), head.requires_grad_(), teacher


@pytest.mark.parametrize("positions", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("head_is_trained", [True, False])
def test_chunks_give_the_values_and_gradients_of_the_whole(positions: int, head_is_trained: bool) -> None:
    hidden, head, teacher = drawn()
    upstream = torch.linspace(-1, 2, POSITIONS, dtype=torch.float64)

    def measure(part: Tensor, wanted: Tensor) -> Tensor:
        return divergence(wanted, part @ head.T)

    whole = measure(hidden, teacher)
    parts = over_chunks(measure, hidden, teacher, positions=positions, head_is_trained=head_is_trained)
    assert_close(parts, whole)
    trained = [hidden, head] if head_is_trained else [hidden]
    assert_close(grad(parts @ upstream, trained), grad(whole @ upstream, trained))


@pytest.mark.parametrize("head_is_trained", [True, False])
def test_no_tensor_is_larger_than_a_chunk_times_the_vocabulary(head_is_trained: bool) -> None:
    positions, vocabulary = 4, 1000
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, 3, generator=draw).requires_grad_()
    head = torch.randn(vocabulary, 3, generator=draw).requires_grad_()
    kept = likeliest(torch.randn(POSITIONS, vocabulary, generator=draw), 5)

    def measure(part: Tensor, *known: Tensor) -> Tensor:
        return divergence_from_likeliest(*known, part @ head.T)

    with LargestTensor() as seen:
        over_chunks(measure, hidden, *kept, positions=positions, head_is_trained=head_is_trained).mean().backward()
    assert hidden.grad is not None
    assert (head.grad is not None) == head_is_trained
    assert positions * vocabulary <= seen.elements < 2 * positions * vocabulary


def test_nothing_is_kept_for_a_backward_pass_that_nobody_wants() -> None:
    hidden, head, teacher = drawn()
    with torch.no_grad():
        found = over_chunks(
            lambda part, wanted: divergence(wanted, part @ head.T), hidden, teacher, positions=4, head_is_trained=True
        )
    assert not found.requires_grad
    assert_close(found, divergence(teacher, hidden @ head.T).detach())


def test_no_position_is_a_sum_of_zero_with_a_gradient() -> None:
    hidden, head, teacher = drawn()
    for trained in (True, False):
        none = over_chunks(
            lambda part, wanted: divergence(wanted, part @ head.T),
            hidden[:0],
            teacher[:0],
            positions=4,
            head_is_trained=trained,
        )
        assert none.shape == (0,)
        none.sum().backward()


def test_fewer_positions_go_together_the_larger_the_vocabulary() -> None:
    assert positions_at_once(2**30) == 1
    assert positions_at_once(49_152) == 341
    hidden, _, _ = drawn()
    with pytest.raises(ValueError, match="positions is 0"):
        over_chunks(lambda part: part.sum(1), hidden, positions=0, head_is_trained=False)
