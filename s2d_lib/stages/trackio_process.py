"""Writes metrics into Trackio's database as they come: one JSON object a line on standard input (see trackers.py)."""

import json
import sys


def main(project: str, name: str) -> None:
    """Log until the input ends; the folder is that of TRACKIO_DIR."""
    import trackio

    # No dashboard and no samples of the machine: `embed` would start a server in the notebook.
    trackio.init(project=project, name=name, embed=False, auto_log_gpu=False, auto_log_cpu=False)
    for line in sys.stdin:
        row = json.loads(line)
        trackio.log(row["metrics"], step=row["step"])
    trackio.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
