"""A fingerprint of a weight matrix: how an adapter knows the base model it was made for."""

import hashlib

import torch
from torch import Tensor

_DTYPE_CODES = {torch.float64: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4}
FINGERPRINT_LENGTH = 4


def weight_fingerprint(weight: Tensor) -> Tensor:
    """Fingerprint of a weight: its dtype, and digests of it as it is and rounded to 16 bits.

    Args:
        weight: any shape and floating dtype, on any device but meta.

    Returns:
        int64, shape (4,), on the CPU: a code for the dtype, and 64-bit BLAKE2b digests of
        the values as they are, in bfloat16 and in float16. The rounded ones recognise a
        checkpoint that was loaded in another dtype.
    """
    values = weight.detach().to("cpu").contiguous()
    digests = [_digest(rounded) for rounded in (values, values.bfloat16(), values.half())]
    return torch.tensor([_DTYPE_CODES.get(values.dtype, 0), *digests])


def fingerprints_match(stored: Tensor, present: Tensor) -> bool:
    """Whether two fingerprints are of the same weight, exactly or up to the dtype it was loaded in."""
    if stored[0] == present[0]:
        return bool(stored[1] == present[1])
    return bool((stored[2:] == present[2:]).any())


def fingerprint_text(fingerprint: Tensor) -> str:
    """The fingerprint as text, for a JSON file."""
    return " ".join(str(int(part)) for part in fingerprint)


def fingerprint_from_text(text: str) -> Tensor:
    """The inverse of `fingerprint_text`."""
    return torch.tensor([int(part) for part in text.split()])


def _digest(values: Tensor) -> int:
    raw = values.view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)
