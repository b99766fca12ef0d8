"""One distillation for torchrun: FOLDER; alone it accumulates what two processes share."""

import os
import sys
from pathlib import Path

import torch
from sample_run import Match, make_data, make_model
from torch import nn

from bertpress.training import TaskLoss, Teacher, TrainSettings, train

if __name__ == "__main__":
    task, data, _, tokenizer = make_data()
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    settings = TrainSettings(
        epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", accumulate=1 + alone, checkpoint_seconds=0
    )
    model = make_model(task, tokenizer, dropout=0.0)
    folder = Path(sys.argv[1])
    teacher = Teacher(make_model(task, tokenizer, seed=1, layers=3, dropout=0.0))
    torch.manual_seed(1)
    state = nn.ModuleDict({"projection": nn.Linear(2, 2)})
    train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=folder, teacher=teacher,
        objectives=[TaskLoss(weight=0.5), Match()], state=state, progress="none",
    )  # fmt: skip
