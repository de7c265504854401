"""Language models, and the store of what they answered."""

from rlmrec.llm.base import LLM, Completion, Usage
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.local import LocalChat
from rlmrec.llm.replay import Replay
from rlmrec.llm.store import Profile, Store

__all__ = ["LLM", "Completion", "LocalChat", "OpenAIChat", "Profile", "Replay", "Store", "Usage"]
