"""Contrastive Representation Distillation. Tian, Krishnan, Isola. ICLR 2020, arXiv 1910.10699.

The loss pulls the student's embedding of an image towards the teacher's embedding of the same image, and pushes it away
from the teacher's embeddings of other classes' images. The loss and its memory are in crd/.
"""
from crd import CRDLoss, CRDQueueLoss, NegativeSampler
from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import FEAT_DIM
from errors import UsageError
from flags import Option, number


class CRDMethod(Method):
    """Contrasts the embeddings, with a bank of one entry per training image or with a queue.

    Negatives are drawn on the device in every step. The two linear embeddings, the banks and the normalisers are
    checkpointed.

    For a small student on a CPU a step takes twice as long as kd's (results/speed.md): the scores with the banks and
    their gradient take 26 million multiplications per image, in float32; resnet8's passes take 38 million in bfloat16.

    Raises:
        UsageError: --mode relax with a queue, or training images of a single class with a bank.
    """

    weights = LossWeights(1.0, 0.0, 0.8, "RepDistiller, scripts/run_cifar_distill.sh; crd+kd: 1, 1, 0.8")
    options = (
        FEAT_DIM,
        Option(("--nce_k",), {"type": number(int, at_least=1), "default": 16384, "metavar": "K",
                              "help": "crd: negatives per image"}),
        Option(("--nce_t",), {"type": number(float, above=0), "default": 0.07, "metavar": "T",
                              "help": "crd: temperature"}),
        Option(("--nce_m",), {"type": number(float, at_least=0), "default": 0.5, "metavar": "M",
                              "help": "crd: momentum of the bank"}),
        Option(("--mode",), {"choices": ["exact", "relax"], "default": "exact",
                             "help": "crd: an image's positive is itself, or any image of its class"}),
        Option(("--nce_memory",), {"choices": ["bank", "queue"], "default": "bank",
                                   "help": "crd: one entry per training image, or the newest --nce_k entries, for data "
                                   "sets whose bank would not fit"}),
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        settings = (self.s_shapes[-1][0], self.t_shapes[-1][0], opt.n_data, opt.feat_dim, opt.nce_k, opt.nce_t)
        if opt.nce_memory == "queue":
            if opt.mode == "relax":
                raise UsageError("crd: --mode relax needs the bank: a queue has no entry for each image's class mates")
            self.sampler, self.loss = None, CRDQueueLoss(*settings)
        else:
            if len(opt.targets.unique()) < 2:
                raise UsageError("crd: there is one class only, and so no image of another to contrast with")
            self.sampler = NegativeSampler(opt.targets, opt.nce_k, opt.mode)
            self.loss = CRDLoss(*settings, opt.nce_m)

    def forward(self, s, t, batch):
        if self.sampler is None:
            return self.loss(s.embedding, t.embedding, batch.target)
        return self.loss(s.embedding, t.embedding, batch.index, self.sampler(batch.index, batch.target))
