"""`python -m proxy` is the command `fumage-proxy`."""

import sys

from proxy.cli import main

sys.exit(main())
