"""DROID: as RLDS in every release, and raw as the laboratories uploaded it."""
