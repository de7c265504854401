"""Language models, and the store of what they answered."""

from rlmrec.llm.client import LLM, Completion, OpenAIChat, Usage
from rlmrec.llm.local import LocalChat
from rlmrec.llm.replay import Replay
from rlmrec.llm.store import Profile, Store

__all__ = ["LLM", "Completion", "LocalChat", "OpenAIChat", "Profile", "Replay", "Store", "Usage"]
