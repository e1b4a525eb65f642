"""Say what is installed, and try what the project stands on, on the CPU and on CUDA if usable."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys

PACKAGES = ["torch", "torchvision", "numpy", "Pillow", "fvcore", "numba", "panoptic_lovasz"]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def try_operators(device: str) -> None:
    """Run the operators that Detectron2 takes from torchvision."""
    import torch
    from detectron2.layers import ROIAlign, batched_nms

    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4.1], [4, 4, 8, 8]], device=device)
    kept = batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), boxes[:, 0] * 0, 0.5)
    assert kept.tolist() == [0, 2], kept
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    crops = ROIAlign((2, 2), 1.0, 0)(torch.ones(1, 1, 8, 8, device=device), rois)
    assert crops.shape == (3, 1, 2, 2), crops.shape


def cuda() -> str:
    """Whether CUDA is usable, and why not."""
    import torch

    if not torch.cuda.is_available():
        return "not usable (no GPU or no driver): everything runs on the CPU"
    try:
        try_operators("cuda")
    except Exception as error:  # of any type: what is told is that it fails
        return f"found, but its operators fail: {error}"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, usable: {', '.join(names)}"


def main() -> None:
    print(f"{'Python':<16}{platform.python_version()} ({sys.prefix})")
    for package in PACKAGES:
        print(f"{package:<16}{version(package)}")
    folder = importlib.import_module("detectron2").__path__[0]
    native = "with" if importlib.util.find_spec("detectron2._C") else "without"
    print(f"{'detectron2':<16}{version('detectron2')}, {native} native extension ({folder})")
    importlib.import_module("panoptic_lovasz.engine")
    try_operators("cpu")
    print(f"{'CUDA':<16}{cuda()}")


if __name__ == "__main__":
    main()
