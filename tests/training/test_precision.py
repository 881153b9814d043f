"""In which precision encoders are trained where nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.precision import fastest_precision, forward_in


def test_it_is_decided_by_the_processor_not_by_the_clock(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx2 avx512f avx512_bf16 amx_tile\n")
    assert fastest_precision("cpu", info) == "bf16"
    info.write_text("flags : fpu avx2 avx512f\n")
    assert fastest_precision("cpu", info) == "fp32"
    assert fastest_precision("cpu", tmp_path / "none") == "fp32"
    assert fastest_precision("cuda:1", tmp_path / "none") == "bf16"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_forward_pass_is_computed_in_it(device: str | torch.device) -> None:
    layer, x = torch.nn.Linear(3, 2), torch.zeros(1, 3)
    with forward_in("bf16", device):
        assert layer(x).dtype == torch.bfloat16
    with forward_in("fp32", device):
        assert layer(x).dtype == torch.float32
