"""Weights files that are built to do something else than to hold weights.

The payloads of pickles are tried in tests/checkpoint/test_formats.py.
"""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from payloads import Call

from panoptic_lovasz.checkpoint import read_weights
from panoptic_lovasz.checkpoint.archive import _check_version
from panoptic_lovasz.errors import CheckpointError

pytestmark = pytest.mark.attack


@pytest.fixture
def sound(tmp_path):
    """What torch.save wrote, by member."""
    file = tmp_path / "sound.pth"
    torch.save({"model": {"w": torch.arange(6.0), "b": torch.ones(2, dtype=torch.half)}}, file)
    with zipfile.ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(file, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def test_the_members_as_they_are_can_be_read(sound, tmp_path):
    read = read_weights(write(tmp_path / "again.pth", sound.items()))
    assert torch.equal(read["model"]["w"], torch.arange(6.0))


def test_torchscript_is_refused(tmp_path):
    file = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(file))
    with pytest.raises(CheckpointError, match=r"script\.pt were not loaded: it is TorchScript"):
        read_weights(file)


@pytest.mark.parametrize("name", ["constants.pkl", "code/__torch__.py"])
def test_what_would_make_pytorch_take_it_for_torchscript_is_refused(sound, tmp_path, name):
    marker = tmp_path / "ran"
    payload = pickle.dumps(Call(os.system, f"touch {marker}"))
    members = [*sound.items(), (f"sound/{name}", payload)]
    with pytest.raises(CheckpointError, match="it is TorchScript"):
        read_weights(write(tmp_path / "x.pth", members))
    assert not marker.exists()


def test_a_tar_archive_is_refused_and_its_pickle_does_not_run(tmp_path):
    file, marker = tmp_path / "old.pth", tmp_path / "ran"
    payload = pickle.dumps(Call(os.system, f"touch {marker}"), protocol=2)
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    with pytest.raises(CheckpointError, match="it is a tar archive"):
        read_weights(file)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_pickle_of_the_same_name_is_refused(sound, tmp_path):
    marker = tmp_path / "ran"
    payload = pickle.dumps({"model": Call(os.system, f"touch {marker}")}, protocol=2)
    for members in (
        [*sound.items(), ("sound/data.pkl", payload)],
        [("other/data.pkl", payload), *sound.items()],
    ):
        with pytest.raises(CheckpointError, match="two of its members have the same name"):
            read_weights(write(tmp_path / "x.pth", members))
    assert not marker.exists()


def test_members_that_would_expand_are_refused(sound, tmp_path):
    bomb = [*sound.items(), ("sound/data/99", bytes(2**22))]
    file = write(tmp_path / "bomb.pth", bomb, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 2**14
    with pytest.raises(CheckpointError, match="its members are compressed"):
        read_weights(file)


def test_members_that_share_their_bytes_are_refused(sound, tmp_path):
    file = write(tmp_path / "x.pth", [*sound.items(), ("sound/data/99", bytes(2**16))])
    with zipfile.ZipFile(file, "a") as archive:
        (info,) = [i for i in archive.infolist() if i.filename.endswith("data/99")]
        for n in range(100, 200):  # entries of the directory that all point at one member
            again = zipfile.ZipInfo(f"sound/data/{n}")
            again.header_offset, again.CRC = info.header_offset, info.CRC
            again.file_size = again.compress_size = info.file_size
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(CheckpointError, match="its members are larger than the file"):
        read_weights(file)


def test_tensors_that_have_more_than_the_file_are_refused(sound, tmp_path):
    short = {**sound, "sound/data/0": sound["sound/data/0"][:8]}
    with pytest.raises(CheckpointError, match="tensor data 0 shall have 24 bytes and has 8"):
        read_weights(write(tmp_path / "x.pth", short.items()))
    short = {name: content for name, content in sound.items() if name != "sound/data/1"}
    with pytest.raises(CheckpointError, match="and has 0"):
        read_weights(write(tmp_path / "y.pth", short.items()))


def test_a_tensor_that_repeats_one_number_without_end_is_refused(tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(1).expand(10**6, 10**6)}}, file)
    with pytest.raises(CheckpointError, match=r"a tensor of \(1000000, 1000000\) repeats"):
        read_weights(file)
    torch.save({"model": [torch.zeros(1000)[:] for _ in range(1)] * 9}, file)
    read_weights(file)  # one tensor, named nine times


def test_many_views_of_the_same_numbers_are_refused(tmp_path):
    numbers = torch.zeros(10**5)
    torch.save([numbers[:] for _ in range(10)], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="4000000 bytes of tensors in"):
        read_weights(tmp_path / "x.pth")


def test_a_sparse_tensor_is_refused(tmp_path):
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="has the layout"):
        read_weights(tmp_path / "x.pth")


def test_an_array_of_memory_that_the_file_does_not_have_is_refused(tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps({"model": {"w": Call(np.ndarray, (10**9,))}}))
    with pytest.raises(CheckpointError, match=r"x\.pkl were not loaded: 8000000000 bytes"):
        read_weights(file)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_every_torn_or_padded_archive_is_one_error(sound, tmp_path, cut):
    content = write(tmp_path / "x.pth", sound.items()).read_bytes()
    for damaged in (content[:-cut], content[cut:], content[: len(content) // (cut + 1)]):
        (tmp_path / "y.pth").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"y\.pth"):
            read_weights(tmp_path / "y.pth")


def test_an_old_pytorch_reads_no_pth_and_one_with_a_known_hole_warns_once(caplog):
    version = torch.torch_version.TorchVersion
    _check_version.cache_clear()
    with pytest.raises(CheckpointError, match=r"PyTorch 2\.5\.1 can be made to run code.*2\.6"):
        _check_version(version("2.5.1"))
    for _ in range(2):
        _check_version(version("2.9.1"))
        _check_version(version("2.10.0"))
    (message,) = caplog.messages
    assert "2.9.1" in message and ".safetensors" in message
