"""Training: summed objectives, callbacks, a cached teacher, checkpoints that survive a kill at any instant."""

from bertpress.training.evaluation import collate_for, metric_value, predict_logits
from bertpress.training.lesson import Lesson, under_head
from bertpress.training.objectives import Objective, Step, TaskLoss
from bertpress.training.optimizer import Optimization
from bertpress.training.passes import Pass
from bertpress.training.settings import TrainSettings
from bertpress.training.teacher import Teacher
from bertpress.training.trainer import TrainResult, train

__all__ = [
    "Lesson",
    "Objective",
    "Optimization",
    "Pass",
    "Step",
    "TaskLoss",
    "Teacher",
    "TrainResult",
    "TrainSettings",
    "collate_for",
    "metric_value",
    "predict_logits",
    "train",
    "under_head",
]
