"""Train the embedded demo model and write `l2fmt/demo/digits.safetensors`: python tools/train_digits.py."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from l2fmt.demo.digits import DigitsNet, accuracy, split

TARGET = Path(__file__).parents[1] / "l2fmt" / "demo" / "digits.safetensors"
SEED = 0
EPOCHS = 60
BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 2e-2


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by up to one pixel each way, padding with background."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, moves, strict=True)])


def train() -> DigitsNet:
    """Fit `DigitsNet` on the training digits; the same seed gives the same weights on the same torch build."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)
    (images, labels), _ = split()
    model = DigitsNet()
    steps = EPOCHS * -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            logits = model(shifted(images[batch], generator))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1:2d}/{EPOCHS}  loss {total / len(labels):.4f}")
    return model


def main() -> None:
    """Train, report the accuracy on the held-out digits, and write the weights."""
    state = train().state_dict()
    print(f"held-out accuracy {accuracy(state):.2%}")
    safetensors.torch.save_file(state, TARGET)
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size:,} bytes, {sum(t.numel() for t in state.values()):,} numbers")


if __name__ == "__main__":
    main()
