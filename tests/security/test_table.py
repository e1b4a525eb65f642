"""docs/security.md names each test that tries an attack, and each of them is there."""

import re
from pathlib import Path

from panoptic_lovasz.config import flatten
from panoptic_lovasz.config.found import take_allowed

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs/security.md").read_text()
TABLE = re.findall(r"`(tests/\S+\.py)::(\w+)` \|$", PAGE, re.M)
MARKED = "\npytestmark = pytest.mark.attack\n"

# Where to read and write, what to trust and to spend: for the user to say.
LEFT_OUT = {
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.FOLLOW_LINKS",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "GLOBAL.HACK",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.TRUST_WEIGHTS",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "TEST.EXPECTED_RESULTS",
    "TEST.SAVE_PANOPTIC_PREDICTIONS",
    "VERSION",
    "VIS_PERIOD",
}


def test_every_attack_of_the_table_is_tried_and_every_attack_is_in_the_table():
    assert len(TABLE) >= 25
    for file, name in TABLE:
        text = (PROJECT / file).read_text()
        start = text.index(f"\ndef {name}(")
        decorators = text[text.rindex("\n\n", 0, start) : start]
        assert "pytest.mark.attack" in decorators or MARKED in text
    for file in Path(__file__).parent.glob("test_*.py"):
        path = file.relative_to(PROJECT).as_posix()
        text = file.read_text()
        if MARKED not in text:
            continue
        tried = {name for name in re.findall(r"^def (test_\w+)", text, re.M)}
        benign = {name for name in tried if name.endswith(_BENIGN)}
        assert tried - benign == {name for other, name in TABLE if other == path}


_BENIGN = (  # that what is sound still works
    "_can_be_read",
    "_are_read",
    "_is_taken",
    "_still_counts",
)


def test_every_key_is_taken_from_a_found_config_or_left_out_on_purpose(slim_cfg):
    changed = {key: "changed" for key in flatten(slim_cfg)}
    _, left_out = take_allowed(_nested(changed), slim_cfg)
    left_out = {key for key in left_out if not key.startswith("OUTPUT.")}
    assert left_out - {"DATASETS.PANOPTIC"} == LEFT_OUT


def _nested(flat):
    tree = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
