import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sample_run
import torch
from sample_run import make_data, make_model
from transformers import TrainerCallback

from bertpress.errors import Interrupted, RecipeError, UserError
from bertpress.tasks import predictions, references, score
from bertpress.training import TaskLoss, Teacher, TrainSettings, collate_for, metric_value, predict_logits, train
from bertpress.training.checkpoint import read
from bertpress.training.teacher import weights_digest

KINDS = {
    "text-classification": 99.0,
    "text-regression": 95.0,
    "sentence-similarity": 60.0,
    "token-classification": 95.0,
    "question-answering": 90.0,
}


@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "float32") for kind in KINDS), ("text-classification", "bfloat16")]
)
def test_every_head_learns_a_separable_task(tmp_path, kind, precision):
    task, data, validation, tokenizer = make_data(kind, count=320)
    model = make_model(task, tokenizer, hidden=32, dropout=0.0)
    settings = TrainSettings(epochs=8, batch_size=16, learning_rate=3e-3, precision=precision)
    result = train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=tmp_path, validation=validation,
        progress="none",
    )  # fmt: skip
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    logits = predict_logits(result.model, task, validation, collate_for(tokenizer))
    scores = score(task, predictions(task, validation, logits), references(task, validation.rows))
    assert next(iter(scores.values())).value > KINDS[kind]
    assert result.metric == pytest.approx(max(entry["metric"]["value"] for entry in result.log if "metric" in entry))


def test_masked_words_are_learnt(tmp_path):
    task, data, validation, tokenizer = make_data("masked-lm", count=200)
    model = make_model(task, tokenizer, dropout=0.0)
    settings = TrainSettings(epochs=3, batch_size=16, learning_rate=3e-3)
    before = metric_value(model, task, validation, collate_for(tokenizer), precision="float32")
    train(model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=tmp_path, progress="none")
    assert metric_value(model, task, validation, collate_for(tokenizer), precision="float32") < before - 2


def plain(folder, callbacks=(), *, seed=0, resume=True, objectives=None, model=None, **changes):
    task, data, _, tokenizer = make_data()
    model = model or make_model(task, tokenizer)
    settings = TrainSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **changes})
    return train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=folder, seed=seed, resume=resume,
        callbacks=list(callbacks), objectives=objectives, progress="none",
    )  # fmt: skip


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_seed_decides_every_bit_and_generators_stay_as_they_were(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = plain(tmp_path / "a")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    torch.rand(3)
    np.random.rand(3)
    assert same(plain(tmp_path / "b").model, first.model)
    assert not same(plain(tmp_path / "c", seed=1).model, first.model)


def test_checkpoints_evaluations_and_logs_do_not_change_the_weights(tmp_path):
    rare = sample_run.run(tmp_path / "a", checkpoint_seconds=3600, log_points=1)[0]
    often = sample_run.run(tmp_path / "b", checkpoint_seconds=0)[0]
    assert same(rare.model, often.model)


def test_accumulated_batches_are_one_large_batch(tmp_path):
    task, _, _, tokenizer = make_data()
    models = []
    for accumulate, batch_size in ((1, 96), (12, 8)):
        model = make_model(task, tokenizer, dropout=0.0)
        settings = {"accumulate": accumulate, "batch_size": batch_size, "precision": "float32", "epochs": 3}
        models.append(plain(tmp_path / str(batch_size), model=model, **settings).model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_finished_run_returns_at_once_and_another_is_refused(tmp_path):
    first = plain(tmp_path)

    class Never(TrainerCallback):
        def on_step_begin(self, *args, **_):
            raise AssertionError

    again = plain(tmp_path, [Never()])
    assert same(first.model, again.model)
    assert again.log == first.log
    with pytest.raises(UserError, match=r"holds another training run, with learning_rate=0.001 instead of 0.01"):
        plain(tmp_path, learning_rate=0.01)
    assert not same(plain(tmp_path, learning_rate=0.01, resume=False).model, first.model)


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.action()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_writes_a_checkpoint_and_the_run_goes_on(tmp_path, number):
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 6 of 24") as caught:
        plain(tmp_path / "a", [At(5, lambda: os.kill(os.getpid(), number))])
    assert caught.value.exit_status == 130
    assert signal.getsignal(number) is handler
    assert [path.name for path in (tmp_path / "a").glob("*.pt")] == ["checkpoint-000000006.pt"]
    undisturbed = plain(tmp_path / "b", [At(0, None)])
    assert same(plain(tmp_path / "a", [At(0, None)]).model, undisturbed.model)


def test_a_loss_that_is_no_number_is_one_clear_error_and_keeps_the_checkpoint(tmp_path):
    class Breaks(TaskLoss):
        calls = 0

        def __call__(self, step):
            self.calls += 1
            return super().__call__(step) * (float("nan") if self.calls == 9 else 1.0)

    with pytest.raises(RecipeError, match=r"loss=nan at step 9 of 24 with learning_rate=0.001 must be finite"):
        plain(tmp_path, objectives=[Breaks()], checkpoint_seconds=0)
    content = read(max(tmp_path.glob("checkpoint-*.pt")))
    assert 1 <= content["step"] <= 8
    assert all(value.isfinite().all() for value in content["model"].values())


def test_a_gradient_that_explodes_is_noticed_before_it_reaches_the_weights(tmp_path):
    with pytest.raises(RecipeError, match=r"gradient norm=(inf|nan)"):
        plain(tmp_path, objectives=[TaskLoss(weight=1e38)], max_grad_norm=0)


def test_time_limit_shortens_the_run_and_its_schedule(tmp_path):
    class Slow(TrainerCallback):
        def on_step_end(self, *args, **_):
            time.sleep(0.02)

    result = plain(tmp_path, [Slow()], epochs=1000, max_seconds=2.0)
    assert 2 <= result.steps < 100  # few where other work goes on beside it
    assert result.seconds < 10
    assert [entry for entry in result.log if "loss" in entry][-1]["learning_rate"] < 3e-4


def test_best_weights_are_those_with_the_best_metric(tmp_path):
    result, _ = sample_run.run(tmp_path)
    values = {entry["step"]: entry["metric"]["value"] for entry in result.log if "metric" in entry}
    assert len(values) == 8
    assert result.metric == max(values.values()) == values[result.best_step]
    task, _, validation, tokenizer = make_data()
    assert metric_value(result.model, task, validation, collate_for(tokenizer), precision="auto") == result.metric


def test_teacher_is_needed_and_stays_as_it_was(tmp_path):
    with pytest.raises(RecipeError, match="match needs a teacher"):
        plain(tmp_path, objectives=[sample_run.Match()])
    task, data, _, tokenizer = make_data()
    model = make_model(task, tokenizer, seed=5)
    before = weights_digest(model)
    sample_run.run(tmp_path / "distilled")
    teacher = Teacher(model, cache=tmp_path)
    settings = TrainSettings(epochs=1, batch_size=8)
    extra = torch.nn.ModuleDict({"projection": torch.nn.Linear(2, 2)})
    train(make_model(task, tokenizer), task=task, data=data, tokenizer=tokenizer, settings=settings, folder=tmp_path,
          objectives=[sample_run.Match()], teacher=teacher, state=extra, progress="none")  # fmt: skip
    assert weights_digest(model) == before
    assert all(weight.grad is None for weight in model.parameters())


def test_extra_state_trains_and_the_callback_sees_trainer_arguments(tmp_path):
    torch.manual_seed(1)
    before = torch.nn.Linear(2, 2).weight.detach().clone()
    _, projection = sample_run.run(tmp_path)
    assert (projection.weight - before).abs().max() > 1e-2


def test_report_to_passes_through_and_nothing_is_printed(tmp_path, capsys, caplog):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append(logs)

    with caplog.at_level(logging.WARNING):
        plain(tmp_path, [Tracker()])
    assert {"loss", "loss/task", "learning_rate", "gradient_norm", "examples_per_second"} <= seen[0].keys()
    assert all(isinstance(value, float | int) for value in seen[0].values())
    assert capsys.readouterr() == ("", "")


def test_the_config_is_left_alone(tmp_path):
    task, _, _, tokenizer = make_data()
    model = make_model(task, tokenizer)
    before = model.config.to_dict()
    assert plain(tmp_path, model=model).model.config.to_dict() == before


def check_kills(folder, kills, landed):
    """As many runs killed; at least ``landed`` of the kills came before the end."""
    command = [sys.executable, sample_run.__file__, str(folder), str(kills)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE)
    assert int(done.stdout) >= landed
    one, other = (read(folder / name / "run/done.pt") for name in ("undisturbed", "killed"))
    for part in ("model", "extra"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    logs = [[(at["step"], at.get("loss"), at.get("metric")) for at in run["record"]["log"]] for run in (one, other)]
    assert logs[0] == logs[1]


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 3, landed=3)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 10, landed=5)


@pytest.mark.slow
def test_two_processes_distil_like_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("distributed_run.py"))
    subprocess.run([*command, script, str(tmp_path / "two")], env=env, check=True)
    subprocess.run([sys.executable, script, str(tmp_path / "one")], env=env, check=True)
    two, one = (read(tmp_path / name / "done.pt") for name in ("two", "one"))
    for part in ("model", "extra"):
        assert one[part]
        for name, weight in one[part].items():
            torch.testing.assert_close(two[part][name], weight, atol=2e-4, rtol=0)
