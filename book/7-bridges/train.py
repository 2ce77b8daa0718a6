"""Train a small GPT on a text of yours, and ask what the run is doing.

    python train.py mine.txt           (without a file it takes a text that gdflows makes)
    python train.py mine.txt 0.03      at another learning rate
"""

import copy
import sys
from pathlib import Path

import torch

import gdflows as gf

LR, WARMUP, STEPS, BATCH, LENGTH, SEED = 3e-3, 40, 200, 16, 32, 0
LR = float(sys.argv[2]) if sys.argv[2:] else LR
loss = gf.problems.cross_entropy
text = Path(sys.argv[1]).read_text("utf-8") if sys.argv[1:] else gf.problems.text("numerals")

# The data: sequences, each with the characters that follow. The last tenth is held out.
letters = sorted(set(text))
codes = torch.tensor([letters.index(c) for c in text])
n = (len(codes) - 1) // LENGTH
x, y = (codes[i : i + n * LENGTH].reshape(n, LENGTH) for i in (0, 1))
cut = n - n // 10
held_out = list(zip(x[cut:][: 8 * BATCH].chunk(8), y[cut:][: 8 * BATCH].chunk(8)))


def batch(step, size=BATCH):
    """A function of the step: so each step can be taken again."""
    generator = torch.Generator().manual_seed(100_003 * SEED + step)
    rows = torch.randint(cut, (size,), generator=generator)
    return x[rows], y[rows]


# The usual loop, and three lines of gdflows: the watched samples, the monitor, its step.
model = gf.problems.gpt(0.5, depth=2, heads=2, context=LENGTH, classes=len(letters), seed=SEED)
optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
watched = batch(10**6, 64)
monitor = gf.SharpnessMonitor(model, loss, watched, optimizer, every=50)
losses, spikes = [], []
for step in range(1, STEPS + 1):
    optimizer.param_groups[0]["lr"] = LR * min(1, step / WARMUP)
    u, v = batch(step)
    now = loss(model(u), v)
    if len(losses) > 20 and now > 1.5 * sum(losses[-20:]) / 20:
        spikes.append((step, *copy.deepcopy((model, optimizer))))  # as they are before the step
    losses.append(float(now.detach()))
    optimizer.zero_grad()
    now.backward()
    optimizer.step()
    if seen := monitor.step():
        with torch.no_grad():
            test = sum(float(loss(model(u), v)) for u, v in held_out) / len(held_out)
        print(f"step {step}: held-out loss {test:.3f}, sharpness at {seen.ratio:.2f} of the edge")

# What to ask of it.
largest = gf.suggest_lr(model, loss, watched, optimizer, tol=0.05).lr
print(f"the largest stable rate is {largest / LR:.1f} times the one in use")
E = gf.Objective.from_module(model, loss, watched)
g, noise = E.grad(E.theta0), gf.noise.GradientNoise(E, E.theta0)
print(f"noise outweighs the gradient in batches below {float(noise.trace() / (g @ g)):.0f}")
for ahead in (20, 80):
    coming = [batch(STEPS + k) for k in range(1, ahead + 1)]
    print(f"the next {ahead} steps at other rates:")
    tried = gf.try_rates(model, loss, optimizer, coming, held_out)
    print(tried.to_string(index=False, float_format="{:.4g}".format))
print("spikes at steps", [step for step, *_ in spikes])
for step, *before in spikes[:1]:
    others = [batch(2 * 10**6 + k) for k in range(8)]
    stretch = [batch(step + k) for k in range(3)]
    print(gf.explain_spike(before[0], loss, before[1], stretch, others))
