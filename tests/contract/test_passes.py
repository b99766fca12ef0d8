"""The passes that a method brings reach the training of its stage, with the teacher that the stage names."""

from bertpress.methods.registry import find
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.training import TrainSettings

TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


def test_every_sub_network_is_in_the_log_of_the_stage(bench, tmp_path):
    run = Run(RunFolder.open(tmp_path / "run", {}, resume=False), bench.data, bench.tokenizer, 0, str, bench.teacher)
    model = bench.teacher
    for number, (depths, teacher) in enumerate([((1.0,), "original"), ((0.5, 1.0), "previous")], start=1):
        method = find("prune/dynabert")(widths=(0.5, 1.0), depths=depths)
        stage = Stage(name="s", methods=(("prune/dynabert", method),), train=TRAIN, teacher=teacher)
        model, report = run_stage(run, stage, number, model, bench.teacher)
        names = {f"{width}x{depth:g}/{term}" for width in ("0.5", "1") for depth in depths for term in
                 ("logits", "hidden_states")}  # fmt: skip
        assert set(report["train"]["log"][0]["terms"]) == names
        assert model.blueprint.elastic.depths == depths
