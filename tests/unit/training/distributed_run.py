"""One training run for torchrun: FOLDER; alone it accumulates what two processes share."""

import os
import sys
from pathlib import Path

from sample_run import make_data, make_model

from bertpress.training import TrainSettings, train

if __name__ == "__main__":
    task, data, _, tokenizer = make_data()
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    settings = TrainSettings(
        epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", accumulate=1 + alone, checkpoint_seconds=0
    )
    model = make_model(task, tokenizer, dropout=0.0)
    folder = Path(sys.argv[1])
    train(model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=folder, progress="none")
