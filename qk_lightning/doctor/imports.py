"""Whether the libraries can be imported, and the devices that torch sees.

In a process of its own: a library that crashes takes nothing along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qk_lightning.doctor.finding import Finding, size_text
from qk_lightning.doctor.packages import version_of

MODULES = (
    "torch", "safetensors.torch", "lightning.pytorch", "transformers", "diffusers", "peft",
    "torchmetrics", "scipy", "PIL.Image", "matplotlib", "dicebear", "resvg_py", "mlflow",
)  # fmt: skip
SECONDS = 300
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, arm

# Lines of JSON on the real stdout; whatever a library prints goes to stderr.
CHILD = """
import importlib, json, os, sys
out = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
for name in sys.argv[1:]:
    line = {"module": name, "error": ""}
    try:
        module = importlib.import_module(name)
        if name == "torch":
            cuda = range(module.cuda.device_count()) if module.cuda.is_available() else ()
            line["threads"] = module.get_num_threads()
            line["mps"] = module.backends.mps.is_available()
            line["built_for"] = module.version.cuda or getattr(module.version, "hip", None)
            line["cuda"] = [
                {"name": module.cuda.get_device_name(i), "bf16": module.cuda.is_bf16_supported(),
                 "memory": module.cuda.get_device_properties(i).total_memory} for i in cuda
            ]
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        line["error"] = type(error).__name__ + ": " + text[0]
    out.write(json.dumps(line) + "\\n"); out.flush()
"""


def check_imports(modules: Sequence[str] = MODULES) -> Iterator[Finding]:
    """Import each module, and ask torch for its devices.

    Args:
        modules: dotted names.

    Yields:
        A finding a module, and those of the devices behind torch.
    """
    left = list(modules)
    causes: dict[str, str] = {}  # the first module with each error: others only pass it on
    while left:
        for line in _answers(left):
            left.remove(line["module"])
            yield from _judge(line, causes)
            if line.get("died"):
                break


def _answers(modules: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what a fresh process tells; where it dies, that it died at the next module."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CHILD, *modules]
    waiting = list(modules)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                line: dict[str, Any] = json.loads(text)
                waiting.remove(line["module"])
                yield line
            code = process.wait(SECONDS)
        finally:
            process.kill()
    if waiting:
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        yield {"module": waiting[0], "error": f"its import ended Python ({cause})", "died": True}


def _judge(line: dict[str, Any], causes: dict[str, str]) -> Iterator[Finding]:
    name = line["module"].partition(".")[0]
    if line["error"]:
        if (cause := causes.setdefault(line["error"], name)) != name:
            yield Finding(f"import {name}", "missing", f"needs {cause}", f"mend {cause} first")
            return
        is_gone = line["error"].startswith("ModuleNotFoundError")
        dist = {"PIL": "pillow", "dicebear": "dicebear-core", "resvg_py": "resvg-py"}.get(
            name, name
        )
        force = "" if is_gone or version_of(dist) is None else "--force-reinstall "
        yield Finding(f"import {name}", "missing", line["error"], f"pip install {force}{dist}")
        return
    yield Finding(f"import {name}", "ok", "")
    if name == "torch":
        yield from _devices(line)


def _devices(line: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("torch threads", "ok", str(line["threads"]))
    for device in line["cuda"]:
        bf16 = "bf16" if device["bf16"] else "no bf16: precision 16-mixed or 32-true"
        yield Finding("cuda", "ok", f"{device['name']}, {size_text(device['memory'])}, {bf16}")
    if not line["cuda"]:
        built = line["built_for"]
        why = f"built for {built}, none seen" if built else "this torch is built without it"
        yield Finding("cuda", "ok", f"{why}; the laptop presets need none")
    if line["mps"]:
        yield Finding("mps", "ok", "seen: trainer.accelerator=mps")


def check_machine() -> Iterator[Finding]:
    """Say what this machine is, without torch.

    Yields:
        Cores, threads, memory, bf16 on the CPU.
    """
    cores = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    given = os.environ.get("OMP_NUM_THREADS")
    threads = f"; OMP_NUM_THREADS={given}" if given else ""
    yield Finding("cpu", "ok", f"{cores} cores, {mine} for this process{threads}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", "ok", size_text(memory))
    info = Path("/proc/cpuinfo")
    if info.is_file():
        flags = set(info.read_text().split())
        has = [flag for flag in BF16_FLAGS if flag in flags]
        text = f"has instructions for it ({', '.join(has)})" if has else "emulated"
        yield Finding("bf16 on the cpu", "ok", f"{text}; presets train in 32-true")
