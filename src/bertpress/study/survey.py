"""What the survey says in sections 2 to 5, each statement with the runs that it needs and the test that it is put to.

Source: Ganesh et al., TACL 2021.  Departs from it: the thresholds are ours, as the survey gives none ("hardly" is one
point, "no speed" less than 10 %, "of its size" within 15 % of the packed file).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from bertpress.report.reading import number, text
from bertpress.study.claims import (
    ATTENTION,
    BOTTOM_LAYERS,
    COMBINING,
    GENERAL_FIRST,
    HARMONY,
    Claim,
    Verdict,
)
from bertpress.study.evidence import STATES, Evidence, Run
from bertpress.study.structure import (
    attention_on_a_gpu,
    embeddings_are_light,
    embeddings_dominate,
    few_pieces,
    ffn_dominates,
    ffn_takes_time,
    sparse_encoder,
    time_follows_macs,
)
from bertpress.study.weighing import (
    advantage,
    faster,
    keeps,
    lighter,
    no_faster,
    outpaces,
    same_depth,
    same_encoder,
    same_shape,
    same_size,
)

CITE = "Ganesh et al., 2021"
POINT = 1.0
NO_SPEED = 1.1
WIDTHS = frozenset({"heads", "neurons", "hidden size"})

Weigh: TypeAlias = "Callable[[Claim, Evidence], Verdict]"


def _claim(section: str, text: str, better: str, worse: str = "") -> Claim:
    return Claim(text=text, cite=CITE, better=better, worse=worse, section=section)


def _only(*families: str) -> Callable[[Run], bool]:
    return lambda run: bool(run.families) and run.families <= set(families)


def _recurrent(run: Run) -> bool:
    return run.mixes("lstm")


def _small_transformer(run: Run) -> bool:
    return "student" in run.families and run.mixes("attention")


def _taught(run: Run) -> bool:
    return bool(run.targets)


def _shrunk_to(percent: float) -> Callable[[Run], bool]:
    return lambda run: _only("quantize")(run) and (run.percent or 100.0) <= percent


def _prunes(run: Run) -> bool:
    return run.unstructured or run.structured


def _cuts_layers(strategy: str) -> Callable[[Run], bool]:
    return lambda run: run.methods.get("prune/layers", {}).get("strategy") == strategy


def _quantizes(part: str) -> Callable[[Run], bool]:
    """Few bits in this part alone: what ``quantize/uniform`` says of bits, 32 being float."""

    def matches(run: Run) -> bool:
        fields = run.methods.get("quantize/uniform", {})
        bits = {"encoder": fields.get("bits", 32), "embeddings": fields.get("embedding_bits", 32)}
        return len(run.methods) == 1 and [name for name, count in bits.items() if count < 32] == [part]

    return matches


def _same_bits(one: Run, other: Run) -> bool:
    """Whether the part that each quantizes has as many bits."""
    return _bits(one) == _bits(other)


def _bits(run: Run) -> float:
    fields = run.methods["quantize/uniform"]
    return min(number(fields, name) or 32 for name in ("bits", "embedding_bits"))


def _unlabelled_first(run: Run) -> bool:
    return len(run.stages) > 1 and text(run.stages[0], "data") == "unlabelled" and _taught(run)


def _few_heads(run: Run) -> bool:
    return "prune" in run.families and run.mixes("attention") and all(0 < heads <= 2 for heads, *_ in run.layers)


def _local(run: Run) -> bool:
    return bool(run.methods.keys() & {"attention/deformer", "attention/local"})


def _exits(taught: bool) -> Callable[[Run], bool]:
    return lambda run: "exit" in run.families and ("exit/fastbert" in run.methods or _taught(run)) is taught


STATEMENTS: tuple[tuple[Claim, Weigh], ...] = (
    (
        _claim("2", "The feed-forward units hold most parameters and most arithmetic.", "BERT-base at 256 tokens"),
        ffn_dominates,
    ),
    (
        _claim("2", "The feed-forward units take most of the time on a CPU.", "the studied models at 256 tokens"),
        ffn_takes_time,
    ),
    (
        _claim("2, 3.6", "The embeddings are about 21 % of BERT-base, and no arithmetic.", "BERT-base"),
        embeddings_are_light,
    ),
    (
        _claim("2", "On a CPU, time follows the count of multiply-accumulates.", "timed runs without integers"),
        time_follows_macs,
    ),
    (
        _claim("2", "On a GPU, attention costs more than its arithmetic.", "the studied models on a GPU"),
        attention_on_a_gpu,
    ),
    (
        _claim("3.1", "The embeddings bear fewer bits worse than the encoder does.", "the encoder in few bits",
               "the embeddings in as few"),
        partial(advantage, better=_quantizes("encoder"), worse=_quantizes("embeddings"), near=_same_bits),
    ),
    (
        _claim("4.2", "Quantization reaches 15 % of the size at no more than a point.", "quantized to 15 % or less"),
        partial(keeps, which=_shrunk_to(15), most=POINT),
    ),
    (
        _claim("4.2", "Quantization reaches 10 % of the size at no more than a point.", "quantized to 10.2 % or less"),
        partial(keeps, which=_shrunk_to(10.2), most=POINT),
    ),
    (
        _claim("4.2", "Zeros here and there give no speed on dense kernels.", "unstructured pruning alone"),
        partial(no_faster, which=lambda run: run.unstructured and _only("prune")(run), most=NO_SPEED),
    ),
    (
        _claim("4.2", "Quantization gives no speed without integer kernels.", "weights in few bits, float arithmetic"),
        partial(no_faster, which=lambda run: _only("quantize")(run) and not run.integers, most=NO_SPEED),
    ),
    (
        _claim("4.2", "With integer kernels quantization gives speed.", "weights and activations in 8 bits"),
        partial(faster, which=lambda run: _only("quantize")(run) and run.integers),
    ),
    (
        HARMONY.model_copy(update={"section": "4.2"}),
        partial(advantage, near=same_size, better=lambda run: run.structured and run.cut >= WIDTHS and not _taught(run),
                worse=lambda run: run.structured and len(run.cut) == 1 and not _taught(run)),
    ),
    (
        BOTTOM_LAYERS.model_copy(update={"section": "3.2"}),
        partial(advantage, better=_cuts_layers("top"), worse=_cuts_layers("bottom"), near=same_depth),
    ),
    (
        _claim("3.2", "Pruning can improve accuracy.", "pruning alone, which loses less than nothing"),
        partial(keeps, which=lambda run: _prunes(run) and _only("prune")(run), most=0.0),
    ),
    (
        _claim("3.2", "One or two heads in each layer suffice.", "at most two heads in every layer"),
        partial(keeps, which=_few_heads, most=POINT),
    ),
    (
        _claim("3.3", "A BiLSTM student is faster than a Transformer student of its size.", "BiLSTM students",
               "Transformer students with as many parameters beside the embeddings"),
        partial(outpaces, better=_recurrent, worse=_small_transformer, near=same_encoder),
    ),
    (
        _claim("3.3", "A BiLSTM student needs less memory than a Transformer student of its size.", "BiLSTM students",
               "Transformer students with as many parameters beside the embeddings"),
        partial(lighter, better=_recurrent, worse=_small_transformer, near=same_encoder),
    ),
    (
        _claim("4.2", "A searched CNN is the fastest student.", "student/adabert", "every other student"),
        partial(outpaces, better=lambda run: "student/adabert" in run.methods,
                worse=lambda run: "student" in run.families, near=lambda one, other: True),
    ),
    (_claim("4.2", "The embeddings dominate small BiLSTM students.", "BiLSTM students"), embeddings_dominate),
    (
        _claim("4.2", "With 3 % of the encoder's weights, 23.8 % of the size are left.", "BERT-base"),
        sparse_encoder,
    ),
    (
        ATTENTION.model_copy(update={"section": "4.2"}),
        partial(advantage, near=same_depth, better=lambda run: run.follows_attention and "distill" in run.families,
                worse=lambda run: bool(run.targets & STATES) and not run.follows_attention),
    ),
    (
        COMBINING.model_copy(update={"section": "4.2"}),
        partial(advantage, near=same_depth, better=lambda run: len(run.targets) > 1,
                worse=lambda run: len(run.targets) == 1),
    ),
    (
        GENERAL_FIRST.model_copy(update={"section": "3.3"}),
        partial(advantage, near=same_depth, better=_unlabelled_first,
                worse=lambda run: _taught(run) and not _unlabelled_first(run)),
    ),
    (
        _claim("4.2", "Without attention, distillation loses to structured pruning of the same depth.",
               "structured pruning alone", "distillation that does not follow attention"),
        partial(advantage, near=same_depth, better=lambda run: run.structured and _only("prune")(run),
                worse=lambda run: _taught(run) and not run.follows_attention and "prune" not in run.families),
    ),
    (
        _claim("4.2", "With attention, distillation beats structured pruning of the same size.",
               "distillation that follows attention", "structured pruning alone"),
        partial(advantage, near=same_size, better=lambda run: run.follows_attention and "prune" not in run.families,
                worse=lambda run: run.structured and _only("prune")(run)),
    ),
    (
        _claim("4.2", "Pruning with distillation beats pruning.", "pruning that follows a teacher", "pruning alone"),
        partial(advantage, near=same_size, better=lambda run: _prunes(run) and _taught(run),
                worse=lambda run: _prunes(run) and _only("prune")(run)),
    ),
    (
        _claim("4.2", "Quantizing a distilled student costs little more.", "quantized students", "the same in float"),
        partial(advantage, near=same_shape, margin=POINT,
                better=lambda run: "quantize" in run.families and "student" in run.families,
                worse=lambda run: "quantize" not in run.families and "student" in run.families),
    ),
    (
        _claim("4.2, 4.3", "Methods together beat one alone.", "methods of two or more families", "methods of one"),
        partial(advantage, near=same_size, better=lambda run: len(run.ways) > 1, worse=lambda run: len(run.ways) == 1),
    ),
    (
        _claim("4.2", "Low rank makes a model smaller, not faster.", "factorization alone"),
        partial(no_faster, which=lambda run: _only("factorize", "distill")(run) and "factorize" in run.families
                and (run.percent or 100.0) < 100, most=NO_SPEED),
    ),
    (
        _claim("4.2", "Local attention in the lower layers hardly hurts.", "attention that is local below"),
        partial(keeps, which=_local, most=POINT),
    ),
    (
        _claim("3.7", "Exits that follow the last classifier beat exits trained from scratch.", "distilled exits",
               "exits that learn the labels"),
        partial(advantage, better=_exits(True), worse=_exits(False), near=same_depth),
    ),
    (
        _claim("3.6", "A vocabulary of 5,000 word pieces keeps 94 % of the tokens.", "the texts of the tasks"),
        few_pieces,
    ),
    (
        _claim("5", "Compressing each layer by itself helps.", "pruning that leaves layers unlike each other",
               "pruning that leaves them alike"),
        partial(advantage, near=same_size, better=lambda run: run.structured and run.uneven,
                worse=lambda run: run.structured and not run.uneven),
    ),
    (
        _claim("1", "A large model that is compressed beats a small one that is trained.", "pruned large models",
               "small models without a teacher"),
        partial(advantage, near=same_encoder, better=lambda run: _prunes(run) and "student" not in run.families,
                worse=lambda run: "student" in run.families and not _taught(run)),
    ),
)  # fmt: skip


def weigh(evidence: Evidence) -> list[Verdict]:
    """The verdict on every statement, in the survey's order as far as it has one."""
    return [test(claim, evidence) for claim, test in STATEMENTS]
