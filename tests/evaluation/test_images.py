"""What single images say: mIoU per image, the worst of them, and intervals by bootstrap."""

import os
from pathlib import PurePath

import numpy as np
import pytest

from panoptic_lovasz.data.id_map import id_to_rgb
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation.images import (
    ImageCounts,
    in_pairs,
    intervals,
    per_image,
    read_counts,
)
from panoptic_lovasz.evaluation.panoptic_quality import PanopticQuality

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "sky", "isthing": 0},
    {"id": 3, "name": "road", "isthing": 0},
]


def evaluate(images):
    quality = PanopticQuality(CATEGORIES, boundaries=False)
    for n, (gt, pred) in enumerate(images):
        segments = [
            [{"id": i, "category_id": i} for i in np.unique(m).tolist() if i] for m in (gt, pred)
        ]
        quality.add(gt, segments[0], pred, segments[1], name=f"image {n}")
    return quality


def noisy(rng, share, count=1):
    """Images of three stripes, a share of whose pixels is predicted as any class."""
    gt = np.repeat([1, 2, 3], 4)[:, None] * np.ones((1, 10), dtype=int)
    return [
        (gt, np.where(rng.random(gt.shape) < share, rng.integers(1, 4, gt.shape), gt))
        for _ in range(count)
    ]


def test_miou_per_image_is_the_mean_over_the_classes_of_its_ground_truth():
    gt = np.array([[1, 1, 2, 2, 0]])
    pred = np.array([[1, 2, 2, 3, 3]])
    image = evaluate([(gt, pred)]).images[0]
    # 1: 1 of 2 pixels; 2: 1 of 3; 3 is predicted alone, where the ground truth does not have it
    assert image.miou() == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert np.isnan(evaluate([(gt * 0, pred)]).images[0].miou())


def test_every_image_counts_alike_and_the_worst_tenth_is_by_itself():
    rng = np.random.default_rng(0)
    images = evaluate([i for n in range(25) for i in noisy(rng, n / 50)]).images
    values = sorted(image.miou() for image in images)
    found = per_image(images)
    assert found["mIoU_image"] == pytest.approx(np.mean(values))
    assert found["mIoU_worst10"] == pytest.approx(np.mean(values[:2]))  # of 25, two
    assert per_image(images[:3])["mIoU_worst10"] == min(i.miou() for i in images[:3])


def test_counts_of_the_images_add_up_to_the_whole():
    quality = evaluate(noisy(np.random.default_rng(1), 0.3, 6))
    total = np.zeros((len(CATEGORIES), 6))
    for image in quality.images:
        total[image.categories] += image.values
    assert np.allclose(total[:, :4].T, [values.sum(0) for values in quality.segments])
    assert np.allclose(total[:, 4] / total[:, 5], quality.iou_per_class())


def test_intervals_are_the_percentiles_over_drawn_images():
    quality = evaluate(noisy(np.random.default_rng(2), 0.5, 12))
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(3000):
        table = np.zeros((len(CATEGORIES), 6))
        for i in rng.integers(0, 12, 12):
            table[quality.images[i].categories] += quality.images[i].values
        iou, tp, fp, fn, intersection, union = table.T
        drawn.append((np.mean(iou / (tp + (fp + fn) / 2)), np.mean(intersection / union)))
    expected = np.percentile(drawn, [2.5, 97.5], axis=0).T
    found = intervals(quality.images, num_samples=3000)
    assert np.allclose([found["PQ"], found["mIoU"]], expected, atol=0.01)


def test_the_interval_of_a_mean_has_the_width_that_theory_gives_it():
    # One class and one segment an image, matched or not: PQ is near the share of those matched.
    rng = np.random.default_rng(3)
    gt = np.ones((2, 2), dtype=int)
    images = [(gt, gt if rng.random() < 0.5 else gt * 0) for _ in range(400)]
    found = intervals(evaluate(images).images)
    p = evaluate(images).iou_per_class()[0]
    assert found["mIoU"][1] - found["mIoU"][0] == pytest.approx(
        2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.1
    )


def test_two_evaluations_of_the_same_images_are_told_apart_better_in_pairs():
    rng = np.random.default_rng(4)
    base = [i for n in range(40) for i in noisy(rng, n / 60)]
    better = [(gt, np.where(rng.random(gt.shape) < 0.2, gt, pred)) for gt, pred in base]
    first, second = evaluate(better).images, evaluate(base).images
    low, high = intervals(first, second)["mIoU"]
    assert 0 < low < high
    alone = intervals(second)["mIoU"]
    assert high - low < alone[1] - alone[0]
    assert intervals(first, first)["PQ"] == (0, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["x/berlin/1.png", "x/ulm/1.png"], ["/y/ulm/1.jpg", "/y/berlin/1.jpg"]),
        (["1.png", "2.png"], ["y/2.png", "y/1.png"]),
        (["x/1.png"], ["1.jpg"]),
        (["x/ulm/1.png", os.path.abspath("x/1.png")], ["/y/1.jpg", "/y/ulm/1.jpg"]),
        ([], []),
    ],
)
def test_images_are_paired_by_their_paths_in_the_folder_that_they_share(first, second):
    a, b = in_pairs(*([_counts(name) for name in names] for names in (first, second)))
    assert [image.name for image in a] == first
    assert [_place(image) for image in a] == [_place(image) for image in b]


def _counts(name):
    return ImageCounts(name, *(np.zeros(0),) * 3)


def _place(image):
    path = PurePath(image.name)
    return path.stem, path.parent.name == "ulm"


def test_images_that_differ_in_their_suffix_alone_cannot_be_paired():
    images = [_counts(name) for name in ("a/1.png", "a/1.jpg", "a/2.png")]
    with pytest.raises(DatasetError, match="1 of 3 evaluated images have the path of another"):
        in_pairs(images, images)


def test_damaged_counts_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "image_counts.npz").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"image_counts\.npz cannot be read"):
        read_counts(tmp_path / "image_counts.npz")


def test_one_image_has_no_interval():
    assert np.isnan(intervals(evaluate(noisy(np.random.default_rng(0), 0.1)).images)["PQ"]).all()


def test_colors_of_pngs_are_counted_as_the_ids_they_stand_for():
    rng = np.random.default_rng(6)
    ids = np.array([7, 1 + 256 * 7, 65536 * 7])
    gt, pred = ids[rng.integers(0, 3, (2, 20, 30))]
    segments = [{"id": int(i), "category_id": n} for n, i in enumerate(ids, start=1)]
    counts = []
    for of_gt, of_pred in ((gt, pred), (id_to_rgb(gt), id_to_rgb(pred)), (id_to_rgb(gt), pred)):
        for boundaries in (False, True):
            quality = PanopticQuality(CATEGORIES, boundaries)
            quality.add(of_gt, segments, of_pred, segments)
            counts.append((quality.confusion.sum(axis=0), *quality.segments))
    for found in counts[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found, counts[0], strict=True))
