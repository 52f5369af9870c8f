"""One way to train every network: Muon and Adam, several processes that share the work of a batch, checkpoints to go on from."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

REPORT_STEPS = 50


@dataclass(frozen=True)
class Crew:
    """The processes that train together; this is one of them."""

    rank: int
    ranks: int
    device: torch.device

    def wait(self) -> None:
        """Returns when every process has come here: what the first has made before, the others then find."""
        if self.ranks > 1:
            dist.barrier()

    def total(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of all processes' tensors."""
        if self.ranks == 1:
            return tensors
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def share(self, batch: int) -> int:
        """This process's part of a batch; on a GPU, which has room, eight times as large."""
        return batch * (8 if self.device.type == "cuda" else 1) // self.ranks


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network learns."""

    seed: int
    steps: int
    muon: float  # learning rates
    adam: float
    hold: float  # part of the steps before the rates fall, linearly
    average: float = 0.0  # of the weights, by how much each step keeps the past; 0 for none
    on_gpu: float = 1.0  # times as many steps on a GPU

    def on(self, device: torch.device) -> "Plan":
        """The plan for that device."""
        return replace(self, steps=round(self.steps * self.on_gpu)) if device.type == "cuda" else self

    def rate(self, step: int) -> float:
        """The part of the full learning rates at that step."""
        rise = min(1.0, (step + 1) / 40)
        fall = (1 - step / self.steps) / (1 - self.hold)
        return rise * min(1.0, max(0.02, fall))


@cache
def quick(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it; other CPUs take twenty times as long with it as with float32."""
    able = device.type == "cuda" or any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if able else torch.float32


def short_floats(device: torch.device) -> torch.autocast:
    """Within it convolutions compute in bfloat16, where that is quick."""
    return torch.autocast(device.type, torch.bfloat16, enabled=quick(device) is torch.bfloat16)


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal, by Newton-Schulz iterations: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    Kernels count as matrices of outputs by the rest. Updates are scaled as Adam's are, 0.2 * sqrt(longer side): Liu et al. 2025, arXiv:2502.16982.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, crew: Crew, momentum: float = 0.95) -> None:
        super().__init__(parameters, dict(lr=lr, momentum=momentum))
        self._crew = crew

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            updates = [torch.zeros_like(parameter).flatten(1) for parameter in parameters]
            for number, parameter in enumerate(parameters):
                past = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                past.mul_(group["momentum"]).add_(parameter.grad)
                if number % self._crew.ranks == self._crew.rank:  # each process does its share of the work
                    updates[number] = orthogonal((parameter.grad + group["momentum"] * past).flatten(1))
            for parameter, update in zip(parameters, self._crew.total(updates), strict=True):
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def orthogonal(matrix: Tensor, iterations: int = 4) -> Tensor:
    """A matrix of the same singular vectors with singular values near 1; coefficients and half precision, where it is quick, are Jordan's."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(quick(matrix.device))
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def train(
    network: nn.Module,
    loss: Callable[[np.random.Generator, float], Tensor],
    plan: Plan,
    path: Path,
    crew: Crew,
    report: Callable[[], str],
) -> None:
    """Trains `network` in place to the end of `plan`, and leaves it with its averaged weights where the plan averages.

    `loss` is given this process's random numbers and the part of the plan that is done. `path` holds the state; where it exists, training goes on
    from there, and gives what it would have given without a break.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1 and min(parameter.flatten(1).shape) >= 4]
    known = {id(parameter) for parameter in matrices}
    optimizers = (Muon(matrices, plan.muon, crew), torch.optim.Adam([p for p in parameters if id(p) not in known], plan.adam, betas=(0.9, 0.98)))
    rates = (plan.muon, plan.adam)
    step, averaged = 0, [parameter.detach().clone() for parameter in parameters]
    if path.exists():
        state = torch.load(path, map_location=crew.device, weights_only=True)
        step, averaged = state["step"], state["averaged"]
        network.load_state_dict(state["network"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    began, busy, smooth = time.monotonic(), time.process_time(), None
    while step < plan.steps:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * plan.rate(step)
            optimizer.zero_grad()
        torch.manual_seed(plan.seed + 1_000_003 * step + crew.rank)
        value = loss(np.random.default_rng([plan.seed, step, crew.rank]), step / plan.steps)
        value.backward()
        value = value.detach()
        average_gradients(parameters, crew)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(plan.average, 1 - 1 / (1 + step / 8))
        for mean, parameter in zip(averaged, parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - keep)
        smooth = float(value) if smooth is None else 0.97 * smooth + 0.03 * float(value)
        if crew.rank == 0 and (step % REPORT_STEPS == 0 or step == plan.steps):
            saved = [optimizer.state_dict() for optimizer in optimizers]
            partial = path.with_suffix(".partial")
            torch.save(dict(step=step, network=network.state_dict(), averaged=averaged, optimizers=saved), partial)
            partial.replace(path)
            clock = f"{time.monotonic() - began:.0f} s, busy {time.process_time() - busy:.0f} s"
            told = exchanged(parameters, averaged, report) if step % (4 * REPORT_STEPS) == 0 or step == plan.steps else ""
            print(f"{path.stem} {step}/{plan.steps} loss {smooth:.4f} {told} ({clock})", flush=True)
    for mean, parameter in zip(averaged, parameters, strict=True):
        parameter.data.copy_(mean)


def finished(path: Path, network: nn.Module, plan: Plan) -> bool:
    """Whether `path` holds the end of `plan`; then `network` has its weights."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["step"] < plan.steps:
        return False
    network.load_state_dict(state["network"])
    for parameter, mean in zip((p for p in network.parameters() if p.requires_grad), state["averaged"], strict=True):
        parameter.data.copy_(mean)
    return True


def exchanged(parameters: list[nn.Parameter], averaged: list[Tensor], report: Callable[[], str]) -> str:
    """The report of the averaged weights."""
    own = [parameter.detach().clone() for parameter in parameters]
    for parameter, mean in zip(parameters, averaged, strict=True):
        parameter.data.copy_(mean)
    told = report()
    for parameter, value in zip(parameters, own, strict=True):
        parameter.data.copy_(value)
    return told


def average_gradients(parameters: list[nn.Parameter], crew: Crew) -> None:
    """Makes the gradients of all processes their mean."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for parameter, total in zip(parameters, crew.total([parameter.grad for parameter in parameters]), strict=True):  # type: ignore[misc]
        parameter.grad = total / crew.ranks
