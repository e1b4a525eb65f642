"""Several gloo processes on the CPU against one process on the concatenated batch."""

import json
import os
import subprocess
import sys

import distributed_worker as worker
import pytest
import torch

CASES = list(worker.cases(None))
SPLITS = {
    "two": [[0, 1, 2, 6], [3, 4, 5, 7]],
    "two of which one has no label": [[0, 1, 2, 3, 4, 5], [6, 7]],
    "four, uneven": [[0], [1, 2], [3, 4, 5], [6, 7]],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of a split -> what each process returned: a dict of (loss, gradients) by case."""
    folders = {name: tmp_path_factory.mktemp("processes") for name in SPLITS}
    argument = json.dumps({str(folders[name]): split for name, split in SPLITS.items()})
    command = [sys.executable, worker.__file__, argument]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=True)
    return {
        name: [torch.load(folders[name] / f"{rank}.pt") for rank in range(len(split))]
        for name, split in SPLITS.items()
    }


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", CASES)
def test_a_global_batch_has_the_loss_and_the_gradients_of_one_process(results, split, case):
    features, target = worker.make_batch()
    function = worker.cases(None)[case]
    expected, expected_gradients = worker.step(worker.make_model(), function, features, target)
    losses = torch.stack([result[case][0] for result in results[split]])
    assert losses.mean().item() == pytest.approx(expected.item(), abs=1e-6)
    for result in results[split]:  # DistributedDataParallel has averaged them
        for found, gradient in zip(result[case][1], expected_gradients, strict=True):
            assert torch.allclose(found, gradient, rtol=0, atol=1e-6)
    assert sum(g.norm() for g in expected_gradients) > 1e-3


@pytest.mark.parametrize("split", SPLITS)
def test_parameters_that_take_no_part_change_nothing(results, split):
    for result in results[split]:
        loss, gradients = result["unused parameters"]
        expected, expected_gradients = result["batch"]
        assert loss == expected
        for found, gradient in zip(gradients, expected_gradients, strict=True):
            assert torch.allclose(found, gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_accumulated_over_batches_are_the_sum_of_theirs(results, split):
    features, target = worker.make_batch()
    function = worker.cases(None)["batch"]
    _, first = worker.step(worker.make_model(), function, features, target)
    _, second = worker.step(worker.make_model(), function, features.flip(3), target.flip(2))
    for result in results[split]:
        for found, a, b in zip(result["accumulated"], first, second, strict=True):
            assert torch.allclose(found, a + b, rtol=0, atol=2e-6)


def test_each_process_alone_would_have_other_gradients():
    """The test above can tell: the mean of the processes' own gradients is something else."""
    features, target = worker.make_batch()
    function = worker.cases(None)["lovasz"]
    _, expected = worker.step(worker.make_model(), function, features, target)
    own = [
        worker.step(worker.make_model(), function, features[images], target[images])[1]
        for images in SPLITS["two"]
    ]
    mean = torch.stack([gradients[0] for gradients in own]).mean(0)
    assert (mean - expected[0]).abs().max() > 1e-4
