"""What a trained classifier is worth: accuracy, calibration, agreement with another one."""
import torch
import torch.nn.functional as F

from helper.objective import NetworkOnDevice

CALIBRATION_BINS = 15


@torch.no_grad()
def score(model, loader, device, teacher=None):
    """Scores of `model` over the loader's images, and of its agreement with `teacher`.

    Args:
        model, teacher: images (B, 3, H, W) -> logits (B, K); put into eval mode.
        device: helper.device.Device.

    Returns:
        acc, acc_top5 (%); loss (cross-entropy, nats); ece (expected calibration error, %, 15 equal bins of the top
        probability: Guo et al. 2017, arXiv 1706.04599); images. With a teacher also teacher_acc (%), agreement (%
        of images given the same class) and teacher_kl (mean KL of the model from the teacher, nats, T = 1).
    """
    network = NetworkOnDevice(device)
    logits, teacher_logits, targets = [], [], []
    for batch in loader:
        targets.append(batch.target)
        logits.append(network(model.eval(), batch.images).float())
        if teacher is not None:
            teacher_logits.append(network(teacher.eval(), batch.images).float())
    z, target = torch.cat(logits), torch.cat(targets)  # (N, K), (N,)
    hits = z.topk(min(5, z.shape[1])).indices == target[:, None]  # (N, 5)
    scores = {"acc": _percent(hits[:, 0]), "acc_top5": _percent(hits.any(dim=1)),
              "loss": F.cross_entropy(z, target).item(),
              "ece": 100 * calibration_error(z, target).item(), "images": len(target)}
    if teacher is not None:
        z_t = torch.cat(teacher_logits)
        scores["teacher_acc"] = _percent(z_t.argmax(dim=1) == target)
        scores["agreement"] = _percent(z_t.argmax(dim=1) == z.argmax(dim=1))
        scores["teacher_kl"] = F.kl_div(F.log_softmax(z, dim=1), F.log_softmax(z_t, dim=1), reduction="batchmean",
                                        log_target=True).item()
    return scores


def calibration_error(logits, target, bins=CALIBRATION_BINS):
    """Expected calibration error in [0, 1]: |accuracy - confidence| of each bin, weighted by its share of the samples.

    Shapes: logits (N, K), target (N,) -> ().
    """
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are (low, high]
    gap = (predicted == target).float() - confidence  # (N,)
    return torch.zeros(bins, device=gap.device).index_add(0, index, gap).abs().sum() / len(gap)


def describe(scores):
    """The scores as lines for people."""
    lines = [f"top-1 {scores['acc']:.2f}%   top-5 {scores['acc_top5']:.2f}%   cross-entropy {scores['loss']:.4f}   "
             f"calibration error {scores['ece']:.2f}%   ({scores['images']} images)"]
    if "agreement" in scores:
        lines.append(f"teacher {scores['teacher_acc']:.2f}%   same class as the teacher {scores['agreement']:.2f}%   "
                     f"KL from the teacher {scores['teacher_kl']:.4f}")
    return "\n".join(lines)


def _percent(hits):
    return 100 * hits.double().mean().item()
