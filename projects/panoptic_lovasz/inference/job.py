"""Predict all inputs and write what was asked for: pictures, comparisons, COCO panoptic files."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data import PanopticClasses, PanopticSample, write_coco_panoptic
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
            ``side_by_side/``; classes are the same if they have the same kind and name.
        coco: write ``predictions.json`` and ``predictions/`` in the COCO panoptic format.

    Attributes:
        done: pictures predicted so far.
        skipped: inputs that could not be read, or videos not to their end; each was reported on
            stderr.

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
        self._truth_classes = self.inputs.truth_classes or self.predictor.classes
        self._classes = self.predictor.classes
        if self.side_by_side:  # together they may be more than can be
            self._classes = _with_more(self._classes, self._truth_classes)
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
        for source, name, prefix in self.inputs.streams():
            yield from self._video_samples(source, name, prefix)

    def _image_samples(self) -> Iterator[PanopticSample]:
        images, ids = self.inputs.images, self.inputs.image_ids()
        coco_names = self.inputs.coco_names()
        with tqdm(total=len(images), unit=" images", disable=None if images else True) as bar:

            def skip(error: DatasetError) -> None:
                self._report("skipped", error)
                bar.update()

            for result in self.predictor.predict(images, on_error=skip):
                assert result.source is not None  # it is one of the files
                try:
                    self._write_pictures(result, f"{images[result.source]}.png")
                except DatasetError as error:  # its ground truth cannot be used
                    skip(error)
                    continue
                self.done += 1
                bar.update()
                yield result.to_coco(coco_names[result.source], ids.get(result.source))

    def _write_pictures(self, result: PanopticResult, name: str) -> None:
        if self.side_by_side:  # first, since its ground truth may be what cannot be used
            save_picture(self.folder / _SIDE_BY_SIDE / name, self._compare(result))
        if self.overlay:
            result.save(self.folder / name)

    def _video_samples(
        self, source: Path | int, name: str, prefix: str
    ) -> Iterator[PanopticSample]:
        try:
            reader = VideoReader(source)
        except DatasetError as error:
            self._report("skipped", error)
            return
        # one for each video, since what a tracker remembers is counted in updates
        of_overlays, of_comparisons = InstanceTracker(), InstanceTracker()
        with (
            VideoWriter(self.folder / f"{name}.mp4", reader.fps) as overlays,
            VideoWriter(self.folder / _SIDE_BY_SIDE / f"{name}.mp4", reader.fps) as comparisons,
            tqdm(total=reader.num_frames, unit=" images", desc=name, disable=None) as bar,
            _noting_ctrl_c() if isinstance(source, int) else _NEVER as ctrl_c,
        ):
            frames = itertools.takewhile(lambda _: not ctrl_c(), reader)
            for number, result in enumerate(self.predictor.predict(frames)):
                # no legend: its height would change from frame to frame
                if self.overlay:
                    overlays.write(result.overlay(legend=False, tracker=of_overlays))
                if self.side_by_side:
                    picture = self._compare(result, legend=False, tracker=of_comparisons)
                    comparisons.write(picture)
                self.done += 1
                bar.update()
                yield result.to_coco(f"{prefix}{number:06d}.png")
        try:
            reader.check_complete()
        except DatasetError as error:
            self._report("incomplete", error)

    def _compare(self, result: PanopticResult, **options) -> np.ndarray:
        panels = [("prediction", result.segment_map, result.segments_info)]
        truth = self.inputs.truth.get(result.source) if result.source else None
        if truth is not None:
            segments = [self._with_our_class(s) for s in truth["segments_info"]]
            height, width = result.segment_map.shape
            seg = read_panoptic_png(truth["pan_seg_file_name"], (width, height), result.source)
            panels.insert(0, ("ground truth", seg, segments))
        return draw_comparison(result.image, panels, self._classes.metadata(), **options)

    def _with_our_class(self, segment: dict[str, Any]) -> dict[str, Any]:
        """A segment of the ground truth with its class's number among all that are shown."""
        isthing, class_id = self._truth_classes.segment_class(segment)
        names = self._classes.thing_classes if isthing else self._classes.stuff_classes
        name = self._truth_classes.class_name(isthing, class_id)
        return {**segment, "isthing": isthing, "category_id": names.index(name)}

    def _report(self, what: str, error: DatasetError) -> None:
        self.skipped += 1
        tqdm.write(f"{what}: {error}", file=sys.stderr)

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


def _with_more(classes: PanopticClasses, others: PanopticClasses) -> PanopticClasses:
    """The classes with their numbers, and after them the others that they do not have."""
    known = {(c["isthing"], c["name"]) for c in classes.categories}
    more = [c for c in others.categories if (c["isthing"], c["name"]) not in known]
    categories = [{**c, "id": i} for i, c in enumerate([*classes.categories, *more])]
    return PanopticClasses.from_categories(categories) if more else classes


_NEVER = contextlib.nullcontext(lambda: False)


@contextlib.contextmanager
def _noting_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed in the block; a second one interrupts.

    Ctrl-C is how a recording ends, and it may land anywhere, also in what consumes the samples.
    Where it means something else, in a thread or with a handler of the user's own, it stays so.
    """
    pressed = threading.Event()

    def note(*_) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
