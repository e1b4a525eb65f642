import logging
import sys
from types import ModuleType

import pytest
import torch

from panoptic_lovasz import compiled
from panoptic_lovasz.compiled import compiled_kernels

CPU = torch.device("cpu")
MERGING = "panoptic_lovasz.merging.kernels.merge_{}"


@pytest.fixture(autouse=True)
def _a_new_process():
    def forget():
        for cached in (compiled._import, compiled._works, compiled._warn):
            cached.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="panoptic_lovasz")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def _kernels(monkeypatch):
    """Kernels of a stand-in for Triton, for a device that this machine may lack."""
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "kernels_triton", ModuleType("kernels_triton"))


def test_a_device_gets_the_kernels_of_its_compiler(warnings):
    pytest.importorskip("numba")
    assert compiled_kernels(MERGING, CPU).__name__ == MERGING.format("numba")
    assert warnings() == []


def test_a_missing_compiler_is_told_once_with_its_cost_and_its_remedy(monkeypatch, warnings):
    monkeypatch.setitem(sys.modules, "numba", None)
    for modules in (MERGING, MERGING, "panoptic_lovasz.merging.kernels.paste_{}"):
        assert compiled_kernels(modules, CPU) is None
    [message] = warnings()
    assert "numba" in message and "times the time" in message and "pip install numba" in message


def test_a_device_without_a_compiler_is_told_once(warnings):
    assert compiled_kernels(MERGING, torch.device("mps")) is None
    assert compiled_kernels("other_{}", torch.device("mps")) is None
    [message] = warnings()
    assert "'mps'" in message


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC"), "install gcc"),
        (KeyError("Keyword argument maxnreg was specified but unrecognised"), "report it"),
    ],
)
@pytest.mark.usefixtures("_kernels")
def test_kernels_that_cannot_be_launched_are_told_once_and_not_tried_again(
    error, remedy, monkeypatch, warnings
):
    tried = []

    def check(kernels, device):
        tried.append(kernels.__name__)
        raise error

    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    for _ in range(2):
        assert compiled_kernels("kernels_{}", CPU, check) is None
    assert tried == ["kernels_triton"]
    [message] = warnings()
    assert str(error) in message and remedy in message


@pytest.mark.usefixtures("_kernels")
def test_wrong_kernels_are_told_and_not_used(monkeypatch, warnings):
    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    assert compiled_kernels("kernels_{}", CPU, lambda kernels, device: False) is None
    [message] = warnings()
    assert "kernels_triton give other results" in message


@pytest.mark.usefixtures("_kernels")
def test_on_rocm_the_remedy_is_another_gpu(monkeypatch, warnings):
    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert compiled_kernels("kernels_{}", CPU, lambda kernels, device: False) is None
    assert "ROCm" in warnings()[0]


@pytest.mark.usefixtures("_kernels")
def test_the_check_runs_in_the_plain_state_whatever_the_caller_is_in(monkeypatch):
    state = []

    def check(kernels, device):
        state.extend([torch.is_grad_enabled(), torch.is_inference_mode_enabled()])
        state.append(torch.is_autocast_enabled(device.type))
        return True

    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled_kernels("kernels_{}", CPU, check) is not None
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    assert state == [True, False, False]


@pytest.mark.usefixtures("_kernels")
def test_while_a_graph_is_recorded_nothing_is_checked(monkeypatch):
    checked = []
    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    arguments = "kernels_{}", CPU, lambda *found: checked.append(found) or True
    monkeypatch.setattr(compiled, "_is_recording", lambda device: True)
    assert compiled_kernels(*arguments) is not None and not checked
    monkeypatch.setattr(compiled, "_is_recording", lambda device: False)
    assert compiled_kernels(*arguments) is not None and len(checked) == 1


@pytest.mark.parametrize("is_capturing", [True, False])
def test_a_graph_is_recorded_while_cuda_captures_or_torchscript_traces(is_capturing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: is_capturing)
    assert compiled._is_recording(torch.device("cuda", 0)) is is_capturing
    assert not compiled._is_recording(CPU)
    seen = []
    torch.jit.trace(lambda x: seen.append(compiled._is_recording(CPU)) or x + 1, torch.ones(1))
    assert seen[0] is True


@pytest.mark.usefixtures("_kernels")
def test_the_check_can_be_switched_off_by_an_environment_variable(monkeypatch, warnings):
    monkeypatch.setattr(compiled, "COMPILERS", {"cpu": "triton"})
    monkeypatch.setenv(compiled.CHECK_VARIABLE, "0")
    assert compiled_kernels("kernels_{}", CPU, lambda kernels, device: False) is not None
    assert warnings() == []
