"""`robust-vit …` in which FSDP2 shards on CPUs too, which accelerate 1.15 leaves to DDP.

accelerate launch --config_file trainer/accelerate_configs/fsdp2.yaml --module tests.helpers.sharded train …
"""

import sys
from unittest.mock import patch

from accelerate.state import AcceleratorState, DistributedType, PartialState

from robust_vit_hf.cli.main import main


begin = AcceleratorState.__init__


def begin_sharded(self, *args, fsdp_plugin=None, **kwargs):
    begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    with patch.object(AcceleratorState, "__init__", begin_sharded):
        sys.exit(main(sys.argv[1:]))
