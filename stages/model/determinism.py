"""Kernels that give the same bits each time."""


def use_deterministic_kernels() -> None:
    """cuDNN takes only deterministic algorithms, and does not choose them by timing: films are promised to be the same to the bit.

    Concerns the convolutions of the video autoencoder and of the patch embeddings. Without effect on a CPU.
    """
    import torch

    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
