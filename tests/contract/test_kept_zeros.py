"""Zeros that lie in blocks stay zero in the stages that follow, and one bit of the file stands for a block."""

from bertpress.artifact.codecs.bitmap import block_of_zeros
from bertpress.methods.registry import find
from bertpress.methods.weights import matrices
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.training import TrainSettings

TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


def test_blocks_of_zeros_outlive_training_and_quantizing(bench, tmp_path):
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    shared = Run(folder, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher)
    blocks = find("prune/blocks")(size=8, keep=0.5, cut=False)
    stages = (
        Stage(name="prune", methods=(("prune/blocks", blocks),), train=TRAIN),
        Stage(name="train", train=TRAIN),
        Stage(name="round", methods=(("quantize/uniform", find("quantize/uniform")()),)),
    )
    models = [bench.teacher]
    for number, stage in enumerate(stages, start=1):
        models.append(run_stage(shared, stage, number, models[-1], bench.teacher)[0])
    _, pruned, *later = models
    names = [name for name in matrices(pruned, head=False) if name in pruned.storage]
    assert len(names) >= 10
    for name in names:
        zero = pruned.get_parameter(name) == 0
        assert block_of_zeros(pruned.storage[name]) == (1, 8)
        assert bool(zero.any())
        for model in later:
            assert not model.get_parameter(name)[zero].any()
            assert not model.get_parameter(name).equal(pruned.get_parameter(name))
            assert block_of_zeros(model.storage[name]) == (1, 8)
    assert all(later[-1].storage[name].grid() is not None for name in names)
