"""Time of each operation in a step of ours and in a plain one, at 224 px.

    python -m experiments profile_step     # writes experiments/benchmarks/profile_step.json

DeiT-S as in `step.py`. Both steps are profiled in turn; times are those of the operations themselves, without what they call,
in percent of a plain step.
"""

import json
from collections import defaultdict
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from .step import STEPS, make_inputs


RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 5


def main() -> None:
    script_parser(__doc__).parse_args()
    model, inputs = make_inputs("DeiT-S")
    steps = {
        name: STEPS[kind](model, inputs) for name, kind in {"ours": "robustvit", "plain": "cross-entropy"}.items()
    }
    seconds: dict[str, dict[str, float]] = {name: defaultdict(float) for name in steps}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                step()
            model.zero_grad()
            for event in profiler.key_averages() if number else ():  # the first round warms up
                seconds[name][event.key] += event.self_cpu_time_total / 1e6
    whole = sum(seconds["plain"].values())
    shares = {
        key: {name: round(100 * seconds[name][key] / whole, 2) for name in steps}
        for key in {*seconds["ours"], *seconds["plain"]}
    }
    shares = dict(sorted(shares.items(), key=lambda item: item[1]["plain"] - item[1]["ours"]))
    results = {"total": {name: round(100 * sum(of.values()) / whole, 1) for name, of in seconds.items()}}
    results |= {key: of for key, of in shares.items() if abs(of["ours"] - of["plain"]) >= 0.3}
    print(json.dumps(results, indent=2))
    write_json(RESULTS, {"percent of a plain step": results, **environment()})
