"""Train the digits camera and write `digits.onnx` beside this file (needs `make`: torch).

    .venv/bin/python examples/01_digits_camera/train.py

Seeded; prints the accuracy on digits that no training frame holds, with its standard error.
"""

import io
import time
from pathlib import Path

import frames
import numpy as np
import onnx
import torch
from network import DigitsCamera
from PIL import Image
from torch import Tensor, nn

OUTPUT = Path(__file__).with_name("digits.onnx")
STEPS, BATCH, CROP = 2600, 8, 128
SEED = 1


def batches(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw crops of 128×128 with 6 to 16 digits in their 16 cells: (frames, labels of cells)."""
    images, labels = frames.digits(held_out=False)
    made = []
    for _ in range(BATCH):
        chosen = rng.choice(len(images), rng.integers(6, 17), replace=False)
        made.append(frames.frame(images[chosen], labels[chosen], CROP, rng, slant=0.2))
    pixels = np.stack([crop for crop, _ in made])[:, None]
    crops = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
    return crops, torch.from_numpy(np.stack([truth for _, truth in made]))


def train(network: DigitsCamera, steps: int = STEPS) -> None:
    """Cross-entropy over all cells; one-cycle learning rate; prints every 100 steps."""
    rng, begin = np.random.default_rng(SEED), time.monotonic()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    mean = 0.0
    for step in range(1, steps + 1):
        pixels, truth = batches(rng)
        loss = loss_of(network(pixels), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += loss.item() / 100
        if step % 100 == 0:
            print(
                f"step {step}/{steps}  loss {mean:.3f}  {time.monotonic() - begin:.0f} s",
                flush=True,
            )
            mean = 0.0


def evaluate(network: DigitsCamera) -> None:
    """Print how many held-out digits are read right, and how often nothing is taken for one."""
    pixels, truth = frames.held_out_frames()
    with torch.no_grad():
        parts = [network(part) for part in torch.from_numpy(pixels).split(8)]
    read = torch.cat(parts).argmax(1).numpy()
    right = (read == truth)[truth != frames.NOTHING]
    error = (right.mean() * (1 - right.mean()) / right.size) ** 0.5
    false = (read != truth)[truth == frames.NOTHING]
    print(f"read right: {right.mean():.1%} ± {error:.1%} (standard error) of {right.size} digits")
    print(f"digits seen in empty cells: {false.sum()} of {false.size}")


def measure_jpeg() -> None:
    """Print the mean size of the held-out frames as JPEG: the rival that the demo names."""
    sizes = []
    for pixels in frames.held_out_frames()[0]:
        file = io.BytesIO()
        Image.fromarray(pixels[0]).save(file, "JPEG", quality=85)
        sizes.append(len(file.getvalue()))
    print(f"a frame as JPEG of quality 85: {np.mean(sizes):,.0f} bytes on average")


class Named(nn.Module):
    """The network with its two narrow places as outputs, so that the exporter names them."""

    def __init__(self, network: DigitsCamera) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = self.network
        stem = whole.stem(whole.scaled(frame))
        waist = whole.waist(stem)
        return whole.read(whole.trunk(whole.restore(waist))), stem, waist


def export(network: DigitsCamera, output: Path = OUTPUT) -> None:
    """Write the ONNX: any batch, three named tensors, nothing about the machine that made it."""
    example = torch.zeros(2, 1, 256, 256, dtype=torch.uint8)
    program = torch.onnx.export(
        Named(network).eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        input_names=["frame"],
        output_names=["digits", "stem", "waist"],
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    del model.graph.output[1:]
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for part in (model, graph, *(one for kind in parts for one in kind)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.name = "digits_camera"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, output)
    print(f"wrote {output.name}: {output.stat().st_size:,} bytes")


def main() -> None:
    """Train, evaluate, export."""
    torch.set_num_threads(1)  # small convolutions: more threads cost more than they bring
    torch.manual_seed(SEED)
    network = DigitsCamera()
    train(network.to(memory_format=torch.channels_last))
    evaluate(network.eval())
    measure_jpeg()
    export(network.to(memory_format=torch.contiguous_format))


if __name__ == "__main__":
    main()
