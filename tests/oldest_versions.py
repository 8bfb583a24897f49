"""What the oldest versions that secura works with cannot do, whatever secura does (`make test-floor`)."""

import pytest
import torch
import transformers
from packaging.version import Version

OLD_TORCH = Version(torch.__version__) < Version("2.7")

needs_fsdp2_on_a_cpu = pytest.mark.skipif(OLD_TORCH, reason="FSDP2 of torch 2.6 needs a GPU")

needs_a_shared_resume_on_a_cpu = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"),
    reason="the Trainer of this transformers cannot read an optimizer back in several processes on a CPU",
)

LOADS_WHOLE_MODULES = Version(transformers.__version__) >= Version("5.7")
"""Whether `load_adapter` of transformers finds a place for modules that an adapter saves whole."""
