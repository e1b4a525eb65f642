import subprocess
import sys

import pytest

from panoptic_lovasz.files import remove_unfinished, replacing, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "f"
    file.write_text("old")

    def fail(f):
        f.write(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    kill_itself = (
        "import os, signal, sys\n"
        "from panoptic_lovasz.files import remove_unfinished, write_atomically\n"
        "write_atomically(sys.argv[1], lambda f: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    file = tmp_path / "model_0000009.pth"
    file.write_text("of before")
    subprocess.run([sys.executable, "-c", kill_itself, file])
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "name", [f"{'x' * 251}.png", f"{'é' * 125}.png", f"{'x' * 100}.{'y' * 150}", f"x.{'y' * 253}"]
)
def test_a_file_of_the_longest_name_that_the_system_allows_is_written(tmp_path, name):
    file = tmp_path / name
    write_atomically(file, lambda f: f.write(b"picture"))
    assert file.read_bytes() == b"picture"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["a.png", f"{'x' * 251}.png", f"{'x' * 100}.{'y' * 150}"])
def test_an_ordinary_suffix_is_that_of_the_temporary_name_and_any_is_found_as_unfinished(
    tmp_path, name
):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / name) as temporary:
        temporary.touch()
        assert temporary.suffix == ".png" or not name.endswith(".png")
        remove_unfinished(tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 250 + "{}.png", "x." + "y" * 252 + "{}"])
def test_files_whose_long_names_differ_only_at_the_end_are_written_side_by_side(tmp_path, name):
    files = [tmp_path / name.format(i) for i in range(2)]
    with replacing(files[0]) as first, replacing(files[1]) as second:
        first.write_text("0")
        second.write_text("1")
    assert [file.read_text() for file in files] == ["0", "1"]
