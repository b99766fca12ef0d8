"""The machine and the versions that a figure was measured with; no host name, user name or path is in it."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "numpy",
    "openvino", "onnx", "onnxruntime", "onnxscript", "nncf",
)  # fmt: skip
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
)

# The instruction set that matters -> the flags that announce it: Linux on x86 and ARM, then macOS.
FEATURES = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx_int8": {"amx_int8"},
    "amx_bf16": {"amx_bf16"},
    "dotprod": {"asimddp", "hw.optional.arm.FEAT_DotProd"},
    "i8mm": {"i8mm", "hw.optional.arm.FEAT_I8MM"},
    "arm_bf16": {"bf16", "hw.optional.arm.FEAT_BF16"},
}


class Int8Check(NamedTuple):
    """Whether int8 arithmetic can be expected to be faster than float32 here, and why."""

    fast: bool
    reason: str


def environment(*, threads: int | None = None, seed: int | None = None) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a measurement.

    Args:
        threads: what the measurement was told to use; None leaves the key out.
        seed: likewise.

    Returns:
        ``cpu`` (name, cores, features), ``int8`` (fast, reason), ``gpu``, ``memory_bytes``, ``os``,
        ``python``, ``versions``, ``bertpress``, ``commit`` (None outside a checkout), ``load_average`` (of
        the last minute), ``thread_settings``.
    """
    check = int8_is_fast()
    found: dict[str, Any] = {
        "cpu": {
            "name": cpu_name(),
            "architecture": platform.machine(),
            "logical_cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "physical_cores": psutil.cpu_count(logical=False),
            "features": sorted(cpu_features()),
        },
        "int8": {"fast": check.fast, "reason": check.reason},
        "gpu": gpu_name(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
        "bertpress": installed("bertpress"),
        "commit": commit(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "thread_settings": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }
    if threads is not None:
        found["threads"] = threads
    if seed is not None:
        found["seed"] = seed
    return found


def installed(package: str) -> str | None:
    """The installed version of a package, None without it; the package is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Cores that this process may run on; an affinity mask can make them fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's own name."""
    line = _cpuinfo("model name") or _cpuinfo("Hardware") or _sysctl("machdep.cpu.brand_string")
    return line or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Flags as the operating system names them."""
    line = _cpuinfo("flags") or _cpuinfo("Features")
    if line:
        return frozenset(line.split())
    names = [name for flags in FEATURES.values() for name in flags if name.startswith("hw.")]
    return frozenset(name for name in names if _sysctl(name) == "1")


def cpu_features(flags: frozenset[str] | None = None) -> frozenset[str]:
    """The instruction sets of :data:`FEATURES` that this processor has."""
    flags = cpu_flags() if flags is None else flags
    return frozenset(feature for feature, names in FEATURES.items() if names & flags)


def int8_is_fast(features: frozenset[str] | None = None) -> Int8Check:
    """Tell whether integer kernels have an instruction of their own on this processor.

    Without one, an 8-bit product takes three instructions (multiply, widen, add), about the cost of float32:
    the model gets smaller but hardly faster.

    >>> int8_is_fast(frozenset({"avx2", "vnni"})).fast
    True
    """
    features = cpu_features() if features is None else features
    for feature, name in (
        ("amx_int8", "AMX-INT8 tiles"),
        ("vnni", "VNNI dot products"),
        ("i8mm", "I8MM matrix products"),
        ("dotprod", "dot-product instructions"),
    ):
        if feature in features:
            return Int8Check(True, f"the processor has {name}")
    if "avx2" in features:
        return Int8Check(False, "the processor has AVX2 but no VNNI or AMX: int8 is smaller, hardly faster")
    return Int8Check(False, "no int8 instructions were found (VNNI, AMX, dot product): int8 is smaller, not faster")


def gpu_name() -> str | None:
    """The first CUDA device that torch sees; None without one."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def commit() -> str | None:
    """Commit of the checkout that this runs from; None without one.

    Changes are marked by ``+``, but not those in ``results``: benchmarks write there while they run.
    """
    here = Path(__file__).resolve().parent
    found = _output("git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name)
    head = _output("git", "-C", str(here), "rev-parse", "HEAD") if found else None
    if not head:
        return None
    but_results = (":(top)", ":(top,exclude)results")
    changed = _output("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no", "--", *but_results)
    return f"{head}+" if changed else head


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = (line.partition(":") for line in lines)
    return next((text.strip() for name, _, text in fields if name.strip() == key), None)


def _sysctl(name: str) -> str | None:
    return _output("sysctl", "-n", name) if platform.system() == "Darwin" else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
