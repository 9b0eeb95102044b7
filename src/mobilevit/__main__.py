"""``python -m mobilevit`` is the command ``mobilevit``."""

import sys

from mobilevit.cli import main

sys.exit(main())
