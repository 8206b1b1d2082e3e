"""Which keys of the golden table the experiments no longer have: `python tests/golden/keys.py [--write]`, from the root.

A key that moves costs somebody the images behind it: look at every line before writing, and say why in the commit.
"""

from __future__ import annotations

import json
import sys

sys.path[:0] = ["tests/stages", "tests"]

from test_golden_keys import GOLDEN, of_experiments  # noqa: E402


def main() -> None:
    table = GOLDEN / "keys.json"
    golden = json.loads(table.read_bytes())
    found = of_experiments(golden)
    for ref in golden:
        for stage in sorted(golden[ref].keys() | found[ref].keys()):
            before, now = golden[ref].get(stage), found[ref].get(stage)
            if before != now:
                print(ref, stage, before and before[0], "->", now and now[0])
    if "--write" in sys.argv:
        lines = [f" {json.dumps(ref)}: {json.dumps(stages, sort_keys=True)}" for ref, stages in found.items()]
        table.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(sum(row[0] for rows in found.values() for row in rows.values()), "keys")


if __name__ == "__main__":
    main()
