"""Tiny tokenizers, made here: BERT's word pieces (with segments) and a byte-level one (spaces inside tokens)."""

import pytest
from tiny_world import fast_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "the a an cat cats dog sat on mat red was in paris france city of is it who what where when london green "
    "blue runs fast slow ##s ##ing ##ed play good bad film very , . ? ! ' born 19 ##45 b c d e f g h i j k l"
)


@pytest.fixture(scope="session")
def wordpiece():
    return fast_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()], max_length=512)


@pytest.fixture(scope="session", params=[True, False], ids=["trimmed", "untrimmed"])
def bytelevel(request):
    """RoBERTa's kind; untrimmed offsets count the space before a word as part of its token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["the cat sat on the mat", "paris is the city of the cats"] * 20, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=request.param)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
