import os
import sys

import pytest

from panoptic_lovasz import process
from panoptic_lovasz.process import prepare_process


@pytest.fixture
def kept(monkeypatch):
    """As before PyTorch is loaded, in an environment without settings; records mallopt's calls."""
    calls = []
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in process._OF_OPENMP | process._OF_MALLOC:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that the fixture's end removes what is set
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr(process, "_keep_freed_memory", lambda: calls.append(True))
    return calls


def test_a_process_gets_both_settings_before_pytorch_is_loaded(kept):
    prepare_process()
    assert os.environ["GOMP_SPINCOUNT"] == "20000" and kept == [True]


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_says_of_openmp_stays(kept, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    prepare_process()
    assert {n: os.environ[n] for n in process._OF_OPENMP if n in os.environ} == {name: "7"}


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_says_of_malloc_stays(kept, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    prepare_process()
    assert kept == []


def test_once_pytorch_is_loaded_nothing_is_set(kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    prepare_process()
    assert "GOMP_SPINCOUNT" not in os.environ and kept == []


def test_without_glibc_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(process.ctypes, "CDLL", None)  # cannot be called
    process._keep_freed_memory()


@pytest.mark.skipif(process.platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_mallopt_accepts_both_parameters(monkeypatch):
    results, library = [], process.ctypes.CDLL(None)

    class Library:
        def mallopt(self, *arguments):
            results.append(library.mallopt(*arguments))

    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: Library())
    process._keep_freed_memory()
    assert results == [1, 1]
