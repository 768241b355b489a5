"""Scripted experts: they read the simulator, no camera."""
