"""What a method notes comes to the stage's figures, and so to the results."""

import json

from bertpress.methods.base import Method
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage


class Noting(Method):
    """Leave one note before training and one after."""

    quiet: bool = False

    def attach(self, model, ctx):
        """Note."""
        ctx.notes |= {} if self.quiet else {"before": {"0": 1.5}}
        return model

    def finish(self, model, ctx):
        """Note."""
        ctx.notes |= {} if self.quiet else {"after": [ctx.round]}
        return model


def reported(bench, folder, quiet, repeat=1, resume=False):
    place = RunFolder.open(folder, {}, resume=resume)
    run = Run(place, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher)
    stage = Stage(name="only", methods=(("test/noting", Noting(quiet=quiet)),), repeat=repeat)
    return run_stage(run, stage, 1, bench.teacher, bench.teacher)[1]


def test_notes_are_kept_in_the_stage(bench, tmp_path):
    report = reported(bench, tmp_path / "run", quiet=False)
    assert report["notes"] == {"before": {"0": 1.5}, "after": [0]}
    kept = json.loads((tmp_path / "run/stages/01-only/stage.json").read_text(encoding="utf-8"))
    assert kept["notes"] == report["notes"]
    assert (
        reported(bench, tmp_path / "run", quiet=True, resume=True)["notes"] == report["notes"]
    )  # read, not made again


def test_every_round_has_its_own(bench, tmp_path):
    report = reported(bench, tmp_path / "run", quiet=False, repeat=2)
    assert [turn["notes"]["after"] for turn in report["rounds"]] == [[0], [1]]
    assert report["notes"]["after"] == [1]


def test_without_notes_there_is_no_key(bench, tmp_path):
    assert "notes" not in reported(bench, tmp_path / "run", quiet=True)
