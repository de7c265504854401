"""What the HTTP interface takes and gives, with its bounds; OpenAPI is made of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, StringConstraints, model_validator

MOST_K = 200
MOST_USERS = 256  # of a batch
MOST_IDS = 10_000  # candidates, exclude
ID_LENGTH = 2048  # some ids are addresses

WholeId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
TextId = Annotated[StrictStr, Field(min_length=1, max_length=ID_LENGTH)]
Id = WholeId | TextId
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
K = Annotated[int, Field(ge=1, le=MOST_K)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BatchRequest(_Request):
    """Recommendations for several users at once."""

    users: Annotated[list[Id], Field(min_length=1, max_length=MOST_USERS)]
    k: K = 20
    exclude_seen: bool = True
    candidates: Annotated[list[Id], Field(max_length=MOST_IDS)] | None = Field(
        None, description="Choose among these items alone."
    )
    exclude: Annotated[list[Id], Field(max_length=MOST_IDS)] | None = Field(
        None, description="Never these items."
    )


class NewItem(_Request):
    """An item that came after training, by its text."""

    id: Id
    text: Text
    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] | None = (
        Field(None, description="What to call it; by default the beginning of the text.")
    )


class ItemText(_Request):
    """A text of an item that need not exist."""

    text: Text
    k: K = 10


class NewUser(_Request):
    """Someone who was not in training: their taste in words, or items they like. Exactly one of both."""

    text: Text | None = None
    items: Annotated[list[Id], Field(min_length=1, max_length=1000)] | None = None
    k: K = 20

    @model_validator(mode="after")
    def _one_of_both(self) -> NewUser:
        if (self.text is None) == (self.items is None):
            raise ValueError("give either text or items")
        return self


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Where: body.k, query.k, path.user_id …")
    message: str


class Problem(BaseModel):
    """Why a request was refused."""

    error: str
    fields: list[FieldProblem] = []


class ScoredItem(BaseModel):
    """An item of a list, best first."""

    id: int | str
    title: str
    score: float


class Near(BaseModel):
    """A neighbour."""

    id: int | str
    title: str
    cosine: float


class Recommendations(BaseModel):
    """A user's list."""

    user: int | str
    items: list[ScoredItem]


class Batch(BaseModel):
    """Lists in the order of the request's users."""

    results: list[Recommendations]


class RankedItem(ScoredItem):
    """An item of the aligned list and where the base run has it."""

    rank: int
    base_rank: int | None = Field(
        description="From 1, among what the user has not seen; null: not in the base run."
    )


class Comparison(BaseModel):
    """A user's list of this run beside that of the base run."""

    user: int | str
    aligned: list[RankedItem]
    base: list[ScoredItem]


class SimilarItems(BaseModel):
    """Nearest items by cosine."""

    item: int | str
    title: str
    similar: list[Near]


class Named(BaseModel):
    """A user or an item and what to call it."""

    id: int | str
    title: str


class Users(BaseModel):
    """Users found."""

    users: list[Named]


class UserProfile(BaseModel):
    """What is known of a user."""

    user: int | str
    title: str
    profile: str | None = Field(description="Written by a language model; null where there is none.")
    reasoning: str | None = Field(description="The language model's, for its profile.")
    history: list[Named] = Field(description="Training items, at most 500.")
    interactions: int = Field(description="Training items in all.")


class Item(BaseModel):
    """What is known of an item."""

    id: int | str
    title: str
    text: str | None
    profile: str | None
    reasoning: str | None
    interactions: int = Field(description="Users who have it in training.")
    cold: bool = Field(description="It came after training, by its text.")


class ReasonFor(BaseModel):
    """A training item and what it adds: to the score, or its cosine to the item if the explanation is not exact."""

    id: int | str
    title: str
    contribution: float


class ExplanationAnswer(BaseModel):
    """Why an item is recommended to a user; the fields are those of rlmrec.recommend.explain.Explanation."""

    user: int | str
    item: int | str
    title: str
    score: float
    exact: bool
    own: float | None
    history: int
    because: list[ReasonFor]
    item_profile: str | None
    user_profile: str | None
    terms: list[str]
    text: str
    seen: bool


class ColdUser(BaseModel):
    """What someone new would like."""

    items: list[ScoredItem]


class Likers(BaseModel):
    """Who would like an item that nobody has met, and what it is like."""

    users: list[Near]
    similar: list[Near]


class ColdItemAnswer(BaseModel):
    """An item by its text."""

    id: int | str
    title: str
    text: str


class ColdItemList(BaseModel):
    """All items by their text, in the order of adding."""

    items: list[ColdItemAnswer]


class Health(BaseModel):
    """What is being served."""

    status: Literal["ok"] = "ok"
    run: str
    base: str | None
    dataset: str
    users: int
    items: int
    cold_items: int
    cold_start: bool
    writable: bool = Field(description="A token is configured: items can be added.")
