"""Pruning, distillation and quantization in one stage: zeros of a mask stay zeros, in the file too."""

from typing import ClassVar

import pytest
from torch import nn

from bertpress import artifact
from bertpress.encoder.transforms import put
from bertpress.methods.base import Method
from bertpress.methods.registry import find
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.training import TrainSettings

KEEP = 0.5
TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


class Fixed(nn.Module):
    """A mask that does not move."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("kept", weight.detach().abs() > weight.detach().abs().median())

    def forward(self, weight):
        return weight * self.kept


class Mask(Method):
    """Keep the larger half of every matrix."""

    cite: ClassVar[str] = "a test"

    def attach(self, model, ctx):
        for name in find("quantize/qat")().matrices(model):
            put(model, name, Fixed(model.get_parameter(name)))
        return model


@pytest.mark.parametrize(
    "name", ["quantize/qat", "quantize/qbert", "quantize/fixed_point", "quantize/ternary", "quantize/adaptivfloat"]
)
def test_a_mask_a_teacher_and_a_quantizer_in_one_stage(name, bench, tmp_path):
    options = {"quantize/adaptivfloat": {"qat": True}, "quantize/qbert": {"low_bits": None, "groups": 4}}
    quantizer = find(name)(**options.get(name, {}))
    use = [("test/mask", Mask()), (name, quantizer)]
    if not quantizer.supervises:
        use.append(("distill/logits", find("distill/logits")()))
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    shared = Run(folder, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher)
    model, _ = run_stage(shared, Stage(name="all", methods=tuple(use), train=TRAIN), 1, bench.teacher, bench.teacher)
    assert artifact.load(folder / "stages/01-all/model").model.storage.keys() == model.storage.keys()
    for weight in quantizer.matrices(model):
        before = bench.teacher.get_parameter(weight).detach().abs()
        after = model.get_parameter(weight).detach()
        assert not after[before <= before.median()].any(), f"{weight}: a zero came back"
        assert after.any()
        assert weight in model.storage
    assert bench.teacher.blueprint.activation_bits is None
