"""The reference implementation, panopticapi, is the oracle: it reads PNGs and JSON from disk."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation.panoptic_quality import PanopticQuality
from panoptic_lovasz.evaluation.pixels import find_positions

CATEGORIES = [
    {"id": 3, "name": "person", "isthing": 1},
    {"id": 7, "name": "car", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 200, "name": "road", "isthing": 0},
]
IDS = [c["id"] for c in CATEGORIES]


def reference(images, folder: Path, categories=CATEGORIES):
    """PQStat of panopticapi for (gt_ids, gt_segments, pred_ids, pred_segments) of each image."""
    pairs = []
    for n, (gt_ids, gt_segments, pred_ids, pred_segments) in enumerate(images):
        pair = []
        for kind, ids, segments in (
            ("gt", gt_ids, gt_segments),
            ("pred", pred_ids, pred_segments),
        ):
            Image.fromarray(id2rgb(np.asarray(ids))).save(folder / f"{kind}{n}.png")
            segments = [{"iscrowd": 0, "area": int((ids == s["id"]).sum()), **s} for s in segments]
            pair.append({"image_id": n, "file_name": f"{kind}{n}.png", "segments_info": segments})
        pairs.append(tuple(pair))
    return pq_compute_single_core(0, pairs, folder, folder, {c["id"]: c for c in categories})


def evaluate(images, categories=CATEGORIES) -> PanopticQuality:
    quality = PanopticQuality(categories)
    for image in images:
        quality.add(*image)
    return quality


def assert_equal_to_reference(quality: PanopticQuality, stat, categories=CATEGORIES) -> None:
    by_id = {c["id"]: c for c in categories}
    for i, category in enumerate(quality.categories):
        expected = stat[category["id"]]
        assert quality.segments.tp[:, i].sum() == expected.tp
        assert quality.segments.fp[:, i].sum() == expected.fp
        assert quality.segments.fn[:, i].sum() == expected.fn
        assert quality.segments.iou[:, i].sum() == pytest.approx(expected.iou, abs=1e-9)
    values = quality.per_class()
    isthing = np.array([bool(c["isthing"]) for c in categories])
    for kind, chosen in ((None, slice(None)), (True, isthing), (False, ~isthing)):
        if np.isnan(values["PQ"][chosen]).all():
            continue  # the reference divides by zero
        average, _ = stat.pq_average(by_id, isthing=kind)
        for metric in ("PQ", "SQ", "RQ"):
            assert np.nanmean(values[metric][chosen]) == pytest.approx(
                average[metric.lower()], abs=1e-9
            )


@st.composite
def images(draw):
    """A ground truth and a prediction that copies it but for noise, so that segments match."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    png_ids = st.integers(1, 2**24 - 1)
    gt_segments = [
        {"id": i, "category_id": draw(st.sampled_from(IDS)), "iscrowd": int(draw(st.booleans()))}
        for i in draw(st.lists(png_ids, max_size=5, unique=True))
    ]
    pred_labels = [0, *draw(st.lists(png_ids, min_size=6, max_size=6, unique=True))]
    stray = draw(st.sampled_from([0, 2**24 - 1]))  # void, or an id that the JSON may lack
    labels = np.array([0, *(s["id"] for s in gt_segments)] + [stray] * 6)[:6]
    index = arrays(np.int64, shape, elements=st.integers(0, 5), fill=st.integers(0, 5))
    gt_index, noise = draw(index), draw(index)
    noisy = draw(arrays(bool, shape, fill=st.just(draw(st.booleans()))))
    pred_ids = np.array(pred_labels)[np.where(noisy, noise, gt_index)]
    gt_cats = {n: s["category_id"] for n, s in enumerate(gt_segments, start=1)}
    pred_segments = [
        {
            "id": label,
            "category_id": gt_cats.get(n, IDS[0])
            if draw(st.integers(0, 3))
            else draw(st.sampled_from(IDS)),
        }
        for n, label in enumerate(pred_labels)
        if label and (pred_ids == label).any()
    ]
    return labels[gt_index], gt_segments, pred_ids, pred_segments


@settings(max_examples=200, deadline=None)
@given(st.lists(images(), min_size=1, max_size=3))
def test_equals_the_reference_on_random_label_maps(tmp_path_factory, samples):
    stat = reference(samples, tmp_path_factory.getbasetemp())
    assert_equal_to_reference(evaluate(samples), stat)


def _block(*rows):
    """A map of 4x4 blocks with the given ids."""
    return np.kron(np.array(rows), np.ones((4, 4), dtype=np.int64))


PERSON, PERSON_2, SKY, CROWD = 11, 12, 256 * 256 * 5, 300
CASES = {
    "perfect prediction": (
        (_block([PERSON, SKY]), [(PERSON, 3), (SKY, 90)]),
        (_block([1, 2]), [(1, 3), (2, 90)]),
    ),
    "missing predictions": (
        (_block([PERSON, SKY]), [(PERSON, 3), (SKY, 90)]),
        (_block([0, 0]), []),
    ),
    "empty image": ((_block([0, 0]), []), (_block([0, 0]), [])),
    "predictions on an empty image are forgiven": (
        (_block([0, 0]), []),
        (_block([1, 2]), [(1, 3), (2, 90)]),
    ),
    "mostly void": (
        (_block([0, 0, 0], [0, 0, PERSON]), [(PERSON, 3)]),
        (_block([1, 1, 2], [1, 1, 2]), [(1, 90), (2, 3)]),
    ),
    "half void is not forgiven": (
        (_block([0, SKY]), [(SKY, 90)]),
        (_block([1, 1]), [(1, 3)]),
    ),
    "category confusion": (
        (_block([PERSON, PERSON_2, SKY]), [(PERSON, 3), (PERSON_2, 7), (SKY, 90)]),
        (_block([1, 2, 3]), [(1, 7), (2, 3), (3, 200)]),
    ),
    "people in a crowd of people are forgiven": (
        (_block([CROWD, CROWD, SKY]), [(CROWD, 3, 1), (SKY, 90)]),
        (_block([1, 2, 3]), [(1, 3), (2, 3), (3, 90)]),
    ),
    "cars in a crowd of people are false": (
        (_block([CROWD, CROWD, SKY]), [(CROWD, 3, 1), (SKY, 90)]),
        (_block([1, 1, 3]), [(1, 7), (3, 90)]),
    ),
    "of two crowds of one category the last counts": (
        (_block([CROWD, CROWD + 1]), [(CROWD, 3, 1), (CROWD + 1, 3, 1)]),
        (_block([1, 2]), [(1, 3), (2, 3)]),
    ),
    "void and crowd add up": (
        (_block([0, CROWD, SKY]), [(CROWD, 3, 1), (SKY, 90)]),
        (_block([1, 1, 1]), [(1, 3)]),
    ),
    "a segment of the JSON without pixels is missed": (
        (_block([SKY, SKY]), [(SKY, 90), (PERSON, 3)]),
        (_block([1, 1]), [(1, 90)]),
    ),
    "an id that the JSON lacks is not void": (
        (_block([PERSON, 77, 77]), [(PERSON, 3)]),
        (_block([1, 1, 1]), [(1, 3)]),
    ),
}


def _segments(*entries):
    return [dict(zip(("id", "category_id", "iscrowd"), e, strict=False)) for e in entries]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, tmp_path):
    (gt, gt_segments), (pred, pred_segments) = CASES[case]
    image = gt, _segments(*gt_segments), pred, _segments(*pred_segments)
    assert_equal_to_reference(evaluate([image]), reference([image], tmp_path))


def test_equals_the_reference_on_real_coco_images_seen_through_errors(shared_data, tmp_path):
    root = shared_data / "coco_panoptic_sample"
    info = json.loads((root / "panoptic_examples.json").read_text())
    rng = np.random.default_rng(0)
    samples = []
    for annotation in info["annotations"]:
        png = Image.open(root / "panoptic_examples" / annotation["file_name"])
        gt = rgb2id(np.array(png))
        segments = annotation["segments_info"]
        pred = np.roll(gt, (9, -7), axis=(0, 1))  # misplaced
        merged = rng.choice([s["id"] for s in segments], 2, replace=False)
        pred[pred == merged[0]] = merged[1]  # two segments taken for one
        pred[:40] = 0  # and a part not predicted
        present = set(np.unique(pred).tolist())
        guesses = [
            {
                "id": s["id"],
                "category_id": s["category_id"]
                if rng.random() < 0.8
                else info["categories"][rng.integers(133)]["id"],
            }
            for s in segments
            if s["id"] in present
        ]
        samples += [(gt, segments, pred, guesses), (gt, segments, gt, segments)]
    categories = info["categories"]
    quality = evaluate(samples, categories)
    assert 0.2 < np.nanmean(quality.per_class()["PQ"]) < 0.9
    assert_equal_to_reference(quality, reference(samples, tmp_path, categories), categories)


@settings(max_examples=20, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4), st.integers(0, 4))
def test_merging_two_accumulators_equals_one_over_all_images(samples, cut):
    whole, first, second = evaluate(samples), evaluate(samples[:cut]), evaluate(samples[cut:])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert np.array_equal(first.confusion, whole.confusion)
    assert [i.name for i in first.images] == [i.name for i in whole.images]
    found, expected = ([*q.segments, *q.boundary] for q in (first, whole))
    for values, others in zip(found, expected, strict=True):
        assert np.allclose(values, others, atol=1e-12)


CORNER = np.array([[0, 1, 1, 1]] + [[1, 1, 1, 1]] * 4)
PERSON_1 = [{"id": 1, "category_id": 3, "iscrowd": 0}]


@settings(max_examples=50, deadline=None)
@example((CORNER, PERSON_1, CORNER, PERSON_1), 200)
@given(images(), st.sampled_from([1, 200]))
def test_the_confusion_matrix_counts_every_pixel_once(sample, scale):
    gt, gt_segments, pred, pred_segments = sample
    gt, pred = (np.kron(x, np.ones((scale, 1), dtype=int)) for x in (gt, pred))
    quality = evaluate([(gt, gt_segments, pred, pred_segments)])
    void = len(CATEGORIES)
    gt_class = {s["id"]: IDS.index(s["category_id"]) for s in gt_segments if not s["iscrowd"]}
    pred_class = {s["id"]: IDS.index(s["category_id"]) for s in pred_segments}
    height, width = gt.shape
    touching = np.zeros(gt.shape, dtype=bool)
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and gt[v, u] != gt[y, x]:
                    touching[y, x] = True
    reach = max(1, round(0.005 * np.hypot(height, width))) - 1
    expected = np.zeros((2, void + 1, void + 1), dtype=int)
    for y in range(height):
        for x in range(width):
            window = touching[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            row, column = gt_class.get(gt[y, x], void), pred_class.get(pred[y, x], void)
            expected[int(window.any()), row, column] += 1
    assert np.array_equal(quality.confusion, expected)


def test_segments_count_by_coco_size_and_false_positives_by_their_own():
    gt = np.zeros((128, 256), dtype=int)
    gt[:31, :33] = 1  # 1023 pixels: small
    gt[:32, 40:72] = 2  # 1024 pixels: medium
    gt[:96, 80:176] = 3  # 9216 pixels: large
    gt[100:, :] = 4
    pred = np.where(gt == 4, 0, gt)
    pred[100:110, :10] = 5
    people = [{"id": i, "category_id": 3} for i in (1, 2, 3)]
    quality = evaluate(
        [
            (
                gt,
                [*people, {"id": 4, "category_id": 90}],
                pred,
                [*people, {"id": 5, "category_id": 7}],
            )
        ]
    )
    assert quality.segments.tp[:, 0].tolist() == [1, 1, 1]
    assert quality.segments.fn[:, 2].tolist() == [0, 1, 0]
    assert quality.segments.fp[:, 1].tolist() == [1, 0, 0]
    small = quality.segments.quality()["PQ"][0]
    assert small[:2].tolist() == [1.0, 0.0]
    assert np.isnan(small[2])


def test_iou_leaves_out_void_but_counts_void_predictions_as_errors():
    gt, pred = _block([PERSON, SKY, 0]), _block([1, 0, 2])
    quality = evaluate([(gt, _segments((PERSON, 3), (SKY, 90)), pred, _segments((1, 3), (2, 200)))])
    assert quality.iou_per_class().tolist()[0] == 1.0
    assert quality.iou_per_class().tolist()[2] == 0.0
    assert np.isnan(quality.iou_per_class()[[1, 3]]).all()


def test_iou_away_from_boundaries_forgives_a_line_drawn_one_pixel_off():
    gt, pred = np.ones((50, 50), dtype=int), np.ones((50, 50), dtype=int)
    gt[:, 25:] = 2
    pred[:, 26:] = 2
    segments = _segments((1, 90), (2, 200))
    quality = evaluate([(gt, segments, pred, segments)])
    assert quality.iou_per_class()[2:].max() < 1
    assert quality.iou_per_class(near_boundaries=False)[2:].tolist() == [1.0, 1.0]


def test_boundaries_may_be_left_unseen():
    gt, segments = _block([PERSON, SKY]), _segments((PERSON, 3), (SKY, 90))
    quality = PanopticQuality(CATEGORIES, boundaries=False)
    quality.add(gt, segments, gt, segments)
    seen = evaluate([(gt, segments, gt, segments)])
    assert np.array_equal(quality.confusion.sum(0), seen.confusion.sum(0))
    assert np.array_equal(quality.iou_per_class(), seen.iou_per_class(), equal_nan=True)
    with pytest.raises(ValueError, match="has not looked at boundaries"):
        quality.iou_per_class(near_boundaries=False)
    with pytest.raises(ValueError, match="cannot merge"):
        quality.merge(seen)


def test_a_wrong_area_in_the_json_changes_nothing():
    gt = _block([PERSON, SKY])
    stated = [
        {"id": PERSON, "category_id": 3, "area": 1},
        {"id": SKY, "category_id": 90, "area": 10**6},
    ]
    quality = evaluate([(gt, stated, gt, stated)])
    assert quality.per_class()["PQ"][[0, 2]].tolist() == [1.0, 1.0]


MAP = _block([1, 2])
GOOD = _segments((1, 3), (2, 90))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((MAP, GOOD, MAP[:, 1:], GOOD), "image 9: the prediction is 7x4 .* ground truth 8x4"),
        ((MAP, GOOD, MAP, _segments((1, 3), (2, 4))), "segment 2 has category_id 4, which"),
        ((MAP, _segments((1, 5)), MAP, GOOD), "image 9: ground truth: segment 1 has category_id 5"),
        ((MAP, GOOD, MAP, GOOD[:1]), r"only in the map: \[2\], only in segments_info: \[\]"),
        ((MAP, GOOD, MAP * 0, GOOD), r"only in the map: \[\], only in segments_info: \[1, 2\]"),
        ((MAP, GOOD, MAP, GOOD + GOOD[:1]), r"must be positive and differ.*\[1, 1, 2\]"),
        ((MAP, _segments((0, 3)), MAP, GOOD), "must be positive"),
        (
            (MAP, _segments((1, "3")), MAP, GOOD),
            "needs integers 'id' and 'category_id'; found .*'3'",
        ),
        ((MAP, GOOD, MAP - 2, []), r"only in the map: \[-1\]"),
        (
            (MAP, GOOD, MAP.astype(float), GOOD),
            r"must be \(H, W\) integers, .*got \(4, 8\) float64",
        ),
        ((MAP[None], GOOD, MAP, GOOD), r"ground truth: a panoptic map must be \(H, W\)"),
    ],
)
def test_wrong_input_is_one_error_that_names_the_image_and_leaves_no_trace(image, message):
    quality = PanopticQuality(CATEGORIES)
    with pytest.raises(DatasetError, match=message) as error:
        quality.add(*image, name="image 9")
    assert str(error.value).startswith("image 9: ")
    assert quality.num_images == quality.confusion.sum() == quality.segments.fn.sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4))
def test_a_batch_of_images_counts_as_its_images_one_by_one(samples):
    single, batch = evaluate(samples), PanopticQuality(CATEGORIES)
    batch.add_batch(("image", *sample) for sample in samples)
    assert np.array_equal(batch.confusion, single.confusion)
    for found, expected in zip(batch.images, single.images, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    for found, expected in ((batch.segments, single.segments), (batch.boundary, single.boundary)):
        assert all(np.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("offset", [0, 2**24 - 1, 2**40])
def test_ids_that_no_png_can_hold_are_looked_up_as_well(offset):
    ids = np.array([[0, 5, 9], [9, 7, 7]])
    seg_ids = np.array([7, 5]) + offset
    found = find_positions(seg_ids, np.where(ids == 0, 0, ids + offset))
    assert found.tolist() == [[2, 1, 3], [3, 0, 0]]
    assert find_positions(seg_ids, np.array([-1, 0])).tolist() == [3, 2]


def test_accumulators_over_different_categories_do_not_merge():
    with pytest.raises(ValueError, match="different categories"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES[:2]))
    with pytest.raises(DatasetError, match="more than once"):
        PanopticQuality(CATEGORIES + CATEGORIES[:1])
