"""A tiny task and a tiny model; as a script, a run that is left alone and one that is killed: FOLDER KILLS."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainerCallback

from bertpress.encoder.blueprint import uniform
from bertpress.encoder.model import build_model
from bertpress.tasks import encode, from_records, resolve, with_labels
from bertpress.training import Optimization, Teacher, TrainSettings, train

GOOD, BAD = ("fine", "great", "lovely", "warm"), ("poor", "dull", "awful", "cold")
OTHER = tuple(f"w{i}" for i in range(40))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer():
    words = [*SPECIAL, *GOOD, *BAD, *OTHER, "?", "a", "b"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "token_type_ids"], **names
    )


def words_and_labels(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        label = int(rng.integers(2))
        words = [str(w) for w in rng.choice(OTHER, int(rng.integers(2, 9)))]
        words.insert(int(rng.integers(len(words))), str(rng.choice((BAD, GOOD)[label])))
        yield words, label


def records(kind, count, seed=0):
    for words, label in words_and_labels(count, seed):
        text = " ".join(words)
        if kind == "text-classification":
            yield {"text": text, "label": label}
        elif kind == "text-regression":
            yield {"text": text, "label": 1.5 * label}
        elif kind == "sentence-similarity":
            yield {"sentence1": text, "sentence2": GOOD[0], "label": float(label)}
        elif kind == "token-classification":
            yield {"tokens": words, "ner_tags": [(w in GOOD) + 2 * (w in BAD) for w in words]}
        elif kind == "question-answering":
            answer = next(w for w in words if w in GOOD + BAD)
            answers = {"text": [answer], "answer_start": [text.index(answer)]}
            yield {"id": str(count), "question": "a ?", "context": text, "answers": answers}
        else:
            yield {"text": text}


def make_data(kind="text-classification", count=96, seed=0):
    """Task, train data, validation data, tokenizer."""
    tokenizer = make_tokenizer()
    task = resolve(kind, max_length=32)
    train_rows = from_records(list(records(kind, count, seed)))
    task = with_labels(task, train_rows, None)
    held = from_records(list(records(kind, 64, seed + 1)), split="validation")
    train_data = encode(task, train_rows, tokenizer, training=True)
    return task, train_data, encode(task, held, tokenizer, training=False), tokenizer


def make_model(task, tokenizer, *, seed=0, layers=2, hidden=16, dropout=0.1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = uniform(
            layers=layers,
            hidden_size=hidden,
            heads=2,
            ffn=2 * hidden,
            vocabulary=len(tokenizer),
            positions=64,
            head=task.head(),
            dropout=dropout,
        )
        return build_model(shape)


class Noise(TrainerCallback):
    """Draws random numbers, has a state, and may be slow."""

    def __init__(self, delay=0.0):
        self.delay, self.steps, self.epochs = delay, 0, 0

    def on_epoch_begin(self, args, state, control, **_):
        self.epochs += 1

    def on_step_end(self, args, state, control, model=None, **_):
        self.steps += 1
        with torch.no_grad():
            model.head.classifier.bias.add_(1e-3 * torch.randn(2) * np.random.rand() * self.steps / (1 + self.epochs))
        time.sleep(self.delay)

    def state_dict(self):
        return {"steps": self.steps, "epochs": self.epochs}

    def load_state_dict(self, state):
        self.steps, self.epochs = state["steps"], state["epochs"]


class Match:
    """Student's logits to the teacher's, through a projection that trains beside the model."""

    name, weight, captures, needs_teacher = "match", 0.5, frozenset(), True

    def __call__(self, step):
        return (step.state["projection"](step.student.logits) - step.teacher.logits).pow(2).mean()


def run(folder, *, seed=0, delay=0.0, resume=True, **changes):
    """Distil a tiny model with dropout, a stateful callback, extra state and a cached teacher."""
    from bertpress.training import TaskLoss

    task, data, validation, tokenizer = make_data()
    torch.manual_seed(1)
    projection = nn.Linear(2, 2)
    projection.optimization = Optimization(learning_rate=1e-2, weight_decay=0.0)
    model = make_model(task, tokenizer)
    settings = TrainSettings(**{
        "epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_seconds": 0.05, "accumulate": 2,
        "select": "best", "evaluations_per_epoch": 2, **changes,
    })  # fmt: skip
    teacher = Teacher(make_model(task, tokenizer, seed=5), cache=Path(folder) / "cache")
    result = train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=Path(folder) / "run", seed=seed,
        objectives=[TaskLoss(), Match()], callbacks=[Noise(delay)], teacher=teacher, validation=validation,
        state=nn.ModuleDict({"projection": projection}), resume=resume, progress="none",
    )  # fmt: skip
    return result, projection


def forked(*args, **kwargs):
    """:func:`run` in a process of its own, which has imported everything already; returns its id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        run(*args, **kwargs)
        status = 0
    finally:
        os._exit(status)


def kill_somewhere(folder, rng, **changes):
    """Start a run, kill it a moment after its next checkpoint; returns whether that was before its end."""
    files = folder / "run"
    before = {path.name for path in files.glob("checkpoint-*.pt")}
    pid = forked(folder, delay=0.05, **changes)
    ended = False
    while not ended and {path.name for path in files.glob("checkpoint-*.pt")} <= before:
        ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        time.sleep(0.002)
    time.sleep(rng.random() * 0.2)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return not (files / "done.pt").exists()


if __name__ == "__main__":
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)  # before any other thread: the processes are forked from this one
    assert os.waitpid(forked(folder / "undisturbed", seed=3, epochs=6), 0)[1] == 0
    rng = random.Random(kills)
    landed = sum(kill_somewhere(folder / "killed", rng, seed=3, epochs=6) for _ in range(kills))
    assert os.waitpid(forked(folder / "killed", seed=3, epochs=6), 0)[1] == 0
    sys.stdout.write(str(landed))
