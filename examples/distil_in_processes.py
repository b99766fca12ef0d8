"""Distil in several processes, each with a share of every batch; one of them saves the student.

    torchrun --nproc-per-node=2 examples/distil_in_processes.py MODEL TEACHER DATA OUT
    accelerate launch --cpu --num_processes=2 examples/distil_in_processes.py MODEL TEACHER DATA OUT

MODEL is pre-trained, TEACHER an artifact of `bertpress train`.  On several machines, which must all see these folders,
start torchrun on each with --nnodes and --rdzv-endpoint.  A run that was killed goes on when it is started again.
"""

import os
import sys
from pathlib import Path

from bertpress import artifact, tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.methods.matching import TeacherLoss
from bertpress.training import TaskLoss, Teacher, TrainSettings, train

BATCH = 32  # of all processes together

model, teacher, data, out = map(Path, sys.argv[1:])
taught = artifact.load(teacher)
task = taught.task
student = load_pretrained(model, task.head()).model  # a new head is the same in every process
rows = tasks.encode(task, tasks.load(task, "train", data), taught.tokenizer, training=True)
train(
    student,
    task=task,
    data=rows,
    tokenizer=taught.tokenizer,
    settings=TrainSettings(epochs=2, batch_size=BATCH // int(os.environ.get("WORLD_SIZE", "1"))),
    folder=out / "training",
    objectives=[TaskLoss(weight=0.1), TeacherLoss("kl", 2.0, task.head().kind, weight=0.9)],
    teacher=Teacher(taught.model, cache=out / "cache"),
)
if os.environ.get("RANK", "0") == "0":
    made = artifact.save(student, taught.tokenizer, task, out / "model")
    print(made.evaluate(tasks.load(task, "validation", data)))
