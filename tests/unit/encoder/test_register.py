import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import bertpress
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model

KNOWN = """
from bertpress.encoder.model import BertpressConfig, BertpressForTokenClassification
from transformers import AutoConfig, AutoModelForTokenClassification
assert type(AutoConfig.for_model("bertpress")) is BertpressConfig
assert AutoModelForTokenClassification._model_mapping[BertpressConfig] is BertpressForTokenClassification
"""


def test_import_is_quick_and_waits_for_the_auto_classes():
    code = "import bertpress, sys; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "import bertpress; from transformers import AutoModel",
        "from transformers import AutoModel, AutoConfig; import bertpress",
        "import bertpress; from transformers import AutoConfig; from transformers import AutoModel",
        "import bertpress.encoder.model",
        "import bertpress.encoder.config",
        "import bertpress; from transformers import PreTrainedModel",
        "import bertpress; from transformers import pipeline",
        "import bertpress; from transformers import Trainer",
        "import transformers; import bertpress",
    ],
)
def test_every_order_of_imports_registers(order):
    subprocess.run([sys.executable, "-c", order + KNOWN], check=True, timeout=120)


def model_folder(folder: Path, head: HeadSpec, **fields: object) -> Path:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[MASK]", "who", "sings", "here", "birds", "do"])}
    raw = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **special).save_pretrained(folder)
    torch.manual_seed(0)
    blueprint = uniform(layers=1, hidden_size=8, heads=2, ffn=8, vocabulary=8, positions=32, head=head)
    build_model(blueprint, **fields).save_pretrained(folder)
    return folder


def test_pipelines_and_auto_classes_load_our_folders(tmp_path):
    assert bertpress.__version__
    names = {"id2label": {0: "cold", 1: "warm"}, "label2id": {"cold": 0, "warm": 1}}
    place = model_folder(tmp_path / "sequence", HeadSpec(kind="sequence", labels=2), **names)
    answer = transformers.pipeline("text-classification", model=str(place))("birds do")
    assert answer[0]["label"] in {"cold", "warm"}

    place = model_folder(tmp_path / "token", HeadSpec(kind="token", labels=2), **names)
    tagged = transformers.pipeline("token-classification", model=str(place))("birds do")
    assert [tag["word"] for tag in tagged] == ["birds", "do"]

    place = model_folder(tmp_path / "masked", HeadSpec(kind="masked_lm", activation="gelu"))
    assert len(transformers.pipeline("fill-mask", model=str(place))("birds [MASK]", top_k=3)) == 3

    place = model_folder(tmp_path / "span", HeadSpec(kind="span"))
    loaded = transformers.AutoModelForQuestionAnswering.from_pretrained(place)
    assert loaded(torch.tensor([[3, 4, 5]])).start_logits.shape == (1, 3)
    assert transformers.AutoModel.from_pretrained(place).blueprint.head.kind == "span"
