"""What a new user is recommended, from a text about their taste or items they like, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlmrec.data.vocabulary import RawId
from rlmrec.recommend.cold_start import new_user
from rlmrec.recommend.explain import listed, words_in_common
from rlmrec.recommend.lists import Rules
from rlmrec.recommend.similar import Holders, similar_holders
from rlmrec.server import schemas
from rlmrec.server.catalogue import Catalogue
from rlmrec.text.encoder import unknown_words
from rlmrec.types import Float32Array, IntArray

ALIKE = 0.2  # cosine from which a liked item counts as a reason


def new_user_answer(
    catalogue: Catalogue, request: schemas.NewUser, vector: Float32Array | None = None
) -> schemas.NewUserAnswer:
    """Recommend to a new user.

    Args:
        catalogue: that they are recommended from.
        request: what they like.
        vector: float32[d_s], the vector of the request's text; None without a text.

    Raises:
        UnknownIdError: an unknown item.
        ConfigError: the filter does not fit to the items.
        WorkspaceError: a text, and there is no cold-start model.
    """
    liked = [catalogue.recommender.item_ids.given(raw) for raw in request.items or []]
    if vector is None:
        parts = catalogue.recommender.new_user(liked)
    else:
        parts = new_user(catalogue.recommender, catalogue.cold_start(), vector, liked)
    allowed, _ = catalogue.lists.allowed(Rules(request.filter, exclude=liked or None))
    found, scores = catalogue.recommender.recommend_parts_rows(
        parts, catalogue.lists.length(request.k), allowed
    )
    rows = found[0][(found[0] >= 0) & np.isfinite(scores[0])]
    reasons: list[schemas.WhyNew | None] = [None] * len(rows)
    if request.why:
        reasons = [*_why(catalogue, rows, liked, request.text, vector)]
    ids = catalogue.recommender.item_ids
    return schemas.NewUserAnswer(
        items=[
            schemas.NewUserItem(id=ids.id(row), title=catalogue.explainer.title(row), score=score, why=why)
            for row, score, why in zip(rows.tolist(), scores[0].tolist(), reasons, strict=False)
        ],
        note=None if vector is None else unknown_words(vector),
    )


def _why(
    catalogue: Catalogue,
    rows: IntArray,
    liked: Sequence[RawId],
    text: str | None,
    vector: Float32Array | None,
) -> list[schemas.WhyNew]:
    """Say of item rows why they are recommended to a new user."""
    ids = catalogue.recommender.item_ids
    mine = ids.rows(liked) if liked else np.empty(0, np.int64)
    found = []
    for row, holders in zip(rows.tolist(), _holders(catalogue, rows, vector), strict=True):
        words = f"{catalogue.explainer.title(row)} {catalogue.explainer.item_text(row) or ''}"
        terms = words_in_common(text or "", words, catalogue.explainer.usual_words)
        near = []
        if len(mine):
            cosines = catalogue.recommender.item_cosines(row, mine)
            order = np.argsort(-cosines, kind="stable")[:2]
            near = [_item(catalogue, int(mine[place])) for place in order if cosines[place] >= ALIKE]
        similar = holders and schemas.SimilarUsers(
            of=holders.of,
            have=holders.n,
            nearest=[_user(catalogue, user) for user in holders.nearest],
        )
        found.append(
            schemas.WhyNew(
                sentences=_sentences(terms, near, similar),
                terms=terms,
                liked=near,
                similar_users=similar,
            )
        )
    return found


def _holders(catalogue: Catalogue, rows: IntArray, vector: Float32Array | None) -> Sequence[Holders | None]:
    """Return for item rows who of the users with similar texts has them; None without such vectors of users."""
    texts = catalogue.text_embeddings
    if vector is not None and texts is not None:
        texts = texts.by_encoder(catalogue.cold_start().encoder)
    if vector is None or texts is None or len(texts.users) != len(catalogue.recommender.users):
        return [None] * len(rows)
    return similar_holders(vector, texts.users, catalogue.recommender, rows)


def _item(catalogue: Catalogue, row: int) -> schemas.Named:
    return schemas.Named(id=catalogue.recommender.item_ids.id(row), title=catalogue.explainer.title(row))


def _user(catalogue: Catalogue, row: int) -> schemas.Named:
    return schemas.Named(id=catalogue.recommender.user_ids.id(row), title=catalogue.browser.user_names[row])


def _sentences(
    terms: Sequence[str], liked: Sequence[schemas.Named], similar: schemas.SimilarUsers | None
) -> list[str]:
    """Say in words fit for a customer why an item is recommended to a new user."""
    said = []
    if terms:
        said.append(f"You asked for {listed(terms)}.")
    if liked:
        said.append(f"It goes with {listed([item.title for item in liked])}, which you chose.")
    if similar is not None and similar.have:
        names = listed([user.title for user in similar.nearest])
        who = "One" if similar.have == 1 else str(similar.have)
        has = "has" if similar.have == 1 else "have"
        such = names if similar.have <= len(similar.nearest) else f"for example {names}"
        said.append(f"{who} of the {similar.of} users most similar to your description {has} it: {such}.")
    return said or ["It fits what you asked for as a whole."]
