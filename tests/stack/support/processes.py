"""Client processes, forked from a server process that has imported all modules."""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "stack.conftest", "cogni_billing.testing"])
