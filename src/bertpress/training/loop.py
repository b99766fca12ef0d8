"""A transformers.Trainer whose loss is a sum of objectives and whose run can be killed at any instant.

Only the inner loop is replaced.  Callbacks, trackers (``report_to``), devices and processes are the Trainer's; the
stock loop's checkpoints (pickled, not atomic) and its skipping of batches are not used.

Every random number is a function of seed and step: the order of the data of (seed, epoch), and the generators of
torch, numpy and Python are seeded anew at each step.  A resumed run therefore repeats an undisturbed one bit by bit,
whatever an evaluation, a callback or a checkpoint draws in between.
"""

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from bertpress.errors import Interrupted, RecipeError
from bertpress.tasks import Collate, Encoded, UserMetric
from bertpress.training import distributed, rng, schedules
from bertpress.training.arguments import arguments
from bertpress.training.checkpoint import Checkpoints
from bertpress.training.interrupt import StopRequest
from bertpress.training.lesson import Lesson
from bertpress.training.objectives import Step, captures, total
from bertpress.training.optimizer import TableGradients, clip, make_optimizer
from bertpress.training.passes import Configure, joined
from bertpress.training.plan import Plan
from bertpress.training.precision import autocast, in_float32, resolve_dtype
from bertpress.training.record import Record, Selection
from bertpress.training.settings import TrainSettings
from bertpress.training.snapshot import Snapshot
from bertpress.training.teacher import model_inputs

_SYNC_STEPS = 16  # on a GPU: updates between two looks at whether the loss is still a number


class ObjectiveTrainer(Trainer):  # type: ignore[misc]
    """Trains ``model`` on the weighted sum of the objectives in every pass; see :func:`bertpress.training.train`.

    Each batch is of one of the lessons, of which the first is the run's own.
    """

    optimizer: Any  # the Trainer's own attributes, which its untyped code leaves without a type
    control: Any

    def __init__(
        self,
        model: nn.Module,
        *,
        lessons: Sequence[Lesson],
        collate: Collate,
        tokenizer: Any,
        callbacks: Sequence[TrainerCallback],
        settings: TrainSettings,
        checkpoints: Checkpoints,
        seed: int,
        state: nn.ModuleDict,
        validation: Encoded | None,
        metric: UserMetric | None = None,
        answer: nn.Module | None = None,
    ) -> None:
        args = arguments(checkpoints.folder, settings, seed)
        config = getattr(model, "config", None)
        config_has_cache = config is None or "use_cache" in vars(config)
        self.lessons, (self.task, self.data) = lessons, (lessons[0].task, lessons[0].data)
        super().__init__(
            model=model, args=args, data_collator=collate, train_dataset=self.data, callbacks=list(callbacks)
        )
        if config is not None and not config_has_cache:
            vars(config).pop("use_cache", None)  # set by the Trainer; an encoder has no such thing
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.callback_handler.processing_class = tokenizer
        self.methods = list(callbacks)
        self.collate, self.validation, self.extra, self.answer = collate, validation, state.to(args.device), answer
        self.settings, self.checkpoints, self.seed = settings, checkpoints, seed
        others = [lesson.data for lesson in lessons[1:]]
        self.plan = Plan(self.data, settings, seed=seed, world=distributed.world_size(), others=others)
        self.dtype = resolve_dtype(settings.precision, args.device)
        self.metric = metric
        self.metric_name = (
            getattr(metric, "__name__", type(metric).__name__) if metric is not None else self.task.metric
        )
        self.record = Record()
        self.selection = Selection()
        self.identity: dict[str, Any] = {}
        self.resume_content: dict[str, Any] | None = None
        self.began = time.monotonic()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Fused AdamW over the model and the extra state."""
        optimizer: torch.optim.Optimizer = self.optimizer or make_optimizer([self.model, self.extra], self.settings)
        self.optimizer = optimizer
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The settings' schedule; it follows :attr:`plan`, whose total may shrink."""
        warmup = int(self.settings.warmup_ratio * num_training_steps)

        def factor(step: int) -> float:
            return schedules.learning_rate(step, total=self.plan.total, warmup=warmup, decay=self.settings.schedule)

        assert self.optimizer is not None
        factors = [factor if group["scheduled"] else (lambda step: 1.0) for group in self.optimizer.param_groups]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factors)
        return self.lr_scheduler

    def resume_schedule(self, step: int) -> None:
        """Set the learning rates of update ``step``."""
        scheduler = self.lr_scheduler
        scheduler.last_epoch = step
        scheduler._last_lr = [
            base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, scheduler._last_lr, strict=True):
            group["lr"] = rate

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum of the objectives on one batch of the run's own task, over all passes."""
        found = list(self._passes(self.lessons[0], inputs))
        loss = reduce(add, [loss for loss, _ in found])
        return (loss, joined(found)) if return_outputs else loss

    def _passes(self, lesson: Lesson, batch: dict[str, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Weighted loss, and terms by name, of one pass after the other."""
        answers: dict[Configure, Any] = {}
        for each, terms in lesson.terms:
            wanted = captures(terms, teacher=False)
            with autocast(self.dtype, self.args.device), each.configure(self.model):
                output = self.model(**model_inputs(batch), **({"capture": wanted} if wanted else {}))
                if self.answer is not None:
                    output.logits = self.answer(output, batch)
                student = in_float32(output)
            asks = any(term.needs_teacher for term in terms)
            teacher = lesson.answer(each.teacher, batch, answers) if asks else None
            loss, found = total(terms, Step(batch, student, teacher, lesson.task, self.extra))
            yield loss if each.weight == 1 else loss * each.weight, {each.term(name): found[name] for name in found}

    def _learn(self, lesson: Lesson, batch: dict[str, Tensor], share: float) -> None:
        """Add the gradients of every pass over one batch, which is ``share`` of the update."""
        found = []
        for loss, terms in self._passes(lesson, batch):
            if loss.requires_grad:
                torch.autograd.backward(loss * share if share != 1 else loss)
            found.append((loss.detach(), terms))
        self.record.add(reduce(add, [loss for loss, _ in found]), joined(found), share)

    def _inner_training_loop(self, *_: Any, **__: Any) -> TrainOutput:
        """Train from the last checkpoint, or from the start, to the end of the plan."""
        self.create_optimizer()
        self.create_scheduler(self.plan.total)
        self.model.zero_grad()
        snapshot = Snapshot(self)
        content, self.resume_content = self.resume_content, None
        start = int(content["step"]) if content else 0
        if content:
            self.plan.total = int(content["total"])
        self._begin(start)
        if content:
            snapshot.restore(content)
        self.began = time.monotonic()
        with StopRequest() as stop, TableGradients(self.model) as tables:
            self._steps(start, snapshot, stop, tables)
        self._select()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, self.record.last_loss, {})

    def _begin(self, start: int) -> None:
        """Tell the callbacks where the run stands; what they change here, a checkpoint puts right afterwards."""
        plan, args = self.plan, self.args
        self.state = TrainerState(
            is_local_process_zero=self.is_local_process_zero(), is_world_process_zero=self.is_world_process_zero()
        )
        self.state.max_steps = plan.total
        self.state.num_train_epochs = int(np.ceil(plan.total / plan.steps_per_epoch))
        self.state.train_batch_size = self.settings.batch_size
        self.state.logging_steps, self.state.eval_steps, self.state.save_steps = 0, 0, 0
        self.state.global_step, self.state.epoch = start, start / plan.steps_per_epoch
        handler = self.callback_handler
        handler.model, handler.optimizer, handler.lr_scheduler = self.model, self.optimizer, self.lr_scheduler
        self.model.train()
        self.extra.train()
        rng.seed_all(self._seed_of(-1))
        self.control = handler.on_train_begin(args, self.state, self.control)
        if start % plan.steps_per_epoch:
            self._begin_epoch(start // plan.steps_per_epoch)

    def _begin_epoch(self, epoch: int) -> None:
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch + 1)  # 0 is the one that evaluation uses
        rng.seed_all(self._seed_of(-2 - epoch))
        self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)

    def _seed_of(self, step: int) -> int:
        """A seed for every (seed, step, process): negative steps stand for what comes before a step."""
        words = np.random.SeedSequence((self.seed, step % 2**32, distributed.rank())).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1

    def _steps(self, start: int, snapshot: Snapshot, stop: StopRequest, tables: TableGradients) -> None:
        step = start
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        written = time.monotonic()
        while step < self.plan.total and not self.control.should_training_stop:
            epoch, place = self.plan.position(step)
            if place == 0:
                self._begin_epoch(epoch)
            wishes = self._step(step, weights, tables, stop.made, snapshot.due(written))
            step += 1
            ended = step % self.plan.steps_per_epoch == 0 or step >= self.plan.total
            self._after_step(step, ended)
            self._hurry(step)
            if wishes[0] or wishes[1] or self.control.should_save:
                self._check_numbers(step)
                snapshot.write(step)
                written = time.monotonic()
            if wishes[0]:
                where = f"{self.checkpoints.folder}: stopped after step {step} of {self.plan.total}"
                raise Interrupted(f"{where}; run again to go on")

    def _step(
        self, step: int, weights: list[nn.Parameter], tables: TableGradients, stop: bool, due: bool
    ) -> list[bool]:
        """One update; returns whether any process was asked to stop, and whether a checkpoint is due."""
        handler, args = self.callback_handler, self.args
        rng.seed_all(self._seed_of(step))
        self.control = handler.on_step_begin(args, self.state, self.control)
        for rows, share, source in self.plan.parts(step, distributed.rank()):
            lesson = self.lessons[source]
            batch = {k: v.to(args.device) for k, v in self.collate([lesson.data[row] for row in rows]).items()}
            self._learn(lesson, batch, share)
            if share != 1:
                self.control = handler.on_substep_end(args, self.state, self.control)
        tables.gather()
        flags = torch.tensor([float(stop), float(due and distributed.rank() == 0)])
        wishes = [flag > 0 for flag in distributed.sum_gradients(weights, flags).tolist()]
        self.record.add_norm(clip(weights, self.settings.max_grad_norm))
        if args.device.type == "cpu" or (step + 1) % _SYNC_STEPS == 0:
            self._check_numbers(step + 1)
        self.control = handler.on_pre_optimizer_step(args, self.state, self.control)
        self.optimizer.step()
        self.control = handler.on_optimizer_step(args, self.state, self.control)
        self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.record.examples += self.plan.examples(step)
        self.state.global_step = step + 1
        self.state.epoch = (step + 1) / self.plan.steps_per_epoch
        self.control = handler.on_step_end(args, self.state, self.control)
        return wishes

    def _after_step(self, step: int, epoch_ended: bool) -> None:
        """Log, evaluate, end the epoch, where it is time to."""
        every = max(1, self.plan.total // self.settings.log_points)
        if step % every == 0 or step >= self.plan.total or self.control.should_log:
            rates = self.lr_scheduler.get_last_lr()
            epoch = step / self.plan.steps_per_epoch
            entry = self.record.close(step, epoch, float(rates[0]), self.seconds())
            flat = {name: value for name, value in entry.items() if name not in ("terms", "step", "epoch")}
            self.log(flat | {f"loss/{name}": value for name, value in entry["terms"].items()})
        looks = self.settings.evaluations_per_epoch
        place = step % self.plan.steps_per_epoch
        between = place * looks // self.plan.steps_per_epoch > (place - 1) * looks // self.plan.steps_per_epoch
        if self.validation is not None and (epoch_ended or (place and between) or self.control.should_evaluate):
            self._evaluate_now(step)
        if epoch_ended:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)

    def _evaluate_now(self, step: int) -> None:
        value = self.selection.look(self, step)
        self.record.log.append({"step": step, "metric": {"name": self.metric_name, "value": value}})
        metrics = {f"eval_{self.metric_name}": value}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()

    def _select(self) -> None:
        if self.settings.select == "best":
            self.selection.put_back(self)

    def seconds(self) -> float:
        """Time of the steps so far, earlier processes included."""
        return self.record.seconds_before + time.monotonic() - self.began

    def _hurry(self, step: int) -> None:
        """Shorten the plan if the clock would run out before its end."""
        limit, spent = self.settings.max_seconds, self.seconds()
        if limit is None or (spent < 0.05 * limit and step < 50):  # the first steps are no measure
            return
        possible = step + int(max(0.0, limit - spent) / (spent / step))
        possible = int(distributed.same_everywhere(possible))
        if possible < 0.98 * self.plan.total or spent >= limit:
            self.plan.total = self.state.max_steps = max(step, min(possible, self.plan.total))

    def _check_numbers(self, step: int) -> None:
        """Stop before weights that are no numbers reach a checkpoint."""
        bad = self.record.not_finite()
        if bad:
            raise RecipeError(
                f"{self.checkpoints.folder}: {bad} at step {step} of {self.plan.total} with "
                f"learning_rate={self.settings.learning_rate:g} must be finite; the last good checkpoint is kept"
            )
