import subprocess
import sys

import pytest

from panoptic_lovasz.files import remove_unfinished, write_atomically


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
