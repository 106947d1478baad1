"""Write frames of the digits camera as splitc wants them: calib.npz and eval.npz in a folder.

Both hold `frame` (n, 1, 256, 256) and `label` (n, 8, 8): which digit stands in each cell. The
digits of `eval.npz` are in no training frame, and in none of `calib.npz`.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "01_digits_camera"))
from frames import digits, frame, held_out_frames

CALIBRATION = 24


def calibration():
    """Draw frames of eight known digits each: (frames, labels)."""
    images, labels = digits(held_out=False)
    rng = np.random.default_rng(5)
    groups = [rng.choice(len(images), 8, replace=False) for _ in range(CALIBRATION)]
    made = [frame(images[group], labels[group], 256, rng, slant=0.1) for group in groups]
    return np.stack([pixels for pixels, _ in made])[:, None], np.stack([truth for _, truth in made])


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, truth) in (("calib", calibration()), ("eval", held_out_frames())):
        np.savez_compressed(folder / f"{name}.npz", frame=pixels, label=truth)
        print(f"{name}.npz: {len(pixels)} frames")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
