"""AdamW over the model and what trains beside it; gradients of large tables without a dense copy a step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bertpress.training.settings import TrainSettings

_LARGE_TABLE = 1_000_000  # numbers; below, a dense gradient costs nothing worth saving


@dataclass(frozen=True)
class Optimization:
    """How the weights of a module are trained where that differs from the model's.

    Put one as attribute ``optimization`` on any module of the model or of the extra state; it holds for the weights
    in it, those of inner modules included unless they have their own.

    Attributes:
        learning_rate: peak; None: the run's.
        weight_decay: None: the run's for matrices, none for vectors.
        ascend: climb the loss instead of descending (multipliers of constraints).
        scheduled: whether the rate follows the run's schedule; False: it stays.
    """

    learning_rate: float | None = None
    weight_decay: float | None = None
    ascend: bool = False
    scheduled: bool = True


def _weights(module: nn.Module, inherited: Optimization) -> Iterator[tuple[nn.Parameter, Optimization]]:
    mine = getattr(module, "optimization", inherited)
    for weight in module.parameters(recurse=False):
        yield weight, mine
    for child in module.children():
        yield from _weights(child, mine)


def make_groups(modules: Iterable[nn.Module], settings: TrainSettings) -> list[dict[str, object]]:
    """Parameter groups for AdamW, each weight once, in the order in which the modules own them."""
    groups: dict[tuple[float, float, bool, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in modules:
        for weight, how in _weights(module, Optimization()):
            if id(weight) in seen or not weight.requires_grad:
                continue
            seen.add(id(weight))
            decay = how.weight_decay if how.weight_decay is not None else settings.weight_decay * (weight.ndim > 1)
            rate = how.learning_rate if how.learning_rate is not None else settings.learning_rate
            groups.setdefault((rate, decay, how.ascend, how.scheduled), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay, "maximize": ascend, "scheduled": scheduled}
        for (rate, decay, ascend, scheduled), weights in groups.items()
    ]


def make_optimizer(modules: Iterable[nn.Module], settings: TrainSettings) -> torch.optim.AdamW:
    """Fused AdamW, one kernel for each weight instead of a dozen.

    Raises:
        ValueError: nothing is to be trained.
    """
    groups = make_groups(modules, settings)
    if not groups:
        raise ValueError("no weight of the model requires a gradient")
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)


class TableGradients:
    """Keeps one gradient buffer for each large embedding table, of which only the rows of a batch are touched.

    A dense gradient of a vocabulary is allocated, zeroed and freed at every step, which is a sixth of the time of
    a MiniLM step on a CPU.  Tables that are parametrized, or whose weight has another reader (a tied decoder), are
    left alone, and so is everything on a GPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tables = [table for table in model.modules() if isinstance(table, nn.Embedding) and _suits(table)]
        self.buffers = [torch.zeros_like(table.weight) for table in self.tables]
        self.touched: list[Tensor | None] = [None] * len(self.tables)

    def __enter__(self) -> "TableGradients":
        for table in self.tables:
            table.sparse = True
        return self

    def __exit__(self, *error: object) -> None:
        for table in self.tables:
            table.sparse = False
            table.weight.grad = None

    def gather(self) -> None:
        """After the backward passes of a step: put each table's gradient, row by row, into its buffer."""
        for i, table in enumerate(self.tables):
            buffer, gradient = self.buffers[i], table.weight.grad
            if (rows := self.touched[i]) is not None:
                buffer.index_fill_(0, rows, 0.0)
                self.touched[i] = None
            if gradient is None:
                continue
            if gradient.is_sparse:
                rows = gradient._indices()[0]
                buffer.index_add_(0, rows, gradient._values())
            else:  # someone else reads the table densely in this step
                rows = torch.arange(len(buffer))
                buffer.copy_(gradient)
            self.touched[i] = rows
            table.weight.grad = buffer


def _suits(table: nn.Embedding) -> bool:
    weight = table.weight
    return (
        not parametrize.is_parametrized(table)
        and isinstance(weight, nn.Parameter)
        and weight.requires_grad
        and weight.device.type == "cpu"
        and weight.numel() >= _LARGE_TABLE
        and table.max_norm is None
        and not table.scale_grad_by_freq
    )


def clip(weights: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients down to a joint norm of ``max_norm`` (0: leave them); returns the norm before, (), float."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_norm > 0:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
    return norm
