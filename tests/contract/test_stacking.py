"""Pruning, distillation and quantization in one stage: zeros of a mask stay zeros, in the file too."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from bertpress import artifact
from bertpress.artifact.header import inspect
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Method
from bertpress.methods.registry import find
from bertpress.recipe import Recipe, Stage
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


PRUNED = [
    ("prune/magnitude", {"keep": KEEP}),
    ("prune/movement", {"keep": KEEP, "start": "magnitude"}),
    ("prune/rpp", {"keep": KEEP}),
    ("prune/obert", {"keep": KEEP, "examples": 8}),
]


@pytest.mark.parametrize("first", ["prune", "quantize"])
@pytest.mark.parametrize(("name", "options"), PRUNED)
def test_pruning_and_integers_are_learnt_in_one_stage(name, options, first, bench, tmp_path):
    pruning, quantizer = (name, find(name)(**options)), ("quantize/qat", find("quantize/qat")(examples=8))
    use = [pruning, quantizer] if first == "prune" else [quantizer, pruning]
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    shared = Run(folder, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher)
    use.append(("distill/logits", find("distill/logits")()))
    model, _ = run_stage(shared, Stage(name="all", methods=tuple(use), train=TRAIN), 1, bench.teacher, bench.teacher)
    read = artifact.load(folder / "stages/01-all/model").model
    kept = total = 0
    for weight in pruning[1].weights(model):
        assert torch.equal(read.get_parameter(weight), model.get_parameter(weight))
        kept, total = (
            kept + int(model.get_parameter(weight).count_nonzero()),
            total + model.get_parameter(weight).numel(),
        )
        assert "uniform" in [codec.kind for codec in model.storage[weight].codecs], weight
    assert 0.9 * KEEP * total < kept <= round(KEEP * total)  # small weights may round to zero besides
    assert read.blueprint.activation_bits == 8


CUT = ["blocks", "snip", "schubert", "cofi", "layerdrop", "block_movement"]


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("first", ["prune", "quantize"])
def test_what_is_cut_at_the_end_of_a_stage_is_not_quantized_in_it(name, first):
    use = [f"prune/{name}", "quantize/qat"][:: 1 if first == "prune" else -1]
    recipe = Recipe.parse({"name": "test", "stages": [{"name": "all", "use": use, "train": {}}]})
    words = rf"^test stage all, prune/{name}: cuts weights that quantize/qat quantizes; give that a later stage"
    with pytest.raises(RecipeError, match=words):
        recipe.check()


@pytest.mark.parametrize("quantizer", ["gobo", "uniform", "adaptivfloat"])
@pytest.mark.parametrize("method", ["prune/heads", "prune/neurons", "prune/layers", "prune/obert", "prune/fisher"])
def test_weights_do_not_leave_their_grids_without_training(quantizer, method):
    stages = [{"name": "few", "use": [f"quantize/{quantizer}"]}, {"name": "cut", "use": [method]}]
    words = f"^test stage cut, {method}: takes weights off the grids of quantize/{quantizer}; let that follow$"
    with pytest.raises(RecipeError, match=words):
        Recipe.parse({"name": "test", "stages": stages}).check()
    stages.insert(1, {"name": "train", "train": {}})
    Recipe.parse({"name": "test", "stages": stages}).check()


def sparse_then(name, options, train, bench, folder):
    """A stage that prunes once, and one that quantizes; the weights after each, and the file."""
    place = RunFolder.open(folder, {}, resume=False)
    run = Run(place, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher)
    pruning = find("prune/magnitude")(keep=KEEP, tables=["word"])
    sparse, _ = run_stage(run, Stage(name="prune", methods=(("prune/magnitude", pruning),)), 1, bench.teacher, None)
    zeros = {weight: sparse.get_parameter(weight).detach() == 0 for weight in pruning.weights(sparse)}
    second = Stage(name="quantize", methods=((name, find(name)(**options)),), train=train)
    model, _ = run_stage(run, second, 2, sparse, None)
    return zeros, model, inspect(place / "stages/02-quantize/model/model.safetensors")


STACKED = [
    ("quantize/qat", {}, TRAIN, "bitmap"),
    ("quantize/qbert", {"low_bits": None, "groups": 4}, TRAIN, "bitmap"),
    ("quantize/adaptivfloat", {"qat": True}, TRAIN, "bitmap"),
    ("quantize/quant_noise", {"variant": "int", "p": 0.5}, TRAIN, "bitmap"),
    ("quantize/quant_noise", {"variant": "product", "centroids": 4, "tune_steps": 2}, TRAIN, "product"),
    ("quantize/int8", {}, None, "bitmap"),
    ("quantize/gobo", {}, None, "bitmap"),
    ("quantize/gptq", {"granularity": "channel"}, None, "bitmap"),
]


@pytest.mark.parametrize(("name", "options", "train", "codec"), STACKED)
def test_zeros_of_an_earlier_stage_stay_and_cost_a_bit(name, options, train, codec, bench, tmp_path):
    zeros, model, listing = sparse_then(name, options, train, bench, tmp_path / "run")
    for weight, zero in zeros.items():
        after = model.get_parameter(weight).detach()
        assert int(zero.sum()) == round((1 - KEEP) * zero.numel())
        assert not after[zero].any(), f"{weight}: a zero came back"
        assert after.any()
        if weight in listing.plan.weights:
            assert codec in [each.kind for each in listing.plan.weights[weight].codecs], weight
    assert sum(weight in listing.plan.weights for weight in zeros) > len(zeros) / 2


def test_two_stages_of_pruning_add_up(bench, tmp_path):
    zeros, model, _ = sparse_then("prune/movement", {"keep": 0.3}, TRAIN, bench, tmp_path / "run")
    for weight, zero in zeros.items():
        assert not model.get_parameter(weight).detach()[zero].any()


def test_a_binary_weight_cannot_follow_pruning():
    stages = [
        {"name": "prune", "use": ["prune/magnitude"]},
        {"name": "binary", "use": ["quantize/binary"], "train": {}},
    ]
    words = "cannot follow prune/magnitude, which leaves zeros among its weights"
    with pytest.raises(RecipeError, match=f"stage binary, quantize/binary: {words}"):
        Recipe.parse({"name": "test", "stages": stages}).check()
