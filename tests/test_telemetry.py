"""Nothing is reported to the network unless the user asks for it; in fresh processes, since libraries look once."""

import os
import subprocess
import sys

NAMES = ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "GRADIO_ANALYTICS_ENABLED")
TRACKERS = ("DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE")  # each turns Hugging Face's thread off by itself
SEEN = f"import os, s2d_lib; print(*(os.environ[name] for name in {NAMES}))"
SENT = """
import s2d_lib.stages.rl
from huggingface_hub.utils import _telemetry
_telemetry.send_telemetry("s2d", library_name="s2d")
print("sending:", _telemetry._TELEMETRY_THREAD is not None)
"""


def test_libraries_report_nothing_unless_the_user_said_so(root):
    def printed(program: str, **said: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name not in (*NAMES, *TRACKERS)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=root, env=kept | said, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert printed(SENT) == "sending: False"
    assert printed(SEEN) == "1 1 False"
    assert printed(SEEN, **dict.fromkeys(NAMES, "mine")) == "mine mine mine"
