"""What ran: the processor and the versions of the libraries. Needs no torch."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def processor() -> str:
    """Return the model of the processor, as far as the system tells."""
    try:
        if platform.system() == "Linux":
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model"):
                    return value.strip()
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()


def clips_int8() -> bool:
    """Return whether ONNX Runtime's int8 kernels clip sums here, as far as Linux tells.

    Processors of the x86 family without VNNI instructions add pairs of products of an unsigned and
    a signed byte in 16 bits (``vpmaddubsw``), where 255 x 127 x 2 does not fit.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return "avx2" in words and words.isdisjoint({"avx512_vnni", "avx_vnni"})


def versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each library, ``None`` for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe_machine(libraries: Iterable[str]) -> str:
    """Return the processor, Python and the libraries that are installed, in words."""
    known = {"Python": platform.python_version(), **versions(libraries)}
    words = [f"{name} {version}" for name, version in known.items() if version]
    return ", ".join([processor(), *words])
