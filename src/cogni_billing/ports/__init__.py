"""The core's needs from outside, as promises that adapters keep."""
