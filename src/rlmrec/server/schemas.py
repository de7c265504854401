"""Requests and answers of the HTTP API, with their limits; OpenAPI is generated from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rlmrec.data.markup import plain

MAX_K = 200
MAX_USERS = 256  # of a batch
MAX_IDS = 10_000  # candidates, exclude
MAX_ID_LENGTH = 2048  # some ids are URLs

WholeId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
TextId = Annotated[StrictStr, Field(min_length=1, max_length=MAX_ID_LENGTH)]


def _id(value: Any, read: ValidatorFunctionWrapHandler) -> int | str:
    """Tell one problem of an id that is neither, instead of one for each type."""
    try:
        found: int | str = read(value)
        return found
    except ValidationError:
        raise PydanticCustomError(
            "id",
            "Input should be an integer of 64 bits or a text of at least 1 and at most {longest} characters",
            {"longest": MAX_ID_LENGTH},
        ) from None


Id = Annotated[WholeId | TextId, WrapValidator(_id)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]


def _without_tags(text: str) -> str:
    found = plain(text)
    if not found:
        raise ValueError("expected more than HTML tags")
    return found


ItemWords = Annotated[Text, AfterValidator(_without_tags)]
ItemTitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
    AfterValidator(_without_tags),
]
K = Annotated[int, Field(ge=1, le=MAX_K)]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
FILTER = "Only items for which this SQL condition over their columns is true: in_stock and price < 20."
BOUGHT_FILTER = (
    "Items that are recommended although the user has them, such as consumables: an SQL condition."
)
DIVERSITY = "Weight of marginal relevance: from 0, scores alone, to 1."
NOTE = "null unless the encoder knows no word of the text, so that it tells nothing."
FALLBACK = "Unknown users get the most popular items; false answers 404."


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BatchRequest(_Request):
    """Recommendations for several users at once."""

    users: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    k: K = 20
    exclude_seen: bool = Field(True, description="Leave out what the users are known to have.")
    candidates: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = Field(
        None, description="Recommend only these items; unknown ids are skipped and counted."
    )
    exclude: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = Field(
        None, description="Never recommend these items; unknown ids are skipped and counted."
    )
    filter: Condition | None = Field(None, description=FILTER)
    bought_filter: Condition | None = Field(None, description=BOUGHT_FILTER)
    at_most: Annotated[dict[str, Annotated[int, Field(ge=1)]], Field(max_length=5)] = Field(
        {}, description='Largest number of items with the same value of a column, such as {"brand": 2}.'
    )
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description=DIVERSITY)
    fallback: bool = Field(True, description=FALLBACK)


class NewItem(_Request):
    """An item to add by its text; HTML in it becomes plain text."""

    id: Id
    text: ItemWords
    title: ItemTitle | None = Field(None, description="By default the beginning of the text.")


class ItemText(_Request):
    """The text of a new item; HTML in it becomes plain text."""

    text: ItemWords
    k: K = 10


class NewUser(_Request):
    """A new user: a description of their taste, items they like, or both."""

    text: Text | None = None
    items: Annotated[list[Id], Field(min_length=1, max_length=1000)] | None = None
    k: K = 20
    filter: Condition | None = Field(None, description=FILTER)
    why: bool = Field(False, description="Say of each item why it is recommended.")

    @model_validator(mode="after")
    def _at_least_one(self) -> NewUser:
        if self.text is None and self.items is None:
            raise ValueError("expected text, items or both")
        return self


class ItemIds(_Request):
    """The items that are asked for."""

    items: Annotated[list[Id], Field(max_length=MAX_K)]


class FieldProblem(BaseModel):
    """The problem with one field."""

    field: str = Field(description="For example body.k, query.k or path.user_id.")
    message: str


class Problem(BaseModel):
    """The reason why a request was refused."""

    error: str
    fields: list[FieldProblem] = []


Columns = dict[str, str | float | bool | None]


class ScoredItem(BaseModel):
    """A recommended item."""

    id: int | str
    title: str
    score: float


class Near(BaseModel):
    """A similar item, or a likely user."""

    id: int | str
    title: str
    cosine: float


class Recommendations(BaseModel):
    """The recommendations of a user, best first."""

    user: int | str
    source: Literal["history", "text", "popularity"] = Field(
        description="What the list follows from; popularity: nothing is known of the user."
    )
    items: list[ScoredItem]


class Batch(BaseModel):
    """The recommendations of several users, in the order of the request."""

    results: list[Recommendations]
    skipped: int = Field(description="Ids of candidates and exclude that are unknown.")


class RankedItem(ScoredItem):
    """A recommended item with its place in this run and in the base run."""

    rank: int
    base_rank: int | None = Field(
        description="From 1, among the items the user has not seen; null: not in the base run."
    )


class Comparison(BaseModel):
    """The recommendations of this run (aligned) and of the base run."""

    user: int | str
    base_run: str
    aligned: list[RankedItem]
    base: list[ScoredItem]


class SimilarItems(BaseModel):
    """The items with the highest cosine."""

    item: int | str
    title: str
    similar: list[Near]


class Named(BaseModel):
    """A user or an item with its title."""

    id: int | str
    title: str


class UserCard(Named):
    """A user as a list shows them."""

    name: str = Field(description="The name if the data has one, else the id.")
    about: str | None = Field(description="The first words of their text or profile.")
    interactions: int = Field(description="Number of training items.")
    note: str | None = Field(None, description="Why the user is worth a look.")


class Users(BaseModel):
    """The users that match a query."""

    users: list[UserCard]


class ItemCard(Named):
    """An item as a list shows it."""

    about: str | None = Field(description="The first words of its text or profile.")
    picture: str | None = Field(
        description="Address of its picture, if the host is allowed (--picture-host)."
    )
    columns: Columns = Field(description="Its columns that are not empty, without long texts.")
    interactions: int = Field(description="Number of users who are known to have it.")


class Items(BaseModel):
    """Items as a list shows them."""

    items: list[ItemCard]


class ColumnAnswer(BaseModel):
    """A column of the items."""

    name: str
    kind: Literal["choice", "tags", "number", "flag", "text", "picture"] = Field(
        description="tags: several values, separated by commas; flag: true or false."
    )
    values: list[str] = Field(description="Of a choice or of tags, the most frequent first.")
    low: float | None
    high: float | None


class Overview(BaseModel):
    """What a page can begin with."""

    users: list[UserCard] = Field(description="Some users worth a look.")
    columns: list[ColumnAnswer]
    texts: bool = Field(description="Items can be compared by their texts.")
    taste_examples: list[str] = Field(description="Descriptions of a taste, in words of the data.")
    item_examples: list[str] = Field(description="Descriptions of items, in words of the data.")


class Run(BaseModel):
    """A finished run of the workspace."""

    name: str
    what: str | None = Field(description="Its recommender, and the alignment if there is one.")
    text: bool = Field(description="It was trained with texts.")
    ndcg: float | None = Field(description="NDCG@20 on the test interactions; null if it was not measured.")


class RunList(BaseModel):
    """The runs that can be asked for by the parameter run."""

    runs: list[Run] = Field(description="The best first.")


class UserProfile(BaseModel):
    """A user's history and profile."""

    user: int | str
    title: str
    name: str = Field(description="The name if the data has one, else the id.")
    description: str | None = Field(description="The user's text without the name.")
    profile: str | None = Field(description="Written by a language model; null if there is none.")
    reasoning: str | None = Field(description="The language model's reasoning for the profile.")
    history: list[Named] = Field(description="At most 500 training items.")
    interactions: int = Field(description="Number of all training items.")


class Item(BaseModel):
    """An item's text and profile."""

    id: int | str
    title: str
    text: str | None
    description: str | None = Field(
        description="The longest column of text, else the text if it is more than the title."
    )
    profile: str | None
    reasoning: str | None
    columns: Columns = Field(description="Its columns that are not empty, without long texts.")
    picture: str | None = Field(
        description="Address of its picture, if the host is allowed (--picture-host)."
    )
    interactions: int = Field(description="Number of users who have it in training.")
    cold: bool = Field(description="It was added by text after training.")


class ReasonFor(BaseModel):
    """A training item with its part of the score, or its cosine to the item if the explanation is not exact."""

    id: int | str
    title: str
    contribution: float


class ExplanationAnswer(BaseModel):
    """An explanation; the fields are those of rlmrec.recommend.explain.Explanation."""

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
    sentences: list[str] = Field(description="The same for a customer: no numbers, no terms of the field.")
    seen: bool
    own_parts: list[str] = Field(description='What own is the sum of, such as "own text" and "popularity".')


class SimilarUsers(BaseModel):
    """Of the users with the most similar texts, those who have an item."""

    of: int = Field(description="Users that count as similar.")
    have: int = Field(description="How many of them have the item.")
    nearest: list[Named]


class WhyNew(BaseModel):
    """Why an item is recommended to a new user."""

    sentences: list[str] = Field(description="For a customer: no terms of the field.")
    terms: list[str] = Field(description="Words of the description that the item's text contains.")
    liked: list[Named] = Field(description="The liked items that are most like it.")
    similar_users: SimilarUsers | None = Field(description="null: the users have no text vectors here.")


class NewUserItem(ScoredItem):
    """An item recommended to a new user."""

    why: WhyNew | None = Field(None, description="null unless the request asks why.")


class NewUserAnswer(BaseModel):
    """Recommendations for a new user."""

    items: list[NewUserItem]
    note: str | None = Field(None, description=NOTE)


class ItemUsers(BaseModel):
    """The users who do not have an item and would like it most, best first."""

    item: int | str
    title: str
    users: list[UserCard]


class LikelyUsers(BaseModel):
    """The likely users of a new item, and similar items."""

    users: list[Near]
    similar: list[Near]
    note: str | None = Field(None, description=NOTE)


class AddedItemAnswer(BaseModel):
    """An item that was added by text."""

    id: int | str
    title: str
    text: str
    note: str | None = Field(None, description=NOTE)


class AddedItemList(BaseModel):
    """All items that were added by text, oldest first."""

    items: list[AddedItemAnswer]


class Readiness(BaseModel):
    """Whether texts are answered at once."""

    texts: Literal["none", "waiting", "loading", "ready", "failed"] = Field(
        description="none: the run reads no texts; waiting: the first text loads the encoder; failed: see the log."
    )


class Health(BaseModel):
    """The run that is served."""

    status: Literal["ok"] = "ok"
    run: str
    release: str | None = Field(
        description="The published release; null for a run that was named at the start."
    )
    base: str | None
    dataset: str
    users: int
    items: int
    cold_items: int
    cold_start: bool
    writable: bool = Field(description="The server has a token, so that items can be added.")
    texts: Literal["none", "waiting", "loading", "ready", "failed"] = Field(description="As /readyz says.")
    switchable: bool = Field(description="Other runs can be asked for by the parameter run.")
