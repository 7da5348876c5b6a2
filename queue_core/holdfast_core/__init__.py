"""The queue core of Holdfast: persistence, the claim guard and the rules of the pause."""

__version__ = "0.1.0"
