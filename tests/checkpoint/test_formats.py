"""Weights files of every format, sound, damaged and malicious."""

import os
import pickle

import numpy as np
import pytest
import torch
from payloads import Call, SetState, payloads, write_payload
from safetensors.torch import save_file

from panoptic_lovasz.checkpoint import read_weights
from panoptic_lovasz.errors import CheckpointError

NAMES = sorted(payloads("x"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_any_type_are_read_without_a_warning(tmp_path, dtype, recwarn):
    tensor = torch.arange(3).to(dtype)
    torch.save({"model": {"x": tensor}}, tmp_path / "sound.pth")
    assert torch.equal(read_weights(tmp_path / "sound.pth")["model"]["x"], tensor)
    assert not recwarn.list


@pytest.mark.attack
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt"])
@pytest.mark.parametrize("name", NAMES)
def test_a_payload_is_refused_and_does_not_run(tmp_path, name, suffix):
    marker, file = tmp_path / "ran", tmp_path / f"evil{suffix}"
    write_payload(file, name, marker)
    with pytest.raises(CheckpointError, match=rf"evil\{suffix}"):
        read_weights(file)
    assert not list(tmp_path.glob("ran*"))


@pytest.mark.attack
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_old_torch_format_with_a_payload_is_refused(tmp_path, protocol):
    marker, file = tmp_path / "ran", tmp_path / "old.pth"
    payload = {"model": Call(os.system, f"touch {marker}")}
    torch.save(
        payload, file, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=False
    )
    with pytest.raises(CheckpointError, match="were not loaded"):
        read_weights(file)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_the_flag_loads_what_the_user_trusts(tmp_path, suffix):
    file = tmp_path / f"trusted{suffix}"
    content = {"model": SetState(3)}
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match="TRUST_WEIGHTS"):
        read_weights(file)
    assert read_weights(file, trusted=True)["model"].call == 3


@pytest.mark.parametrize("protocol", range(6))
def test_a_model_zoo_pickle_of_arrays_is_read_under_every_protocol(tmp_path, protocol):
    content = {
        "model": {
            "w": np.arange(6, dtype=np.float32).reshape(2, 3),
            "half": np.ones(2, np.float16),
            "steps": np.int64(7),
        },
        "__author__": "Detectron2 Model Zoo",
        "list": [1, (2.5, None), True],
    }
    file = tmp_path / "zoo.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = read_weights(file)
    np.testing.assert_array_equal(loaded["model"]["w"], content["model"]["w"])
    assert loaded["model"]["half"].dtype == np.float16 and loaded["model"]["steps"] == 7
    assert loaded["list"] == content["list"]


def test_a_pickle_written_by_python_2_is_read(tmp_path):
    # {'w': 'abc\xe9'} and a byte-string array, protocol 2, as Caffe2's blobs were written
    file = tmp_path / "blobs.pkl"
    file.write_bytes(b"\x80\x02}q\x00U\x01wq\x01U\x04abc\xe9q\x02s.")
    assert read_weights(file) == {"w": "abcé"}


def test_safetensors_are_read(tmp_path):
    weights = {"w": torch.arange(4.0)}
    save_file(weights, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["w"], weights["w"])


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 torn", b"\x80\x02}"])
def test_a_damaged_file_ends_in_an_error_that_names_it(tmp_path, suffix, content):
    file = tmp_path / f"damaged{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"damaged\{suffix}"):
        read_weights(file)


def test_a_file_of_another_kind_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.onnx: expected a file \.safetensors, \.pkl"):
        read_weights(tmp_path / "w.onnx")
