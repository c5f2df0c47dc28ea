"""Record what ppi_py answers on seeded outcomes, for `test_prediction_powered.py`.

    python -m venv /tmp/ppi && /tmp/ppi/bin/pip install ppi-python==0.2.3
    /tmp/ppi/bin/python tests/support/record_ppi_vectors.py

ppi_py (MIT) brings 600 MB of dependencies, so its answers are kept in ppi_vectors.json instead.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("ppi_vectors.json")
CASES = {
    "truthful": (0.5, 0.9, 0.05),
    "as today": (0.4, 0.6, 0.05),
    "optimist": (0.2, 0.9, 0.5),
    "blind": (0.5, 0.4, 0.4),
    "liar": (0.4, 0.2, 0.6),
}
"""Real success rate, and the share that is imagined as success among real successes and among real failures."""
SIZES = ((400, 400), (400, 4000), (3000, 30000))


def outcomes(case: str, n: int, more: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real [n] and imagined [n] outcomes, and [more] imagined ones of other layouts; bool."""
    rng = np.random.default_rng(seed)
    rate, hit, false = CASES[case]
    real = rng.random(n + more) < rate
    imagined = rng.random(n + more) < np.where(real, hit, false)
    return real[:n], imagined[:n], imagined[n:]


def main() -> None:
    """Write the file."""
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate  # pyright: ignore[reportMissingImports]

    rows = []
    for case in CASES:
        for n, more in SIZES:
            real, imagined, unplayed = (x.astype(float) for x in outcomes(case, n, more, 1))
            low, high = ppi_mean_ci(real, imagined, unplayed, alpha=0.05)
            old, imagined_old, unplayed_old = (x.astype(float) for x in outcomes(case, n, more, 2))
            change = real - old, imagined - imagined_old, unplayed - unplayed_old
            change_low, change_high = ppi_mean_ci(*change, alpha=0.05)
            rows.append({
                "case": case, "n": n, "more": more,
                "rate": [float(np.squeeze(x)) for x in (ppi_mean_pointestimate(real, imagined, unplayed), low, high)],
                "difference": [
                    float(np.squeeze(x)) for x in (ppi_mean_pointestimate(*change), change_low, change_high)
                ],
            })  # fmt: skip
    version = importlib.metadata.version("ppi-python")
    FILE.write_text(json.dumps({"ppi_py": version, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
