"""The training loop: plain torch, every draw from one seed, continued where it was stopped."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from geoseg.models.change import SiameseUnet
from pipelines.flood_s2.augment import Augmentation, draw
from pipelines.flood_s2.chips import CHANNELS, CLASSES, Chips, channels_of
from pipelines.flood_s2.measure import counts_of

__all__ = ["Training", "loss_of", "make_net", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything that decides what comes out, with the values that flood-s2 was trained with."""

    encoder_name: str = "tu-regnetx_002"
    encoder_depth: int = 4
    decoder_channels: tuple[int, ...] = (64, 32, 16, 16)
    steps: int = 900
    batch: int = 16
    rate: float = 3e-3
    """Largest learning rate, of one cycle."""
    decay: float = 0.03
    """Of weights."""
    average: float = 0.997
    """Share of the past in the average of the weights, which is what is kept."""
    smoothing: float = 0.05
    """Share of doubt in every label: they are known to be noisy."""
    missed: float = 0.55
    """Weight of missed flood against false flood in Tversky's loss."""
    balance: float = 0.5
    """Pairs are drawn in proportion to 1 / (pairs of their block) ** balance; small blocks count as `least` pairs."""
    least: int = 8
    doubtful: float = 0.2
    """Pairs whose flood overlaps with new water by less are left out: it had gone, or it cannot be seen."""
    bfloat16: bool = True
    """Whether convolutions are computed in bfloat16: half the time where the processor has it."""
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)


def make_net(plan: Training) -> SiameseUnet:
    """The net, its weights as the seed says; the caller's random stream stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return SiameseUnet(
            plan.encoder_name, plan.encoder_depth, len(CHANNELS), len(CLASSES), plan.decoder_channels
        ).to(memory_format=torch.channels_last)


def loss_of(scores: Tensor, flood: Tensor, valid: Tensor, smoothing: float, missed: float = 0.5) -> Tensor:
    """Cross entropy plus Tversky's loss of the whole batch (Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44).

    Args:
        scores: (n, class, row, col).
        flood: float32 (n, row, col): 0 or 1.
        valid: bool (n, row, col): what counts.
        smoothing: Share of doubt in every label.
        missed: Weight of missed flood in Tversky's loss; false flood weighs 1 - missed, and 0.5 makes it Dice's loss.
    """
    usable = valid.float()
    entropy = cross_entropy(scores, flood.long(), reduction="none", label_smoothing=smoothing)
    probs = scores.softmax(1)[:, 1]
    hit = (probs * flood * usable).sum()
    either = missed * (flood * usable).sum() + (1 - missed) * (probs * usable).sum()  # a hit, in both sums, counts once
    return (entropy * usable).sum() / usable.sum().clamp(min=1) + 1 - (hit + 1) / (either + 1)


def train(plan: Training, chips: Chips, checkpoint: Path, *, check: Chips | None = None, every: int = 100) -> nn.Module:
    """The averaged net after all steps; what `checkpoint` holds of the same plan is continued.

    Args:
        plan: What to do.
        chips: To learn from.
        checkpoint: Written every `every` steps.
        check: Pairs whose figures are printed at the same times; nothing depends on them.
        every: Steps.
    """
    net, random = make_net(plan), torch.Generator().manual_seed(plan.seed)
    average = AveragedModel(net, avg_fn=partial(_averaged, plan.average), use_buffers=True).eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=plan.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=plan.steps, pct_start=0.15)
    parts: dict[str, Any] = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    first = _resume(checkpoint, plan, parts, random)
    weights = _weights(chips, plan)
    began = time.perf_counter()
    for step in range(first, plan.steps):
        reflectance, flood, valid = draw(chips, weights, plan.batch, plan.augmentation, random)
        net.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
            scores = net(channels_of(reflectance, valid)).float()
        loss = loss_of(scores, flood, valid, plan.smoothing, plan.missed)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(net)
        if (step + 1) % every == 0 or step + 1 == plan.steps:
            _keep(checkpoint, plan, parts, random, step + 1)
            figures = f", IoU {counts_of(average.module, check).iou:.4f}" if check else ""
            print(f"step {step + 1}: loss {loss.item():.3f}{figures}, {time.perf_counter() - began:.0f} s", flush=True)
    return average.module


def _averaged(past: float, old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """The running mean of a weight: at first of all steps so far, then one that forgets."""
    if not new.is_floating_point():  # a counter
        return new
    return old.lerp(new, 1 - min(past, (1 + int(count)) / (10 + int(count))))


def _weights(chips: Chips, plan: Training) -> Tensor:
    """How often each pair is drawn, relative to the others."""
    sizes = Counter(chips.blocks)
    weights = torch.tensor([max(sizes[block], plan.least) ** -plan.balance for block in chips.blocks])
    return weights * (chips.agreement >= plan.doubtful)


def _keep(path: Path, plan: Training, parts: dict[str, Any], random: torch.Generator, step: int) -> None:
    """Replaces the checkpoint in one step, so that there is always a whole one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    draft = path.with_suffix(".part")
    torch.save({**state, "random": random.get_state(), "step": step, "plan": asdict(plan)}, draft)
    draft.replace(path)


def _resume(path: Path, plan: Training, parts: dict[str, Any], random: torch.Generator) -> int:
    """The step to go on with: 0 where there is no checkpoint, or one of another plan."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["plan"] != asdict(plan):
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    random.set_state(state["random"])
    return int(state["step"])
