"""A fingerprint of a weight matrix: how an adapter knows the base model it was made for.

It holds a code for the weight's dtype, the hash and whether the weight is quantized, and 64-bit digests of
its values as they are, in bfloat16 and in float16. The rounded ones recognise a checkpoint that was loaded
in another dtype, and are computed for that, or to be saved.

The hash is XXH3, which reads at the speed of memory; a fingerprint tells weights apart and is no signature.
Adapters of earlier versions hold BLAKE2b digests, which are compared as such.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
import xxhash
from torch import Tensor

Hash = Literal["xxh3", "blake2b"]

_DTYPE_CODES = {torch.float64: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4}
_OF_XXH3 = 8
"""Added to the code of a dtype where the digests are XXH3's."""
_OF_QUANTIZED = 16
"""Added to the code where the digests are of what a quantized weight was unpacked to."""
_OWN = 1
_ROUNDED = {2: torch.bfloat16, 3: torch.float16}
_PLACES = (_OWN, *_ROUNDED)
"""Where a fingerprint holds the digest of the values as they are, and of the rounded ones."""

WeightReader = Callable[[], AbstractContextManager[Tensor]]
"""Brings a weight in, to be read in a `with` block."""


class WeightDigests:
    """The digests of one weight, each computed when it is first needed.

    Args:
        of: the hash of the fingerprints to be made; a stored one is compared by its own.
        quantized: whether the weight is what a quantized one was unpacked to.
    """

    def __init__(self, of: Hash = "xxh3", *, quantized: bool = False) -> None:
        self._hash: Hash = of
        self._quantized = quantized
        self._code: int | None = None
        self._digests: dict[int, int] = {}

    def match(self, stored: Tensor, read: WeightReader) -> bool:
        """Whether a stored fingerprint is of this weight, exactly or up to the dtype it was loaded in.

        Of a weight in the dtype it was stored in, one digest is computed; where it agrees, the
        rounded ones are taken from `stored`. In another dtype the rounded ones are computed.

        Args:
            stored: int64, shape (4,).
            read: brings in the weight, of any shape and floating dtype, on any device but meta.
        """
        stored_code, *digests = stored.tolist()
        stored_hash: Hash = "xxh3" if stored_code & _OF_XXH3 else "blake2b"
        if stored_hash != self._hash:
            self._hash, self._digests = stored_hash, {}
        code = stored_code & ~_OF_XXH3 & ~_OF_QUANTIZED
        claimed = dict(zip(_PLACES, digests, strict=True))
        if not self._digests.keys() >= self._compared_with(code):
            with read() as weight:
                self._code = _code(weight)
                self._compute(weight, self._compared_with(code))
        agrees = {place for place in self._compared_with(code) if self._digests[place] == claimed[place]}
        if code == self._code and agrees:
            self._digests = claimed
        return bool(agrees)

    def fingerprint(self, read: WeightReader) -> Tensor:
        """All four parts, int64, shape (4,), on the CPU; computed as far as they are not known."""
        if not self._digests.keys() >= set(_PLACES):
            with read() as weight:
                self._code = _code(weight)
                self._compute(weight, set(_PLACES))
        assert self._code is not None
        code = self._code | (_OF_XXH3 if self._hash == "xxh3" else 0) | (_OF_QUANTIZED if self._quantized else 0)
        return torch.tensor([code, *(self._digests[place] for place in _PLACES)])

    def _compared_with(self, code: int) -> set[int]:
        """The places of a fingerprint that tell whether a weight stored in that dtype is this one."""
        return {_OWN} if code == self._code else set(_ROUNDED)

    def _compute(self, weight: Tensor, places: set[int]) -> None:
        if _OWN in places or weight.dtype in _ROUNDED.values():  # rounded to its own dtype, a weight stays as it is
            own = self._digests[_OWN] = self._digests.get(_OWN) or _digest(weight, self._hash)
            self._digests |= {place: own for place, dtype in _ROUNDED.items() if dtype == weight.dtype}
        for place in places - self._digests.keys():
            self._digests[place] = _digest(weight.to(_ROUNDED[place]), self._hash)


def fingerprints_agree(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are of the same weight, exactly or up to the dtype it was loaded in."""
    places = (_OWN,) if one[0] == other[0] else tuple(_ROUNDED)
    return any(bool(one[place] == other[place]) for place in places)


def is_of_quantized(fingerprint: Tensor) -> bool:
    """Whether a fingerprint is of a quantized weight, which nothing compares with the one it was quantized from."""
    return bool(int(fingerprint[0]) & _OF_QUANTIZED)


def fingerprint_text(fingerprint: Tensor) -> str:
    """The fingerprint as text, for a JSON file."""
    return " ".join(str(int(part)) for part in fingerprint)


def fingerprint_from_text(text: str) -> Tensor:
    """The inverse of `fingerprint_text`."""
    return torch.tensor([int(part) for part in text.split()])


def _code(weight: Tensor) -> int:
    return _DTYPE_CODES.get(weight.dtype, 0)


def _digest(weight: Tensor, by: Hash) -> int:
    raw = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    digest = xxhash.xxh3_64_digest(raw) if by == "xxh3" else hashlib.blake2b(raw, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
