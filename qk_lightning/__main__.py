"""`python -m qk_lightning` is `qk`."""

import sys

from qk_lightning.cli.main import main

sys.exit(main())
