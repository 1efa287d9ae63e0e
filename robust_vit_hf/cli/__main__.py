"""`python -m robust_vit_hf.cli`, as `accelerate launch --module` needs it."""

import sys

from .main import main


sys.exit(main())
