"""Predict all inputs and write what was asked for: pictures, comparisons, COCO panoptic files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data import PanopticSample, write_coco_panoptic
from ..data.id_map import read_panoptic_png
from ..errors import ConfigError, DatasetError
from ..visualization import InstanceTracker, draw_comparison
from .inputs import Inputs
from .predictor import PanopticPredictor
from .result import PanopticResult, save_picture
from .video import VideoReader, VideoWriter

__all__ = ["Job"]

_SIDE_BY_SIDE = "side_by_side"
_COCO = "predictions"


@dataclass
class Job:
    """Predicts all inputs and writes the outputs into one folder.

    Args:
        predictor: the model.
        inputs: what to predict.
        folder: where to write NAME.png for images and NAME.mp4 for videos.
        overlay: write the pictures with the segmentation laid over the image.
        side_by_side: write input, ground truth (if there is one) and prediction into
            ``side_by_side/``.
        coco: write ``predictions.json`` and ``predictions/`` in the COCO panoptic format.

    Attributes:
        done: pictures predicted so far.
        skipped: inputs that could not be read; each was reported on stderr.

    Raises:
        ConfigError: if there is nothing to write, or an input would be overwritten.
    """

    predictor: PanopticPredictor
    inputs: Inputs
    folder: Path
    overlay: bool = True
    side_by_side: bool = False
    coco: bool = False

    def __post_init__(self):
        self.done = self.skipped = 0
        if not (self.overlay or self.side_by_side or self.coco):
            raise ConfigError("nothing to write: no overlay, no side by side, no COCO files")
        self._refuse_to_overwrite_inputs()

    def run(self) -> None:
        """Do it all; an unreadable input is reported, counted and left out."""
        with contextlib.closing(self._samples()) as samples:
            if not self.coco:
                for _ in samples:
                    pass
                return
            write_coco_panoptic(
                self.folder / f"{_COCO}.json",
                self.folder / _COCO,
                self.predictor.categories,
                samples,
                overwrite=True,
                progress=False,
            )

    def _samples(self) -> Generator[PanopticSample, None, None]:
        """Predict everything and write the pictures on the way."""
        yield from self._image_samples()
        for source, name in self.inputs.videos.items():
            yield from self._video_samples(source, name)
        for index in self.inputs.cameras:
            yield from self._video_samples(index, f"camera_{index}")

    def _image_samples(self) -> Iterator[PanopticSample]:
        images, ids = self.inputs.images, self.inputs.image_ids()
        coco_names = self.inputs.coco_names()
        with tqdm(total=len(images), unit=" images", disable=None if images else True) as bar:

            def skip(error: DatasetError) -> None:
                self._skip(error)
                bar.update()

            for result in self.predictor.predict(images, on_error=skip):
                assert result.source is not None  # it is one of the files
                name = images[result.source]
                if self.overlay:
                    result.save(self.folder / f"{name}.png")
                if self.side_by_side:
                    picture = self._compare(result)
                    save_picture(self.folder / _SIDE_BY_SIDE / f"{name}.png", picture)
                self.done += 1
                bar.update()
                yield result.to_coco(coco_names[result.source], ids.get(result.source))

    def _video_samples(self, source: Path | int, name: str) -> Iterator[PanopticSample]:
        try:
            reader = VideoReader(source)
        except DatasetError as error:
            self._skip(error)
            return
        tracker = InstanceTracker()
        stop: contextlib.AbstractContextManager = contextlib.nullcontext()
        if isinstance(source, int):
            stop = contextlib.suppress(KeyboardInterrupt)  # Ctrl-C is how a recording ends
        with (
            VideoWriter(self.folder / f"{name}.mp4", reader.fps) as overlays,
            VideoWriter(self.folder / _SIDE_BY_SIDE / f"{name}.mp4", reader.fps) as comparisons,
            tqdm(total=reader.num_frames, unit=" images", desc=name, disable=None) as bar,
            stop,
        ):
            for number, result in enumerate(self.predictor.predict(reader)):
                # no legend: its height would change from frame to frame
                if self.overlay:
                    overlays.write(result.overlay(legend=False, tracker=tracker))
                if self.side_by_side:
                    comparisons.write(self._compare(result, legend=False, tracker=tracker))
                self.done += 1
                bar.update()
                yield result.to_coco(f"{name}_{number:06d}.png")

    def _compare(self, result: PanopticResult, **options) -> np.ndarray:
        classes = self.predictor.classes
        panels = [("prediction", result.segment_map, result.segments_info)]
        truth = self.inputs.truth.get(result.source) if result.source else None
        if truth is not None:
            segments = []
            for s in truth["segments_info"]:
                isthing, class_id = classes.segment_class(s)
                segments.append({**s, "isthing": isthing, "category_id": class_id})
            seg = read_panoptic_png(truth["pan_seg_file_name"])
            panels.insert(0, ("ground truth", seg, segments))
        return draw_comparison(result.image, panels, classes.metadata(), **options)

    def _skip(self, error: DatasetError) -> None:
        self.skipped += 1
        tqdm.write(f"skipped: {error}", file=sys.stderr)

    def _refuse_to_overwrite_inputs(self) -> None:
        sources = {f.resolve() for f in (*self.inputs.images, *self.inputs.videos)}
        pictures = [f"{name}.png" for name in self.inputs.images.values()]
        videos = [f"{name}.mp4" for name in self.inputs.videos.values()]
        coco = [f"{Path(name).with_suffix('')}.png" for name in self.inputs.coco_names().values()]
        for subfolder, names in (
            ("", (*pictures, *videos)),
            (_SIDE_BY_SIDE, (*pictures, *videos)),
            (_COCO, coco),
        ):
            folder = (self.folder / subfolder).resolve()
            for name in names:
                if folder / name in sources:
                    raise ConfigError(
                        f"the output {folder / name} would overwrite an input; use another folder"
                    )
