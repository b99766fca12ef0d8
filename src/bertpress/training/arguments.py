"""What transformers' Trainer itself has to know."""

import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from bertpress.training.settings import TrainSettings


def arguments(folder: Path, settings: TrainSettings, seed: int) -> TrainingArguments:
    """The Trainer's arguments; saving, evaluating and logging at set steps are not its business here."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        seed=seed % 2**32,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_num_workers=0,
        ddp_backend="gloo" if several and not torch.cuda.is_available() else None,
    )
