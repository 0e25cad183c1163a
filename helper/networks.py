"""How a network is run: its precision, and several GPUs."""
from torch import nn
from torch.nn.parallel import data_parallel


class NetworkOnDevice:
    """Runs a network in the device's precision, its batch split over `device_ids` when there are several.

    Only this forward pass is split (DataParallel): losses see the whole batch, so two devices give one device's loss.
    """

    def __init__(self, device):
        self.device = device

    def __call__(self, model, images, **settings):
        if len(self.device.device_ids) > 1:
            return data_parallel(_Autocast(model, self.device), images, self.device.device_ids, module_kwargs=settings)
        with self.device.autocast():
            return model(images, **settings)


class _Autocast(nn.Module):
    """Autocast entered inside forward: DataParallel's threads do not inherit the dtype of their parent's."""

    def __init__(self, model, device):
        super().__init__()
        self.model, self.device = model, device

    def forward(self, images, **settings):
        with self.device.autocast():
            return self.model(images, **settings)
