"""Hyena's official numbers, given again: operators, language models, HyenaDNA, convolutions; values and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad import from_official
from subquad.evaluation.flops import count_parameters
from subquad.interop.hyena import Backbone, OfficialLM, OfficialOperator
from subquad.interop.official import official_module
from subquad.layers.hyena import Hyena
from subquad.ops.long_conv import long_conv
from tests.interop.golden import ABSENT, FOLDER, Golden, cases, full_size

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT)

KIND_OF = {
    "standalone_hyena.HyenaOperator": "hyena-operator-standalone",
    "src.models.sequence.hyena.HyenaOperator": "hyena-operator",
    "src.models.sequence.simple_lm.SimpleLMHeadModel": "hyena-lm",
    "src.models.sequence.long_conv_lm.ConvLMHeadModel": "hyena-lm",
    "standalone_hyenadna.HyenaDNAModel": "hyena-dna",
}
REFUSED = "hyena_op_src_postffn_gelu"
OPERATORS, MODELS = cases("hyena_op_*", (REFUSED,)), cases("hyena_lm_*") + cases("hyenadna_*")
CONVOLUTIONS = cases("fftconv_*")


def kind_of(golden: Golden) -> str:
    return KIND_OF[golden.about["official_symbol"]]


@contextmanager
def outputs_of(**modules: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What modules give while it is open."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        return modules[name].register_forward_hook(lambda module, args, output: seen.__setitem__(name, output))

    handles = [keep(name) for name in modules]
    yield seen
    for handle in handles:
        handle.remove()  # type: ignore[attr-defined]
