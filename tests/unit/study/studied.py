"""Entries of a study as its runs leave them, made up: only what claims and tables read."""

LAYER = {"heads": list(range(12)), "ffn": [1536], "head_size": 32}
TEACHER_BYTES, EMBEDDING_BYTES = 100_000, 50_000
ENVIRONMENT = {"cpu": {"name": "a processor"}}


def layer(heads=12, ffn=1536, **more):
    return {**LAYER, "heads": list(range(heads)), "ffn": [ffn], **more}


def stage(*use, **more):
    return {"use": [{item: {}} if isinstance(item, str) else item for item in use], "data": "task", **more}


def entry(
    label, *use, score=90.0, stages=None, task="sst2", seed=0, model="minilm", size=TEACHER_BYTES, layers=None,
    speedups=(), parameters=22_000_000, without=10_000_000, peak=None, macs=None, latency=None, hidden=384,
):  # fmt: skip
    """A finished run of a teacher that scores 91."""
    packed = {"weight_bytes": size, "weight_bytes_without_embeddings": size - EMBEDDING_BYTES}
    artifact = {
        **packed,
        "engines": {"torch": packed},
        "metric": {"name": "accuracy", "value": score, "low": score - 2, "high": score + 2},
        "drop": {"value": 91.0 - score, "low": 90.0 - score, "high": 92.0 - score},
        "layers": layers if layers is not None else [LAYER] * 6,
        "parameters": parameters,
        "parameters_without_embeddings": without,
        "hidden_size": hidden,
        "latency_ms": {"median": latency} if latency else {},
        "model_latency_ms": {"median": latency} if latency else {},
        "macs": macs,
        "peak_memory_bytes": peak,
    }
    if speedups:
        artifact |= {"speedup": sorted(speedups)[len(speedups) // 2], "speedup_samples": list(speedups)}
    baseline = {
        "weight_bytes": TEACHER_BYTES,
        "weight_bytes_without_embeddings": TEACHER_BYTES - EMBEDDING_BYTES,
        "metric": {"name": "accuracy", "value": 91.0},
        "layers": [LAYER] * 6,
        "hidden_size": 384,
        "latency_ms": {"median": 10.0},
        "peak_memory_bytes": 400_000_000,
        "speedup": 1.0,
    }
    return {
        "label": label,
        "model": model,
        "task": task,
        "seed": seed,
        "recipe": {"name": label, "cite": "Somebody, 2020", "stages": stages or [stage(*use)]},
        "baseline": baseline,
        "artifact": artifact,
    }


def repeated(label, *use, score=90.0, **more):
    """Nine runs of one line, on three tasks and three seeds, whose scores differ by task and a little by seed."""
    return [
        entry(label, *use, score=score + 3 * number + 0.1 * seed, task=task, seed=seed, **more)
        for number, task in enumerate(("sst2", "mrpc", "ag_news"))
        for seed in range(3)
    ]
