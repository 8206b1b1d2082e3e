"""What an image of each method costs, counted: rows through the denoiser, encodings and decodings per output, from the
receipts of a sweep that was run.

    synthaug run experiments/digits_unidiffda.py:five_shots
    python experiments/benchmarks/calls.py experiments/digits_unidiffda.py:five_shots --home runs
"""

from __future__ import annotations

import argparse
import json
import sys

from synthaug.experiment import Experiment, Sweep
from synthaug.refs import resolve
from synthaug.runtime.store import Store

COUNTED = ("unet_calls", "vae_encodes", "vae_decodes", "text_encodes")


def counted(store: Store, experiment: Experiment) -> dict[str, float]:
    """Counts and seconds per output, of everything but fine-tuning."""
    line = store.line(experiment)
    stages = [stage for stage in (line.prepared, line.generated) if stage is not None]
    manifests = [manifest for stage in stages if (manifest := store.manifest(stage)) is not None]
    rows = manifests[-1].counts["rows"]
    found = {name: sum(m.counts["counters"][name] for m in manifests) / rows for name in COUNTED}
    return found | {"seconds": sum(m.seconds for m in manifests) / rows}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref")
    parser.add_argument("--home", default="runs")
    args = parser.parse_args(argv)
    store, (_, subject) = Store(args.home), resolve(args.ref, [])
    assert isinstance(subject, Sweep)
    found: dict[str, dict[str, float]] = {}
    for trial in subject.trials():
        method = trial.experiment.method
        if method is not None and type(method).__name__ not in found:
            found[type(method).__name__] = counted(store, trial.experiment)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in found.items()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
