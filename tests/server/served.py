"""A workspace with two runs whose right answers are known, and a server of it in a thread."""

import contextlib
import socket
import threading
import time

import numpy as np
import polars as pl
import uvicorn

from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.files import write_json
from rlmrec.llm.store import Profile, Store
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.recommender import Recommender
from rlmrec.server.api import create_app
from rlmrec.server.service import Service
from rlmrec.server.settings import Settings
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

KINDS = ["cookery", "detectives", "travel"]
# Ids that are something else in an address, in HTML or on a line.
ODD_IDS = (
    "a/b", ".", "..", "x", "x/similar", "x/profile", "/", "//", "a b", " ", "%", "100%", "%2F", "%2f%25", "a%0Ab",
    "a\nb", "a?b#c&d=e", "a+b;c", "çöß 漢字 🎬", "'\"<b>", "\\", "\x00", "null", "0", "a" * 2000,
)  # fmt: skip
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
TOKEN = "correct horse"
PICTURES = "img.example"


class WordEncoder:
    """Words of three kinds to the three directions of blocks()."""

    name = "words"
    dim = 8

    def encode(self, texts):
        return np.array([[kind in text for kind in KINDS] + [0] * 5 for text in texts], np.float32)


def made_workspace(folder, first=None, odd=False):
    """Users and items lie in the directions of their blocks; item 3 has a title that would do harm as HTML.

    Ids are u0, u1 … and i0, i1 …, or integers from ``first`` on; or begin with the odd ones.
    """
    place = Workspace(folder)
    blank, text_embeddings = blocks(users=20, items=15)
    text_embeddings.manifest.clear()  # with other ids it is another dataset
    titles = [f"{KINDS[row // 15]} {row}" if row != 3 else f"cookery {HOSTILE}" for row in range(45)]
    people = pl.DataFrame({"occupation": [f"{KINDS[row // 20]} critic {HOSTILE}" for row in range(60)]})
    users, items = blank.users, blank.items
    if first is not None:
        users, items = (Vocabulary(range(first, first + len(old)), old.kind) for old in (users, items))
    if odd:
        users, items = (Vocabulary([*ODD_IDS, *old.ids[len(ODD_IDS) :]], old.kind) for old in (users, items))
    dataset = Dataset(
        "blocks",
        blank.train,
        blank.valid,
        blank.test,
        users,
        items,
        pl.DataFrame(
            {
                "title": titles,
                "category": [KINDS[row // 15] for row in range(45)],
                "price": [str(5 + row) for row in range(45)],
                "in_stock": ["false" if row % 5 == 0 else "true" for row in range(45)],
                "picture": [
                    f"https://{PICTURES if row else 'elsewhere.example'}/{row}.png" for row in range(45)
                ],
            }
        ),
        people,
    )
    dataset.save(place.dataset_path)
    for name, noise in (("base", 0.5), ("con", 0.1)):
        save_run(place, dataset, text_embeddings, name, noise)
    with Store(place.profiles_path) as store:
        for kind, key, text, why in (
            ("user", "u7", f"Likes cookery. {HOSTILE}", "All they read is about food."),
            ("item", "i4", "For people who cook.", "Its title says so."),
        ):
            store.put_profile(Profile(kind, key, text, why, "r", dataset=dataset.content))
    return place


def save_run(place, dataset, text_embeddings, name, noise, seed=0):
    rng = np.random.default_rng(seed)
    directions = np.eye(3, 8)

    def around(count):
        wide = directions.repeat(count, axis=0) + noise * rng.standard_normal((3 * count, 8))
        return (2 * wide).astype(np.float32)

    recommender = Recommender.of(dataset, around(20), around(15))
    folder = place.run(name) / "recommender"
    recommender.save(folder)
    text_embeddings.manifest["encoder"] = WordEncoder.name
    ColdStart.fit(recommender, text_embeddings, dataset).save(folder)
    text_embeddings.save(place.text_embeddings_path())
    config = {
        "run": {"backbone": "lightgcn", "alignment": "none"},
        "data": {"texts": text_embeddings.digest},
        "names": {"semantics": "default"},
    }
    figures = {"ndcg@20": 1 - noise}
    write_json(place.run(name) / "metrics.json", {"config": config, "test": figures})


def made_service(place, encoder=WordEncoder, base="base", pictures=(), added=None):
    settings = Settings(place.path, "con", base, picture_hosts=frozenset(pictures), added=added)
    return Service(settings.load, settings.added_items(), lambda cold: encoder(), runs=settings.runs())


@contextlib.contextmanager
def serving(service, token=TOKEN, limits=None, http="auto", servers=None):
    """Its address, on a free port of the loopback interface; ``servers`` is given the server itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            create_app(service, token, limits), http=http, log_level="warning", access_log=False
        )
        server = uvicorn.Server(config)
        if servers is not None:
            servers.append(server)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
