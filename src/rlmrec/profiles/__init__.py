"""From texts to prompts to profiles, and the proof that nothing held out went in."""

from rlmrec.profiles.audit import audit
from rlmrec.profiles.profiler import Price, Profiler
from rlmrec.profiles.prompts import PromptOptions

__all__ = ["Price", "Profiler", "PromptOptions", "audit"]
