"""``python -m subquad`` is the command ``subquad``."""

import sys

from subquad.cli import main

sys.exit(main())
