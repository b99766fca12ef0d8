"""Table 1 of the survey as facts: what papers report of their own models, on their own machines.

Source: Ganesh et al., TACL 2021, Table 1 and section 4.  Sizes are percentages of BERT-base in float32, scores the
accuracy on ``mnli``, ``qqp``, ``sst2`` and F1 on ``squad``, drops the mean over the tasks of a row in points, positive
for a loss.  Rows mix validation and test scores, so that drops can be compared, decimals hardly.  Departs from it:
drops are as printed, and a note says where the row's own cells give another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TASKS = ("mnli", "qqp", "sst2", "squad")
Setup = Literal["", "A", "S", "A,S"]

LARGE = "BERT-large is the teacher"
CPU_TIMED = "the survey's authors timed it on the CPU"
BOTH_TIMED = "the survey's authors timed it"
MEAN_SIZE = "size differs by task: the mean"
ROUNDED = "prose and table differ in the second digit of the size"


@dataclass(frozen=True)
class Row:
    """One row of the table; None is a dash.

    Attributes:
        method: as the survey calls it.
        cite: authors and year.
        group: heading that it stands under.
        setup: A, task-agnostic, so that the data of pre-training are needed; S, task-specific.
        device: where the paper timed its model; None: it did not.
        size: percent of BERT-base.
        size_without: the same without embeddings.
        gpu: speed-up over BERT-base on a GPU.
        cpu: speed-up over BERT-base on a CPU.
        scores: percent by task.
        drop: mean loss in points.
        recipe: the shipped recipe that follows it.
        notes: of the table, and what is doubtful.
    """

    method: str
    cite: str
    group: str
    setup: Setup
    device: str | None
    size: float
    size_without: float
    gpu: float | None
    cpu: float | None
    scores: dict[str, float] = field(hash=False)
    drop: float
    recipe: str | None = None
    notes: tuple[str, ...] = ()


def _scores(
    mnli: float | None = None, qqp: float | None = None, sst2: float | None = None, squad: float | None = None
) -> dict[str, float]:
    found = zip(TASKS, (mnli, qqp, sst2, squad), strict=True)
    return {task: score for task, score in found if score is not None}


QUANTIZATION, UNSTRUCTURED, STRUCTURED = "Quantization", "Unstructured pruning", "Structured pruning"
LOGITS, ATTENTION, TARGETS = "Distillation of logits", "Distillation of attention", "Several targets of distillation"
DECOMPOSITION, DYNAMIC, SHARING = "Matrix decomposition", "Dynamic inference", "Parameter sharing"
PRUNING_KD, QUANTIZATION_KD, COMPOUND = "Pruning with distillation", "Quantization with distillation", "Compound"

BERT_BASE = Row("BERT-base", "Devlin et al., 2019", "", "", None, 100, 100, 1, 1, _scores(84.6, 89.2, 93.5, 88.5), 0.0)

ROWS: tuple[Row, ...] = (
    Row("Q-BERT", "Shen et al., 2020", QUANTIZATION, "S", None, 15, 12.5, 1, 1,
        _scores(mnli=83.9, sst2=92.6, squad=88.3), 0.6, "qbert"),
    Row("GOBO", "Zadeh et al., 2020", QUANTIZATION, "S", None, 10.2, 5.5, 1, 1, _scores(mnli=83.7), 0.9, "gobo",
        ("3 bits are 9.4 % of the encoder at best: its 5.5 % is doubtful",)),
    Row("RPP", "Guo et al., 2019", UNSTRUCTURED, "A", None, 67.6, 58.7, 1, 1, _scores(squad=88.5), 0.0, "rpp"),
    Row("Lottery ticket", "Chen et al., 2020b", UNSTRUCTURED, "S", None, 48.9, 35.1, 1, 1,
        _scores(83.1, 89.5, 92.9, 87.8), 0.63, "lottery-ticket", (MEAN_SIZE,)),
    Row("Movement pruning", "Sanh et al., 2020", UNSTRUCTURED, "S", None, 23.8, 3, 1, 1,
        _scores(mnli=79.0, qqp=89.3, squad=79.9), 4.73, "movement", ("its cells give a drop of 4.70",)),
    Row("SNIP", "Lin et al., 2020", STRUCTURED, "S", None, 60.7, 50, None, None,
        _scores(qqp=88.9, sst2=91.8), 1.0, "snip"),
    Row("schuBERT", "Khetan and Karnin, 2020", STRUCTURED, "A", None, 39.1, 38.8, 2.93, 2.76,
        _scores(mnli=83.4, sst2=90.9, squad=86.7), 1.86, "schubert", (BOTH_TIMED,)),
    Row("LightPAFF", "Song et al., 2020", LOGITS, "A,S", "V100", 22.8, 10.9, 6.25, 7.09,
        _scores(qqp=88.6, sst2=92.9), 0.6, "lightpaff"),
    Row("MKD", "Liu et al., 2019a", LOGITS, "S", "V100", 24.1, 3.3, 10.7, 8.6,
        _scores(mnli=78.6, qqp=88.6, sst2=91.0), 3.03, "mkd", (LARGE, CPU_TIMED)),
    Row("AdaBERT", "Chen et al., 2020a", LOGITS, "A,S", "V100", 7.4, 4.8, 19.5, None,
        _scores(mnli=81.6, qqp=88.7, sst2=91.8), 2.06, "adabert",
        ("speed-up differs by task: the mean", "its cells give a drop of 1.73")),
    Row("MiniLM", "Wang et al., 2020c", ATTENTION, "A", "P100", 60.7, 50, 1.94, 1.73,
        _scores(84.0, 91.0, 92.0), 0.1, "minilm"),
    Row("DistilBERT", "Sanh et al., 2019", TARGETS, "A", "CPU", 60.7, 50, 1.94, 1.73,
        _scores(82.2, 88.5, 91.3, 86.9), 1.73, "distilbert"),
    Row("MobileBERT", "Sun et al., 2020b", TARGETS, "A", "Pixel", 23.1, 24.8, 3.9, 4.7,
        _scores(mnli=83.3, sst2=92.8, squad=90.0), 0.16, "mobilebert", (LARGE, BOTH_TIMED)),
    Row("TinyBERT", "Jiao et al., 2020", TARGETS, "A,S", "K80", 13.3, 6.4, 9.4, 9.3,
        _scores(82.5, 89.2, 92.6), 1.0, "tinybert", (CPU_TIMED, "its shape gives 5.4 % without embeddings")),
    Row("Optimal subwords", "Zhao et al., 2019b", TARGETS, "A", None, 1.6, 1.8, 25.5, 22.7,
        _scores(mnli=71.3, sst2=82.2), 12.3, "optimal-subwords", (BOTH_TIMED,)),
    Row("SVD and features", "Noach and Goldberg, 2020", DECOMPOSITION, "S", "Titan V", 60.6, 49.1, 0.92, 1.05,
        _scores(84.8, 89.7, 92.4), 0.13, "svd-features"),
    Row("DeFormer", "Cao et al., 2020", DECOMPOSITION, "S", "V100", 100, 100, 3.14, 3.55,
        _scores(mnli=82.6, qqp=90.3, squad=87.1), 0.76, "deformer"),
    Row("DeeBERT", "Xin et al., 2020", DYNAMIC, "S", "P100", 100, 100, 1.25, 1.28,
        _scores(83.9, 89.2, 93.4), 0.26, "deebert", (CPU_TIMED,)),
    Row("PoWER-BERT", "Goyal et al., 2020", DYNAMIC, "S", "K80", 100, 100, 2.5, 3.1,
        _scores(mnli=83.8, sst2=92.1), 1.1, "power-bert", (CPU_TIMED,)),
    Row("ALBERT", "Lan et al., 2020", SHARING, "A", None, 10.7, 8.8, 1.2, 1.2,
        _scores(84.3, 89.6, 90.3, 89.3), 0.58, "albert", (BOTH_TIMED,)),
    Row("LadaBERT", "Mao et al., 2020", PRUNING_KD, "S", None, 40.0, 37.3, 1, 1,
        _scores(83.5, 88.9, 92.8), 0.7, "ladabert"),
    Row("DynaBERT", "Hou et al., 2020", PRUNING_KD, "S", "K40", 31.2, 12.4, 5.9, 8.7,
        _scores(82.0, 90.4, 92.0), 0.96, "dynabert", (BOTH_TIMED,)),
    Row("GOBO on DistilBERT", "Zadeh et al., 2020", QUANTIZATION_KD, "S", "CPU", 7.6, 3.9, 1.94, 1.73,
        _scores(mnli=82.0), 2.6, "gobo-distilbert",
        (ROUNDED, "4 bits of half an encoder are 6.3 %: its 3.9 % is doubtful")),
    Row("MobileBERT, 8 bits", "Sun et al., 2020b", QUANTIZATION_KD, "A", "Pixel", 5.7, 6.1, 3.9, 4.7,
        _scores(mnli=83.3, sst2=92.6, squad=90.0), 0.23, "mobilebert-int8", (LARGE, BOTH_TIMED, ROUNDED)),
    Row("EdgeBERT", "Tambe et al., 2020", COMPOUND, "S", "TX2", 1.3, 0.9, 1.83, None,
        _scores(84.4, 89.8, 88.5), 1.53, "edgebert"),
)  # fmt: skip

NAMES = tuple(row.method for row in ROWS)


def mean_drop(row: Row) -> float:
    """The drop that a row's own cells give: BERT-base minus the row, over the tasks that it has."""
    lost = [BERT_BASE.scores[task] - score for task, score in row.scores.items()]
    return sum(lost) / len(lost)
