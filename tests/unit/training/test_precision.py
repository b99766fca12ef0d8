import torch
from transformers.utils import ModelOutput

from bertpress.training import rng
from bertpress.training.precision import autocast, in_float32, resolve_dtype

CPU = torch.device("cpu")


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch):
    for bf16, amx, expected in (
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda bf16=bf16: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16


def test_autocast_changes_products_only():
    x = torch.randn(2, 2)
    with autocast(torch.bfloat16, CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(torch.float32, CPU):
        assert (x @ x).dtype == torch.float32


def test_outputs_become_float32_each_tensor_once():
    shared, ids = torch.randn(3).bfloat16(), torch.arange(3)
    output = in_float32(ModelOutput(logits=shared, captured={"a": (shared, ids)}))
    assert output.logits.dtype == torch.float32
    assert output.captured["a"][0] is output.logits
    assert output.captured["a"][1] is ids
    assert torch.equal(output.logits, shared.float())


def test_every_generator_goes_on_where_it_was():
    import random

    import numpy as np

    def draw():
        return torch.rand(2).tolist(), np.random.randn(3).tolist(), random.random(), random.gauss(0, 1)

    rng.seed_all(7)
    np.random.randn()  # leaves half a pair behind, which belongs to the state
    state = rng.capture()
    first = draw()
    rng.restore(state)
    assert draw() == first
    with rng.preserved():
        inside = draw()
    assert draw() == inside
