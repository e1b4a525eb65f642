"""Whatever is wrong with a data set, using it ends in success or in one clear error."""

import shutil

import pytest
from hostile import MUTATIONS, damage, outcome, training_step


@pytest.fixture(scope="module")
def train(slim_cfg):
    return training_step(slim_cfg)


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_damaged_data_set_ends_in_success_or_in_an_error_that_names_its_file(
    tiny_set, tmp_path, train, name, block
):
    results = []
    for seed in range(15 * block, 15 * block + 15):
        trained = None in results  # one step for every block
        damaged = damage(tiny_set, tmp_path / "damaged", name, seed)
        message = outcome(damaged) if trained else outcome(damaged, train)
        assert message is None or str(tmp_path) in message, (seed, message)
        assert message is None or len(message) < 1500, (seed, message)
        results.append(message)
        shutil.rmtree(damaged.root)
    assert any(results)


def test_an_unharmed_data_set_is_trained_on(tiny_set, train):
    batches = []
    assert outcome(tiny_set, lambda batch: (batches.append(batch), train(batch))) is None
    assert len(batches) == 1
