"""Boundary PQ against its definition, one mask and one pair of segments at a time."""

from collections import defaultdict

import cv2
import numpy as np
import pytest

from panoptic_lovasz.evaluation.panoptic_quality import PanopticQuality

CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i < 4)} for i in range(1, 7)]


def sample(rng, size=(60, 80)):
    """A map of jagged cells with void and a crowd, and a prediction that is a little off."""
    y, x = np.mgrid[: size[0], : size[1]] + 3 * rng.random((2, *size))
    centers = rng.random((9, 2)) * size
    cells = ((y[..., None] - centers[:, 0]) ** 2 + (x[..., None] - centers[:, 1]) ** 2).argmin(-1)
    gt = 1000 * (cells + 1)
    gt[cells == 8] = 0
    gt[: size[0] // 3, :5] = 77  # an id that the segments lack
    pred = np.roll(cells, rng.integers(-1, 2, 2), axis=(0, 1)) + 51
    pred[-6:, : size[1] // 2] = 0
    kinds = rng.integers(1, 7, 9).tolist()
    gt_segments = [
        {"id": 1000 * (i + 1), "category_id": kinds[i], "iscrowd": int(i == 3)} for i in range(8)
    ]
    pred_segments = [
        {"id": i, "category_id": kinds[i - 51] if rng.random() < 0.9 else 1}
        for i in np.unique(pred).tolist()
        if i
    ]
    return gt, gt_segments, pred, pred_segments


def boundary_of(mask):
    """What erosion by 2 % of the diagonal takes from a mask; outside the image there is nothing."""
    steps = max(1, round(0.02 * float(np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))
    padded = np.pad(mask.astype(np.uint8), steps)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
    return mask & (eroded[steps:-steps, steps:-steps] == 0)


def iou(first, second, void):
    return (first & second).sum() / ((first | second) & ~(second & ~first & void)).sum()


def by_definition(samples):
    """[IoU, TP, FP, FN] by category id."""
    found = defaultdict(lambda: [0.0, 0, 0, 0])
    for gt, gt_segments, pred, pred_segments in samples:
        matched = set()
        for s in gt_segments:
            mask = gt == s["id"]
            for p in pred_segments:
                other = pred == p["id"]
                if s["category_id"] != p["category_id"] or s["iscrowd"] or not (mask & other).any():
                    continue
                edges = boundary_of(mask), boundary_of(other)
                value = min(iou(mask, other, gt == 0), iou(*edges, gt == 0))
                if value > 0.5:
                    found[s["category_id"]][0] += value
                    found[s["category_id"]][1] += 1
                    matched |= {("gt", s["id"]), ("pred", p["id"])}
            if ("gt", s["id"]) not in matched and not s["iscrowd"]:
                found[s["category_id"]][3] += 1
        for p in pred_segments:
            crowds = [s["id"] for s in gt_segments if s["iscrowd"]]
            crowds = [i for i in crowds if p["category_id"] == _category(gt_segments, i)]
            excused = np.isin(gt, [0, *crowds])[pred == p["id"]]
            if ("pred", p["id"]) not in matched and excused.mean() <= 0.5:
                found[p["category_id"]][2] += 1
    return found


def _category(segments, segment_id):
    return next(s["category_id"] for s in segments if s["id"] == segment_id)


def evaluate(samples):
    quality = PanopticQuality(CATEGORIES)
    for image in samples:
        quality.add(*image)
    return quality


@pytest.mark.parametrize("size", [(60, 80), (123, 40), (7, 9), (2, 300)])
def test_boundary_pq_is_that_of_the_definition(size):
    rng = np.random.default_rng(size[0])
    samples = [sample(rng, size) for _ in range(4)]
    quality, expected = evaluate(samples), by_definition(samples)
    for i, category in enumerate(CATEGORIES):
        found = [counts[i] for counts in quality.boundary]
        assert found == pytest.approx(expected[category["id"]], abs=1e-9)


def test_boundary_pq_is_that_of_boundary_iou_api():
    # Figures of boundary-iou-api's pq_compute (commit 8006aa9) for the same images. It marks the
    # inside of segments with the id after that of the last category, so no segment may have that.
    samples = [sample(np.random.default_rng(n)) for n in range(12)]
    values = 100 * np.array([x for x in evaluate(samples).boundary.quality().values()])
    assert np.nanmean(values, axis=1) == pytest.approx(FIGURES, abs=1e-9)


FIGURES = [35.643569708854564, 65.50867416152835, 54.89324766924878]  # PQ, SQ, RQ in percent


def test_a_line_drawn_a_little_off_costs_more_at_the_boundary():
    gt = np.ones((100, 100), dtype=int)
    gt[:, 50:] = 2
    pred = np.roll(gt, 1, axis=1)
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 5}]
    quality = evaluate([(gt, segments, pred, segments)])
    at_boundaries, everywhere = quality.boundary.quality()["PQ"], quality.per_class()["PQ"]
    assert np.nanmean(at_boundaries) < np.nanmean(everywhere) - 0.1
    perfect = evaluate([(gt, segments, gt, segments)])
    assert np.nanmin(perfect.boundary.quality()["PQ"]) == 1
