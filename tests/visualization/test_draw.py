import json

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from PIL import Image

from panoptic_lovasz.visualization.draw import draw_comparison, draw_panoptic
from panoptic_lovasz.visualization.tracker import InstanceTracker

METADATA = Metadata(thing_classes=["cat", "dog"], stuff_classes=["things", "sky", "grass"])


def scene(size=64):
    """Sky over grass with two cats."""
    seg = np.full((size, size), 1, np.int32)
    seg[size // 2 :] = 2
    seg[size // 4 : size // 2, : size // 4] = 3
    seg[size // 4 : size // 2, -size // 4 :] = 4
    info = [
        {"id": 1, "isthing": False, "category_id": 1},
        {"id": 2, "isthing": False, "category_id": 2},
        {"id": 3, "isthing": True, "category_id": 0, "score": 0.9},
        {"id": 4, "isthing": True, "category_id": 0, "score": 0.8},
    ]
    return np.full((size, size, 3), 128, np.uint8), seg, info


def flat(image, seg, info, **kwargs):
    """Colors alone, one output pixel per input pixel."""
    return draw_panoptic(image, seg, info, METADATA, alpha=1.0, scale=1, labels=False, **kwargs)


def middle_of(mask):
    """A pixel of the mask that is on no contour."""
    inner = mask[1:, 1:] & mask[:-1, 1:] & mask[1:, :-1] & mask[:-1, :-1]
    y, x = np.argwhere(inner)[0]
    return y + 1, x + 1


def test_a_class_has_the_same_color_in_every_picture():
    image, seg, info = scene()
    first = flat(image, seg, info)
    second = flat(image, np.full_like(seg, 9), [{"id": 9, "isthing": False, "category_id": 2}])
    np.testing.assert_array_equal(first[middle_of(seg == 2)], second[10, 10])


def test_two_instances_of_a_class_have_different_shades():
    image, seg, info = scene()
    drawn = flat(image, seg, info)
    a, b = drawn[middle_of(seg == 3)], drawn[middle_of(seg == 4)]
    assert np.abs(a.astype(int) - b).max() > 15


def test_a_contour_of_one_pixel_separates_the_segments():
    image, seg, info = scene()
    drawn = flat(image, seg, info)
    column = drawn[:, 32].astype(int)
    assert (np.flatnonzero((column != column[0]).any(1) & (column != column[-1]).any(1))) == [32]


def test_the_input_is_left_as_it_was_and_drawing_twice_gives_the_same():
    image, seg, info = scene()
    before = image.copy(), seg.copy(), [dict(s) for s in info]
    first = draw_panoptic(image, seg, info, METADATA, legend=True)
    second = draw_panoptic(image, torch.as_tensor(seg), info, METADATA, legend=True)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(seg, before[1])
    assert info == before[2]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((128, 128), (512, 512)), ((1, 1), (480, 480)), ((1, 5000), (1, 5000)), ((480, 640), None)],
)
def test_small_pictures_are_enlarged_so_that_text_is_legible(shape, expected):
    info = [{"id": 1, "isthing": True, "category_id": 0}]
    drawn = draw_panoptic(np.zeros((*shape, 3), np.uint8), np.ones(shape, int), info, METADATA)
    assert drawn.shape == (*(expected or shape), 3)
    assert drawn.dtype == np.uint8


def test_pixels_without_a_segment_are_gray():
    image, seg, info = scene()
    image[..., 0] = 255
    drawn = flat(image, seg, info[1:])  # the sky is not listed
    sky = drawn[middle_of(seg == 1)]
    assert np.ptp(sky.astype(int)) < 10
    drawn = flat(image, np.full_like(seg, -1), [])
    assert np.ptp(drawn.astype(int), axis=2).max() < 10


def test_ids_of_the_png_format_up_to_its_limit_are_drawn():
    image, seg, info = scene()
    large = np.where(seg == 3, 256**3 - 1, seg)
    renamed = [{**s, "id": 256**3 - 1} if s["id"] == 3 else s for s in info]
    np.testing.assert_array_equal(flat(image, seg, info), flat(image, large, renamed))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int64])
def test_segment_ids_of_any_integer_type_give_the_same_picture(dtype):
    image, seg, info = scene()
    for listed in (info, info[1:]):  # all segments, and pixels without one
        np.testing.assert_array_equal(
            flat(image, seg.astype(dtype), listed, tracker=InstanceTracker()),
            flat(image, seg, listed, tracker=InstanceTracker()),
        )


def test_the_legend_lists_only_classes_that_are_visible():
    image, seg, info = scene()
    one = draw_panoptic(image, seg, info, METADATA, legend=True)
    more = [*info, {"id": 99, "isthing": True, "category_id": 1}]
    np.testing.assert_array_equal(one, draw_panoptic(image, seg, more, METADATA, legend=True))


def test_classes_that_the_metadata_does_not_know_are_drawn_with_their_number():
    image, seg, info = scene(128)
    info[2] = {**info[2], "category_id": 7}
    assert draw_panoptic(image, seg, info, None, legend=True).shape[1] == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, s, n: (i[..., 0], s, n), r"uint8 of shape \(H, W, 3\), not uint8 \(64, 64\)"),
        (lambda i, s, n: (i / 255, s, n), "not float64"),
        (lambda i, s, n: (i, s[:32], n), r"size \(64, 64\), not int32 \(32, 64\)"),
        (lambda i, s, n: (i, s * 0.5, n), "not float64"),
        (lambda i, s, n: (i, s, [*n, n[0]]), "listed more than once"),
        (lambda i, s, n: (i, s + 256**3, n), "16777215"),
    ],
)
def test_wrong_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        draw_panoptic(*change(*scene()), METADATA)


def test_a_comparison_shows_the_image_and_each_segmentation_in_one_row():
    image, seg, info = scene(128)
    panels = [("ground truth", seg, info), ("prediction", seg, info[:3])]
    drawn = draw_comparison(image, panels, METADATA, scale=1)
    assert drawn.shape[1] >= 3 * 128
    assert drawn.shape[0] > 128


def test_the_same_instance_has_the_same_shade_in_all_panels_of_a_comparison():
    image, seg, info = scene(128)
    swapped = [*info[:2], info[3], info[2]]  # alone, the order decides the shade
    panels = [("ground truth", seg, info), ("prediction", seg, swapped)]
    drawn = draw_comparison(image, panels, METADATA, scale=1, alpha=1.0, labels=False)
    truth, prediction = np.split(drawn[: 128 + 24, 128 + 6 :][:, : 2 * 128 + 6], [128 + 6], axis=1)
    np.testing.assert_array_equal(truth[24:, :128], prediction[24:])


def test_real_coco_images_are_drawn_with_a_label_for_every_large_segment(shared_data):
    folder = shared_data / "coco_panoptic_sample"
    truth = json.loads((folder / "panoptic_examples.json").read_text())
    categories = json.loads((folder / "panoptic_coco_categories.json").read_text())
    isthing = {c["id"]: bool(c["isthing"]) for c in categories}
    for annotation in truth["annotations"]:
        name = annotation["file_name"]
        image = np.asarray(Image.open(folder / "input_images" / name.replace(".png", ".jpg")))
        png = np.asarray(Image.open(folder / "panoptic_examples" / name)).astype(np.int64)
        seg = png @ (1, 256, 256**2)
        info = [{**s, "isthing": isthing[s["category_id"]]} for s in annotation["segments_info"]]
        plain = draw_panoptic(image, seg, info, labels=False)
        labeled = draw_panoptic(image, seg, info)
        for s in annotation["segments_info"]:
            if s["area"] > 20000 and not s["iscrowd"]:
                mask = np.kron(seg == s["id"], np.ones((2, 2), bool))
                assert (plain != labeled)[mask].any(), s
