"""How large the long runs are, and on what: settable, so that a finding can be looked at again.

RELIABILITY_SEED       of everything that is drawn
RELIABILITY_BODIES     hostile requests of `make test-fuzz`
RELIABILITY_REQUESTS   requests of `make test-soak`
RELIABILITY_ROUNDS     kills of each kind of `make test-kill`
RELIABILITY_PAIR       tiny: a pair made for tests; shipped: models/, slower
"""

from __future__ import annotations

import os

SEED = int(os.environ.get("RELIABILITY_SEED", "1"))
BODIES = int(os.environ.get("RELIABILITY_BODIES", "12000"))
REQUESTS = int(os.environ.get("RELIABILITY_REQUESTS", "50000"))
ROUNDS = int(os.environ.get("RELIABILITY_ROUNDS", "3"))
SHIPPED = os.environ.get("RELIABILITY_PAIR", "tiny") == "shipped"
