import errno
import io

import pytest
import torch

from bertpress.errors import BertpressError, MachineError
from bertpress.training import checkpoint
from bertpress.training.checkpoint import Checkpoints


def content(step):
    return {"step": step, "weights": torch.arange(1000.0) * step, "rest": ["a", (1, 2.5), None, {"b": True}]}


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2, 30):
        store.save(step, content(step))
    found = store.latest()
    assert found["step"] == 30
    assert torch.equal(found["weights"], torch.arange(1000.0) * 30)
    assert found["rest"] == ["a", (1, 2.5), None, {"b": True}]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("harm", ["truncated", "flipped", "emptied", "other"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, harm):
    store = Checkpoints(tmp_path)
    store.save(1, content(1))
    store.save(2, content(2))
    path = max(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    if harm == "truncated":
        data = data[: len(data) // 2]
    elif harm == "flipped":
        data[data.find(torch.tensor([2.0, 4.0, 6.0]).numpy().tobytes()) + 5] ^= 1
    elif harm == "emptied":
        data = bytearray()
    else:
        torch.save({"format": 0}, buffer := io.BytesIO())
        data = buffer.getvalue()
    path.write_bytes(data)
    assert store.latest()["step"] == 1


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "evil": Checkpoints(tmp_path)}, tmp_path / "checkpoint-000000001.pt")
    with pytest.raises(BertpressError, match="not a readable checkpoint"):
        checkpoint.read(tmp_path / "checkpoint-000000001.pt")
    assert Checkpoints(tmp_path).latest() is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_names_path_and_free_bytes_and_keeps_the_last(tmp_path, monkeypatch, code):
    store = Checkpoints(tmp_path)
    store.save(1, content(1))

    def full(handle):
        raise OSError(code, "it cannot be")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    reason = "no space left.*bytes free" if code == errno.ENOSPC else "cannot be written"
    with pytest.raises(MachineError, match=f"checkpoint-000000002.pt: {reason}"):
        store.save(2, content(2))
    assert store.latest()["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_inside_the_writer_of_torch_is_recognised(tmp_path):
    class Full(io.RawIOBase):
        def write(self, data):
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(MachineError, match="no space left"):
        checkpoint.write_atomically(tmp_path / "x.pt", lambda file: torch.save(content(1), Full()))


def test_done_ends_the_checkpoints_and_clear_forgets_everything(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, content(1))
    store.save_best(content(1))
    store.save_done(content(2))
    assert [path.name for path in tmp_path.iterdir()] == ["done.pt"]
    assert store.done()["step"] == 2
    (tmp_path / ".done.pt.77.partial").write_bytes(b"half")
    store.clear()
    assert not list(tmp_path.iterdir())
    assert store.done() is None
