"""Several gloo processes: each writes the losses and gradients of its own images into a file.

Usage: distributed_worker.py JSON, a dict from a folder, into which RANK.pt are written, to the
indices of each process's images in the batch that `make_batch` returns.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from panoptic_lovasz.losses import (
    CrossEntropyLovaszLoss,
    cross_entropy_lovasz,
    cross_entropy_region,
    lovasz_softmax,
)

NUM_IMAGES = 8


def make_batch():
    """Eight images with unequal numbers of labels, the last two without any."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(NUM_IMAGES, 3, 4, 5, generator=generator)
    target = torch.randint(0, 4, (NUM_IMAGES, 16, 20), generator=generator)
    for image in range(NUM_IMAGES):
        target[image, : 2 * image] = 255
    target[1][target[1] == 2] = 255  # classes differ between the images
    target[6:] = 255
    return features, target


def make_model():
    torch.manual_seed(1)
    return torch.nn.Conv2d(3, 6, 1)


def cases(group):
    """Name -> function of logits and target that returns a scalar, for a group of processes."""

    def fused(**options):
        return lambda x, y: sum(cross_entropy_lovasz(x, y, process_group=group, **options))

    def region(**options):
        return lambda x, y: sum(cross_entropy_region(x, y, process_group=group, **options))

    def module(**options):
        loss = CrossEntropyLovaszLoss(global_batch=group is not None, **options)
        return lambda x, y: sum(loss(x, y).values())

    def upsampled(x, y):
        x = torch.nn.functional.interpolate(x, scale_factor=4, mode="bilinear")
        return lovasz_softmax(x, y, process_group=group)

    weights = torch.tensor([0.5, 1.0, 2.0, 0.1, 1.0, 1.0])
    return {
        "batch": fused(),
        "batch torch": fused(impl="torch"),
        "image": fused(per_image=True),
        "all": fused(classes="all"),
        "list": fused(classes=[1, 5]),
        "list image": fused(classes=[1, 5], per_image=True),
        "weights": fused(class_weights=weights),
        "weights image": fused(class_weights=weights, per_image=True),
        "cross-entropy": fused(lovasz_weight=0.0),
        "lovasz": fused(ce_weight=0.0),
        "module": module(),
        "module weights": module(class_weights=weights),
        "jaccard": region(region="jaccard"),
        "dice image": region(region="dice", per_image=True),
        "tversky weights": region(region="tversky", class_weights=weights, classes="all"),
        "lovasz_softmax": upsampled,
    }


def step(model, function, features, target):
    model.zero_grad()
    loss = function(model(features), target)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


class WithUnused(torch.nn.Module):
    """The model, and a layer that takes no part."""

    def __init__(self):
        super().__init__()
        self.model = make_model()
        self.unused = torch.nn.Conv2d(3, 6, 1)

    def forward(self, x):
        return self.model(x)


def accumulate(model, function, batches):
    """Gradients summed over batches, of which the last one synchronizes the processes."""
    model.zero_grad()
    *others, last = batches
    with model.no_sync():
        for features, target in others:
            function(model(features), target).backward()
    function(model(last[0]), last[1]).backward()
    return [p.grad.clone() for p in model.parameters()]


def run(rank: int, split: list[list[int]], folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=len(split)
    )
    features, target = make_batch()
    model = DistributedDataParallel(make_model())
    results = {
        name: step(model, function, features[split[rank]], target[split[rank]])
        for name, function in cases(dist.group.WORLD).items()
    }
    own = features[split[rank]], target[split[rank]]
    function = cases(dist.group.WORLD)["batch"]
    partly_used = DistributedDataParallel(WithUnused(), find_unused_parameters=True)
    results["unused parameters"] = step(partly_used, function, *own)
    again = own[0].flip(3), own[1].flip(2)
    results["accumulated"] = accumulate(model, function, [own, again])
    torch.save(results, folder / f"{rank}.pt")
    # The group ends with the process: one that a model frees last can wait for its own thread,
    # as DistributedDataParallel frees it with the GIL held, which the thread needs.


if __name__ == "__main__":
    torch.set_num_threads(1)
    for folder, split in json.loads(sys.argv[1]).items():
        # Forked, so that the imports above are done once.
        start_processes(run, (split, Path(folder)), nprocs=len(split), start_method="fork")
