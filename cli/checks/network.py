"""What the neural networks run on: PyTorch and the GPUs it sees."""

import shutil
import subprocess
from importlib.metadata import version

from cli.checks.finding import Finding, State
from worker.gpus import Gpu
from worker.memory_needs import Demand, Role
from worker.pipeline.precision import MemoryUse, Precision, multiplies_fp8

NVIDIA_SMI_TIMEOUT_S = 20


def torch_build() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("PyTorch", State.MISSING, f"cannot be imported: {error}", "set up again: python3 run.py demo")
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    said = f"{version('torch')}, {built_for}, {torch.get_num_threads()} threads"
    if _driver() is not None and not torch.version.cuda:
        mend = "there is a GPU: install the CUDA build with python3 run.py --torch cuda demo"
        return Finding("PyTorch", State.NOTE, said, mend)
    return Finding("PyTorch", State.OK, said)


def gpus() -> list[Finding]:
    """One finding for each GPU that PyTorch can use."""
    try:
        import torch
    except ImportError:
        return []
    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            said = "none; the avatar preset runs on the CPU, the 14b preset needs one"
            return [Finding("GPU", State.NOTE, said)]
        mend = "check CUDA_VISIBLE_DEVICES, and that the driver is new enough for this PyTorch"
        return [Finding("GPU", State.MISSING, f"driver {driver} is there, but PyTorch sees no GPU", mend)]
    return [_gpu(index, driver or "unknown") for index in range(torch.cuda.device_count())]


def _gpu(index: int, driver: str) -> Finding:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    properties = torch.cuda.get_device_properties(index)
    said = f"{properties.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, driver {driver}"
    mend = large_preset_on(Gpu(index, properties.name, total, (properties.major, properties.minor)))
    return Finding(f"GPU {index}", State.OK if mend is None else State.NOTE, said, mend or "")


def large_preset_on(gpu: Gpu) -> str | None:
    """What it takes for this GPU to hold all of the 14b preset; None: nothing."""
    if Demand("14b", Precision.FULL, MemoryUse.AMPLE).fits([Role.ALL], gpu):
        return None
    if multiplies_fp8(gpu.capability):
        if Demand("14b", Precision.FP8, MemoryUse.AMPLE).fits([Role.ALL], gpu):
            return "for the 14b preset it is large enough with --precision fp8 (REALVIDEO_PRECISION)"
        if Demand("14b", None, MemoryUse.LOW).fits([Role.ALL], gpu):
            return "for the 14b preset it is large enough with --low_memory (REALVIDEO_MEMORY=low)"
    return "it is too small for the 14b preset, but a part of it may fit beside other GPUs"


def _driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return None
    asked = [nvidia_smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "(nvidia-smi does not answer)"
    lines = answer.stdout.split("\n")
    return lines[0].strip() if answer.returncode == 0 and lines[0].strip() else None
