"""From images to panoptic results, with nothing but a checkpoint."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from ..checkpoint import load_weights
from ..config import load_config, load_found_config
from ..data import PanopticClasses
from ..device import choose_device
from ..errors import CheckpointError, ConfigError, DatasetError
from ..model_zoo import fetch_from_hub, find_model, save_hub_folder
from ..model_zoo.publishing import describe
from ..modeling import clear_build_errors
from .defaults import check_panoptic, class_counts, classes_of_config
from .images import as_rgb, network_input
from .onnx_network import OnnxNetwork, check_onnx_options
from .result import PanopticResult

__all__ = ["PanopticPredictor"]

ImageLike = np.ndarray | Image.Image | str | os.PathLike

# With batches, this many of them are read ahead to put images of one size together.
_BATCHES_AHEAD = 4


class PanopticPredictor:
    """Predicts panoptic segmentations of single images, lists and streams.

    Unlike Detectron2's ``DefaultPredictor``, which goes on working, it takes paths and PIL images,
    arrays in RGB, batches, and returns a :class:`PanopticResult`; the segmentation is the same.

        predictor = PanopticPredictor.from_checkpoint("output/demo")
        predictor("photo.jpg").save("prediction.png")
        for result in predictor.predict(sorted(Path("photos").glob("*.jpg"))):
            print(result.source, [s.class_name for s in result.segments])

    Args:
        cfg: a config of Panoptic FPN; ``MODEL.WEIGHTS`` are loaded, if not empty.
        classes: the classes; by default those of the config's data sets, if one is registered
            and there, else numbered ones ("thing 3").
        device: "cpu", "cuda", a ``torch.device``, ...; by default ``MODEL.DEVICE``, or the CPU
            where that is CUDA without one or the backend is "onnx".
        batch_size: images that go through the network together, if their sizes agree; one by one
            with the backend "onnx", which gains nothing from batches.
        amp: compute in mixed precision: float16 on CUDA, bfloat16 on the CPU.
        array_order: "RGB", or "BGR" for arrays read by OpenCV.
        backend: "torch", or "onnx" for the same results in less time on the CPU, by ONNX Runtime
            with as many threads as PyTorch has. The network is exported here, which takes seconds:
            what is changed in ``model`` later has no effect.

    Raises:
        ConfigError: if the weights are missing or do not fit, a device is not there, or the network
            gives no panoptic segmentation; with "onnx" also if a package is missing, the device is
            not the CPU, ``amp`` is on, or the network cannot be exported.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        classes: PanopticClasses | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        amp: bool = False,
        array_order: str = "RGB",
        backend: str = "torch",
    ):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1")
        if array_order not in ("RGB", "BGR"):
            raise ConfigError(f"array_order is {array_order!r}, expected 'RGB' or 'BGR'")
        if backend not in ("torch", "onnx"):
            raise ConfigError(f"backend is {backend!r}, expected 'torch' or 'onnx'")
        check_panoptic(cfg)
        if backend == "onnx":
            check_onnx_options(device, amp)
            device = "cpu"
        self.cfg = cfg.clone()
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = choose_device(device, cfg.MODEL.DEVICE)
        self.classes = classes or classes_of_config(cfg)
        if class_counts(cfg) != (self.classes.num_things, self.classes.num_semantic):
            raise ConfigError(
                f"{self.classes.num_things} thing and {self.classes.num_semantic} semantic classes "
                f"are given, but MODEL.ROI_HEADS.NUM_CLASSES and MODEL.SEM_SEG_HEAD.NUM_CLASSES "
                f"are {class_counts(cfg)}"
            )
        self.batch_size = batch_size
        self.amp = amp
        self.array_order = array_order
        with clear_build_errors(self.cfg):
            self.model = build_model(self.cfg).eval()
        if cfg.MODEL.WEIGHTS:
            load_weights(
                self.model,
                cfg.MODEL.WEIGHTS,
                trust_weights=cfg.MODEL.TRUST_WEIGHTS,
                averaged=cfg.TEST.EMA,
            )
        self._onnx_network = OnnxNetwork(self) if backend == "onnx" else None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike,
        opts: Sequence[str] = (),
        *,
        zoo: str | os.PathLike | None = None,
        **options,
    ) -> PanopticPredictor:
        """Load a model from what training wrote, from a published file or by name.

        Args:
            path: the OUTPUT_DIR of a training or a weights file in it; a published .safetensors
                file, or a URL of one; or a name that ``model_zoo.list(trained=True)`` gives.
            opts: KEY, VALUE, ... that change the checkpoint's config.
            zoo: where names are looked up, see :func:`~panoptic_lovasz.model_zoo.read_index`.
            options: those of :class:`PanopticPredictor`.

        Raises:
            ConfigError: if files are missing or do not fit together.
            CheckpointError: if the weights are damaged or unsafe. Of a config that comes with them
                only what describes the model is taken (:func:`~..config.load_found_config`):
                MODEL.TRUST_WEIGHTS, for one, can be set by ``opts`` alone.
        """
        checkpoint = find_model(path, zoo=zoo)
        load = load_config if checkpoint.is_own else load_found_config
        weights = ("MODEL.WEIGHTS", os.fspath(checkpoint.weights))
        cfg = load(checkpoint.config_file, [*weights, *opts])
        return cls(cfg, **{"classes": checkpoint.classes, **options})

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, revision: str | None = None, **options
    ) -> PanopticPredictor:
        """Load a folder that :meth:`save_pretrained` wrote, or a model by name.

        Args:
            name: such a folder, or anything that :meth:`from_checkpoint` takes; if it is neither,
                the "owner/name" of a model of the Hugging Face Hub, which ``huggingface_hub`` then
                has in its cache or downloads.
            revision: a branch, tag or commit of the latter.
            options: those of :meth:`from_checkpoint`.

        Raises:
            ConfigError, CheckpointError: see :meth:`from_checkpoint`; it reads models of the Hub,
                too, by its rules of safe loading.
        """
        name = os.fspath(name)
        try:
            return cls.from_checkpoint(name, **options)
        except CheckpointError:
            raise
        except ConfigError as error:
            if os.path.exists(name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise
            try:
                folder = fetch_from_hub(name, revision)
            except ConfigError as hub_error:
                raise ConfigError(f"{error}; {hub_error}") from hub_error
        return cls.from_checkpoint(folder, **options)

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        license: str = "unknown",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the model as a folder in the Hugging Face Hub's layout, without the network.

        Args:
            folder: ``config.json``, ``model.safetensors`` and ``README.md`` are written into it;
                its name becomes the model's.
            license: of the weights, as the Hub names it: "cc-by-4.0".
            metrics: numbers by name ("panoptic_seg/PQ"), in percent, or nested as an evaluation
                returns them; ``model_zoo.read_metrics`` has those of a training.
        """
        name = Path(folder).resolve().name
        info = describe(
            self.cfg, name, classes=self.classes, metrics=metrics or {}, license=license
        )
        save_hub_folder(folder, info, self.model.state_dict())

    @property
    def categories(self) -> list[dict]:
        """The classes as ``categories`` of a COCO panoptic JSON."""
        return self.classes.categories

    def __call__(self, image: ImageLike) -> PanopticResult:
        """Predict one image: a path, a PIL image, or an array (see :func:`~.images.as_rgb`).

        Raises:
            DatasetError: the image cannot be read or is of the wrong kind.
        """
        return self._run([self._load(image)])[0]

    def predict(
        self,
        images: Iterable[ImageLike],
        on_error: Callable[[DatasetError], object] | None = None,
    ) -> Iterator[PanopticResult]:
        """Predict a list or a stream of images, in order.

        Args:
            images: paths, PIL images or arrays, read as they are needed; also a single one, such as
                an array of up to three dimensions.
            on_error: called for an image that cannot be read, which is then left out; by default
                the error is raised.

        Raises:
            DatasetError: an image cannot be read and there is no ``on_error``.
        """
        if _is_single(images):
            images = [images]  # type: ignore[list-item]
        inputs = self._load_all(images, on_error)
        ahead = self.batch_size * (_BATCHES_AHEAD if self.batch_size > 1 else 1)
        while window := list(itertools.islice(inputs, ahead)):
            by_size: dict[tuple, list[int]] = {}
            for i, item in enumerate(window):
                by_size.setdefault(item.tensor.shape, []).append(i)
            results: dict[int, PanopticResult] = {}
            for same_size in by_size.values():
                for start in range(0, len(same_size), self.batch_size):
                    batch = same_size[start : start + self.batch_size]
                    results.update(zip(batch, self._run([window[i] for i in batch]), strict=True))
            yield from (results[i] for i in range(len(window)))

    def network_input(self, image: ImageLike) -> torch.Tensor:
        """The image as the network takes it: uint8 (C, h, w), resized, with the C of INPUT.FORMAT.

        Raises:
            DatasetError: the image cannot be read or is of the wrong kind.
        """
        return self._load(image).tensor

    def _load_all(self, images, on_error) -> Iterator[_Input]:
        for i, image in enumerate(images):
            try:
                item = self._load(image)
            except DatasetError as error:
                if not isinstance(image, (str, os.PathLike)):
                    error = DatasetError(f"image {i}: {error}")
                if on_error is None:
                    raise error from None
                on_error(error)
            else:
                yield item

    def _load(self, image: ImageLike) -> _Input:
        source = Path(image) if isinstance(image, (str, os.PathLike)) else None
        rgb = as_rgb(image, self.array_order)
        return _Input(rgb, network_input(rgb, self.cfg), source)

    @torch.inference_mode()
    def _run(self, inputs: list[_Input]) -> list[PanopticResult]:
        batch = [
            {"image": x.tensor, "height": x.rgb.shape[0], "width": x.rgb.shape[1]} for x in inputs
        ]
        outputs = (self._onnx_network or self._run_torch)(batch)
        results = []
        for x, output in zip(inputs, outputs, strict=True):
            seg, infos = output["panoptic_seg"]
            results.append(
                PanopticResult.from_output(x.rgb, seg.cpu().numpy(), infos, self.classes, x.source)
            )
        return results

    def _run_torch(self, batch: list[dict]) -> list[dict]:
        device = torch.device(self.cfg.MODEL.DEVICE).type
        dtype = torch.bfloat16 if device == "cpu" else torch.float16
        with torch.autocast(device, dtype=dtype, enabled=self.amp):
            return self.model(batch)


def _is_single(images: Any) -> bool:
    """Whether this is one image, whose rows or letters are not to be taken for images."""
    if isinstance(images, np.ndarray):
        return images.ndim <= 3
    return isinstance(images, (str, os.PathLike, Image.Image))


class _Input(NamedTuple):
    rgb: np.ndarray  # uint8 (H, W, 3), original size
    tensor: torch.Tensor  # uint8 (3, h, w), as the network takes it
    source: Path | None
