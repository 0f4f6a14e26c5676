"""Self-attention: what each way computes, and which one is chosen for which device."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.pipeline.dit.self_attend import (
    FASTEST_FIRST,
    FLASH_ATTENTION_3,
    FlashAttention3,
    OrderedTorchAttention,
    TorchAttention,
    choose_self_attend,
)
from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.precision import Precision

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
HOPPER, ADA, BLACKWELL = (9, 0), (8, 9), (10, 0)


def _softmax_attention(q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
    q_ShK, k_GhK, v_GhK = (x.double() for x in (q_ShK, k_GhK, v_GhK))
    scores_hSG = torch.einsum("shk,ghk->hsg", q_ShK, k_GhK) / q_ShK.shape[-1] ** 0.5
    return torch.einsum("hsg,ghk->shk", scores_hSG.softmax(-1), v_GhK)


def _inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and keys and values as they lie in a cache with more layers and slots."""
    draw = torch.Generator().manual_seed(5)
    q_ShK = torch.randn(7, 3, 16, generator=draw, dtype=torch.float64)
    cache_2NGhK = torch.randn(2, 2, 19, 3, 16, generator=draw, dtype=torch.float64)
    q_ShK, cache_2NGhK = q_ShK.to(dtype), cache_2NGhK.to(dtype)
    return q_ShK, cache_2NGhK[0, 1, :11], cache_2NGhK[1, 1, :11]


@dataclass
class _Recorder:
    """Stands in for FlashAttention 3, which has no form for a processor: the same function by plain means."""

    calls: list[tuple[tuple[Tensor, ...], dict[str, object]]] = field(default_factory=list)

    def __call__(self, *tensors: Tensor, **options: object) -> Tensor:
        self.calls.append((tensors, options))
        return _softmax_attention(*(x[0] for x in tensors))[None]


@pytest.fixture
def flash_attention_3(monkeypatch: pytest.MonkeyPatch) -> _Recorder:
    recorder = _Recorder()
    module = ModuleType(FLASH_ATTENTION_3)
    module.flash_attn_func = recorder
    monkeypatch.setitem(sys.modules, FLASH_ATTENTION_3, module)
    return recorder


@pytest.fixture
def without_flash_attention_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, FLASH_ATTENTION_3, None)  # an import fails as for a module that is not there


def _gpu_is(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize("attend", [TorchAttention(), OrderedTorchAttention()], ids=lambda attend: attend.name)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_torch_attention_is_the_softmax_of_the_scaled_products(
    attend: TorchAttention, dtype: torch.dtype, limit: float
) -> None:
    q_ShK, k_GhK, v_GhK = _inputs(dtype)
    o_ShK = attend(q_ShK, k_GhK, v_GhK)
    expected = _softmax_attention(q_ShK, k_GhK, v_GhK)
    assert (o_ShK.double() - expected).norm() < limit * expected.norm()
    assert o_ShK.dtype is dtype


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_rows_come_out_contiguous_whichever_kernel_torch_picks(backend: SDPBackend) -> None:
    with sdpa_kernel(backend):
        assert TorchAttention()(*_inputs(torch.float32)).is_contiguous()


def test_cudnn_is_asked_first_and_the_order_of_others_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = torch._C._get_sdp_priority_order(), []
    attend = functional.scaled_dot_product_attention

    def observed(*tensors: Tensor) -> Tensor:
        during.append(torch._C._get_sdp_priority_order())
        return attend(*tensors)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", observed)
    OrderedTorchAttention()(*_inputs(torch.float32))
    assert during[0][: len(FASTEST_FIRST)] == [int(backend) for backend in FASTEST_FIRST]
    assert torch._C._get_sdp_priority_order() == before


@pytest.mark.parametrize("precision", Precision)
def test_flash_attention_3_is_used_on_hopper_where_it_is_installed(
    precision: Precision, flash_attention_3: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpu_is(HOPPER, monkeypatch)
    attend = choose_self_attend(GPU, precision)
    q_ShK, k_GhK, v_GhK = _inputs(torch.float64)
    assert torch.equal(attend(q_ShK, k_GhK, v_GhK), _softmax_attention(q_ShK, k_GhK, v_GhK))
    ((tensors, options),) = flash_attention_3.calls
    for given, x in zip(tensors, (q_ShK, k_GhK, v_GhK), strict=True):
        assert given.shape == (1, *x.shape)
        assert given.data_ptr() == x.data_ptr(), "copied"
    assert options == {"softmax_scale": 0.25, "causal": False}


def test_an_earlier_flash_attention_3_returns_its_sums_as_well() -> None:
    q_ShK, k_GhK, v_GhK = _inputs(torch.float64)
    recorder = _Recorder()
    attend = FlashAttention3(lambda *tensors, **options: (recorder(*tensors, **options), torch.zeros(1)))
    assert torch.equal(attend(q_ShK, k_GhK, v_GhK), _softmax_attention(q_ShK, k_GhK, v_GhK))


@pytest.mark.parametrize("capability", [ADA, BLACKWELL])
def test_gpus_that_flash_attention_3_is_not_for_use_torch(
    capability: tuple[int, int], flash_attention_3: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpu_is(capability, monkeypatch)
    assert type(choose_self_attend(GPU, Precision.FULL)) is OrderedTorchAttention


@pytest.mark.usefixtures("without_flash_attention_3")
def test_hopper_without_flash_attention_3_uses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu_is(HOPPER, monkeypatch)
    assert type(choose_self_attend(GPU, Precision.FP8)) is OrderedTorchAttention


def test_a_processor_leaves_the_choice_to_torch(flash_attention_3: _Recorder) -> None:
    assert type(choose_self_attend(CPU, Precision.FULL)) is TorchAttention


@pytest.mark.usefixtures("without_flash_attention_3")
def test_8_bit_attention_says_what_to_install_where_nothing_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu_is(HOPPER, monkeypatch)
    with pytest.raises(UnusablePrecision, match=f"module {FLASH_ATTENTION_3}; or use fp8$"):
        choose_self_attend(GPU, Precision.FP8_ATTENTION)


def test_8_bit_attention_is_refused_where_flash_attention_3_is_not_for_the_gpu(
    flash_attention_3: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpu_is(ADA, monkeypatch)
    with pytest.raises(UnusablePrecision, match="Hopper"):
        choose_self_attend(GPU, Precision.FP8_ATTENTION)


@pytest.mark.parametrize(
    "source", ["import a_part_that_is_missing", "raise OSError('undefined symbol')", "flash_attn_func_of_2 = None"]
)
def test_a_broken_flash_attention_3_is_not_passed_over(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{FLASH_ATTENTION_3}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, FLASH_ATTENTION_3, ModuleType("any"))  # so that what is loaded here is undone
    del sys.modules[FLASH_ATTENTION_3]
    _gpu_is(HOPPER, monkeypatch)
    with pytest.raises(UnusablePrecision, match="cannot be loaded"):
        choose_self_attend(GPU, Precision.FULL)
