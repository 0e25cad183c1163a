"""The reference loader: torchvision's transforms in DataLoader workers, for data of any size."""
import signal
import weakref

import torch
import torch.utils.data
from torchvision import transforms

from dataset.loader import Batch, Loader, derived_seed, epoch_order
from errors import UsageError

GRACE = 10  # seconds for the end of a step and for writing a checkpoint


class TorchLoader(Loader):
    """Batches whose images are read one by one (`images.pil`) in `num_workers` processes; 0 reads in this process.

    The order is DeviceLoader's; crops and flips have the same distribution. A sample's augmentation is a function of
    (seed, epoch, index), so batches do not depend on the number of workers. PyTorch's global generator is not changed.

    Args:
        data: dataset.Data. images: one of its splits. options: Loader's.

    Raises:
        UsageError (while iterating): an image cannot be read.
    """

    def __init__(self, data, images, *, num_workers=0, **options):
        super().__init__(images, **options)
        augmentation = []
        if self.train:
            augmentation.append(transforms.RandomCrop(data.image_size, data.padding, padding_mode=self.padding_mode))
            if data.flip:
                augmentation.append(transforms.RandomHorizontalFlip())
        normalise = transforms.Normalize(data.mean, data.std)
        transform = transforms.Compose([*augmentation, transforms.ToTensor(), normalise])
        self._sampler = _Keys(self)
        self._batched = torch.utils.data.DataLoader(
            _Samples(images, transform, self.seed), batch_sampler=self._sampler, num_workers=num_workers,
            collate_fn=_collate, worker_init_fn=_outlive_signals, pin_memory=self.device.type == "cuda",
            persistent_workers=num_workers > 0,
            generator=torch.Generator())  # without it, each epoch would draw from the global one

    def _batches(self, epoch, start):
        self._sampler.position = epoch, start
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        for batch in self._batched:
            if isinstance(batch, UsageError):
                raise batch
            images, target, index = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield Batch(images.contiguous(memory_format=memory_format), target, index)


class _Keys:
    """The batch sampler: lists of (epoch, index). Workers that outlive an epoch learn the epoch from these keys."""

    def __init__(self, loader):
        self._loader = weakref.proxy(loader)  # a reference cycle would keep the loader's processes alive after it
        self.position = 0, 0  # (epoch, step) of the first batch

    def __len__(self):
        return len(self._loader)

    def __iter__(self):
        loader, (epoch, start) = self._loader, self.position
        order = epoch_order(len(loader.images), loader.train, loader.seed, epoch)[0]
        for step in range(start, len(loader)):
            batch = order[step * loader.batch_size:(step + 1) * loader.batch_size]
            yield [(epoch, index) for index in batch.tolist()]


class _Samples(torch.utils.data.Dataset):
    """(epoch, index) -> (image (3, H, W) float32, target, index), or the UsageError that reading the image raised.

    The error is returned, because DataLoader turns an exception of a worker into many lines of traceback.
    """

    def __init__(self, images, transform, seed):
        self._images, self._transform, self._seed = images, transform, seed

    def __getitem__(self, key):
        epoch, index = key
        # torchvision draws from PyTorch's CPU generator. torch.manual_seed would reseed the GPUs too.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(derived_seed(self._seed, epoch, index))
        try:
            return self._transform(self._images.pil(index)), int(self._images.targets[index]), index
        except UsageError as error:
            return error
        finally:
            generator.set_state(state)


def _outlive_signals(worker):
    """Keeps a worker alive after a signal, until the main process ends or GRACE seconds after a SIGTERM.

    Slurm, systemd and a terminal signal the whole process group. Workers that ended at once would make the main process
    fail before it has saved. multiprocessing also uses SIGTERM to end workers that are left over at exit.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(samples):
    """List of samples -> (images (B, 3, H, W), target (B,), index (B,)), or the first UsageError among them."""
    for sample in samples:
        if isinstance(sample, UsageError):
            return sample
    images, targets, indices = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(targets), torch.tensor(indices)
