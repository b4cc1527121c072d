"""Clients in processes of their own, which are forked off a server that has everything imported."""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "stack.conftest", "cogni_billing.testing"])
