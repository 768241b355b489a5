"""Saccade: what does a visual representation learned without action labels know about behaviour?"""

__version__ = "0.1.0"
