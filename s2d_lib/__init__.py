"""s2d: sparse-to-dense post-training studies, as notebooks over a small library."""

import os

# What libraries below would tell the network about their use; a value that the user has set stays.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL's trainers, through huggingface_hub
    "VLLM_NO_USAGE_STATS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",  # Trackio's viewer
}.items():
    os.environ.setdefault(_name, _value)
