"""Hub downloads that are cut off, tampered with or missing: what is accepted, refused, and left on disk."""

import contextlib
import itertools
import socket
from types import SimpleNamespace

import pytest
from bad_inputs.harness import listing, refused
from hub_server import COMMIT, REPOSITORY, Hub, files_of, serving

from bark_jax.checkpoints import convert, snapshots
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.model_folder import is_model_folder
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError, UnsupportedError
from bark_jax.hub import client, source
from bark_jax.hub.source import Source
from bark_jax.text.processor import BarkProcessor


@pytest.fixture(scope="module")
def checkpoint(toy_folder, tmp_path_factory):
    """The files of a checkpoint as the Hub has them, in transformers' layout."""
    return files_of(convert(toy_folder, tmp_path_factory.mktemp("hub") / "bark", to="transformers"))


@pytest.fixture
def hub(checkpoint, monkeypatch, tmp_path):
    """A server with the checkpoint, and an empty cache; everything looks there."""
    from huggingface_hub import constants

    hub = Hub(dict(checkpoint))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with serving(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


@pytest.fixture
def no_sockets(monkeypatch):
    """A function after whose call any attempt to open a connection fails."""

    def guard():
        def refuse(*arguments, **options):
            raise AssertionError(f"a socket was asked for: {arguments}")

        for name in ("socket.socket.connect", "socket.socket.connect_ex", "socket.getaddrinfo"):
            monkeypatch.setattr(name, refuse)

    return guard


def blobs(tmp_path):
    return [path for path in (tmp_path / "home" / "hub").rglob("blobs/*") if path.is_file()]


def test_a_model_is_fetched_checked_and_converted(hub):
    folder = find_model(REPOSITORY)
    assert is_model_folder(folder) and folder.name.endswith(COMMIT)


def test_with_everything_in_the_cache_no_socket_is_opened(hub, no_sockets):
    folder = find_model(REPOSITORY)
    ids = BarkProcessor.from_pretrained(REPOSITORY)("hello")["input_ids"]
    no_sockets()
    with pytest.raises(AssertionError, match="a socket was asked for"):
        socket.create_connection(("127.0.0.1", 9))
    assert find_model(REPOSITORY) == folder
    assert find_model(REPOSITORY, revision="main") == folder
    assert find_model(REPOSITORY, revision=COMMIT) == folder
    assert (BarkProcessor.from_pretrained(REPOSITORY)("hello")["input_ids"] == ids).all()


def test_an_update_asks_the_hub_and_a_plain_call_does_not(hub):
    first = find_model(REPOSITORY)
    hub.commit = "f" * 40
    assert find_model(REPOSITORY) == first
    assert find_model(REPOSITORY, update=True).name.endswith("f" * 40)
    assert find_model(REPOSITORY, revision=COMMIT) == first


def test_a_token_and_a_cache_of_ones_own_are_used(hub, tmp_path, no_sockets):
    options = dict(token="hf_secret", cache_dir=tmp_path / "elsewhere")
    folder = find_model(REPOSITORY, **options)
    assert is_model_folder(folder) and folder.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "home").exists() and hub.tokens == {"Bearer hf_secret"}
    assert BarkProcessor.from_pretrained(REPOSITORY, **options).spaces.n_text == 96
    no_sockets()
    assert find_model(REPOSITORY, **options) == find_model(REPOSITORY, local_files_only=True, **options) == folder


def test_local_files_only_asks_nobody(hub):
    with pytest.raises(ModelNotFoundError, match="it is not asked \\(local_files_only\\)"):
        find_model(REPOSITORY, local_files_only=True)
    assert not hub.asked


def test_a_forced_download_takes_what_is_in_the_cache_again(hub):
    folder = find_model(REPOSITORY)
    weights = f"GET /{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    assert hub.asked.count(weights) == 1
    assert find_model(REPOSITORY, force_download=True) == folder and hub.asked.count(weights) == 2
    hub.asked.clear()
    for force_download in (False, True, False):
        BarkProcessor.from_pretrained(REPOSITORY, force_download=force_download, revision=COMMIT)
    assert sum("GET" in line and line.endswith("tokenizer.json") for line in hub.asked) == 1


def test_a_model_of_our_own_form_is_used_where_it_lies(hub, toy_folder, no_sockets):
    hub.files = files_of(toy_folder)
    folder = find_model(REPOSITORY)
    assert folder.parent.name == "snapshots"
    no_sockets()
    assert find_model(REPOSITORY) == folder


def test_a_snapshot_that_lacks_a_file_is_fetched_again(hub, toy_folder):
    hub.files = files_of(toy_folder)
    folder = find_model(REPOSITORY)
    (folder / "semantic.safetensors").resolve().unlink()
    (folder / "semantic.safetensors").unlink()
    assert (find_model(REPOSITORY) / "semantic.safetensors").is_file()


def test_h01_a_connection_that_is_cut_once_goes_on_where_it_was(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = 1
    assert is_model_folder(find_model(REPOSITORY))
    assert hub.cut == 0


def test_h02_a_server_that_sends_the_same_half_for_ever_is_given_up(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # complete chunks reset the client's retries
    seconds = itertools.count()  # a second passes whenever some bytes have arrived
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    hub.cut, hub.takes_ranges = 50, False  # after 50 truncated answers it sends complete files
    with pytest.raises(ModelNotFoundError, match=r"got no further than .* bytes for 60 s.*With a connection"):
        find_model(REPOSITORY)
    assert hub.cut > 40  # two halves were sent
    assert not (tmp_path / "home" / "bark_jax").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_h03_a_file_of_which_one_byte_differs_is_refused(hub, tmp_path, name):
    hub.altered = {name}
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: its SHA-(256|1) is .*, expected"):
        find_model(REPOSITORY)
    assert not (tmp_path / "home" / "bark_jax").exists()


def test_a_single_file_of_which_one_byte_differs_is_refused_and_fetched_again(hub, tmp_path):
    hub.altered = {"tokenizer.json"}
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged.*Download it again"):
        Source(REPOSITORY).find("tokenizer.json")
    hub.altered = set()
    assert Source(REPOSITORY).find("tokenizer.json").read_bytes() == hub.files["tokenizer.json"]


def test_a_file_that_is_damaged_in_the_cache_is_refused(hub):
    path = Source(REPOSITORY).find("tokenizer.json")
    path.resolve().write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-1 is .*Remove "):
        Source(REPOSITORY).find("tokenizer.json")


def test_h06_a_commit_that_leads_elsewhere_writes_nothing(hub, tmp_path):
    hub.commit = "../../../PWNED"
    refused_for = r"the answer of \S*127\.0\.0\.1\S* is refused: it names no commit .*but '\.\./\.\./\.\./PWNED'"
    with pytest.raises(ModelNotFoundError, match=refused_for + r"\. The client makes paths of .* Check HF_ENDPOINT"):
        find_model(REPOSITORY)
    with pytest.raises(ModelNotFoundError, match=refused_for):
        Source(REPOSITORY).find("config.json")
    for name in ("config.json", "absent.json"):
        with contextlib.suppress(ModelNotFoundError):
            Source(REPOSITORY).find(name)
    assert not [found for found in listing(tmp_path) if "PWNED" in found[0]]


class TwoFaced(Hub):
    """A server that names a valid commit in its first answer, and a path in later ones."""

    @property
    def commit(self):
        return COMMIT if len(self.asked) < 2 else "../../../PWNED"

    @commit.setter
    def commit(self, _):
        pass


def test_a_server_with_two_answers_writes_nothing(hub, tmp_path):
    hub.__class__ = TwoFaced
    for ask in (lambda: Source(REPOSITORY).find("absent.json"), lambda: Source(REPOSITORY).find("config.json")):
        hub.asked.clear()
        with contextlib.suppress(ModelNotFoundError):  # the first answer may be all that is needed
            ask()
    hub.asked.clear()
    with pytest.raises(ModelNotFoundError, match=r"names no commit but '\.\./\.\./\.\./PWNED'"):
        find_model(REPOSITORY)
    assert not [found for found in listing(tmp_path) if "PWNED" in found[0]]


@pytest.mark.parametrize("checksum", ["../../../../../PWNED", "{tmp}/PWNED", "a/../../../../../../PWNED", "..", "a\\b"])
def test_a_checksum_that_leads_elsewhere_writes_nothing(hub, tmp_path, checksum):
    hub.checksum = checksum.replace("{tmp}", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"the answer of 127\.0\.0\.1 is refused: it names no checksum but"):
        Source(REPOSITORY).find("config.json")
    with pytest.raises(ModelNotFoundError, match=r"127\.0\.0\.1 is refused: it names no (SHA-256|checksum) but"):
        find_model(REPOSITORY)
    assert not [found for found in listing(tmp_path) if "PWNED" in found[0]]
    assert not blobs(tmp_path)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (404, {"ETag": 'W/"f-mY2V/xuxB7"'}),
        (307, {"ETag": 'W/"f-mY2V/xuxB7"', "Location": "/api/resolve-cache/models/a/b"}),
        (302, {"X-Linked-ETag": f'"{"a" * 64}"', "Location": "https://cdn.example.com/a/b"}),
        (200, {"ETag": 'W/"f-mY2V_xuxB7"'}),
    ],
)
def test_answers_as_the_hub_gives_them_are_taken(status, headers):
    request = SimpleNamespace(url=SimpleNamespace(host="hub", path="/a/b/resolve/main/c"))
    answer = SimpleNamespace(request=request, status_code=status, headers={"X-Repo-Commit": COMMIT} | headers)
    client._check_answer(answer)


@pytest.mark.parametrize("location", ["https://cdn.example.com/a", "//127.0.0.1/a", ""])
def test_a_checksum_is_looked_at_where_the_client_goes_no_further(location):
    request = SimpleNamespace(url=SimpleNamespace(host="hub", path="/a/b/resolve/main/c"))
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"a/b"', "Location": location}
    with refused(ModelNotFoundError, "the answer of hub is refused: it names no checksum but 'a/b'"):
        client._check_answer(SimpleNamespace(request=request, status_code=302, headers=headers))


def test_clients_that_replace_others_are_checked(hub, tmp_path):
    from huggingface_hub import close_session, get_session

    client.check_answers()
    client.check_answers()
    close_session()  # as the client itself does when a connection is refused
    assert get_session().event_hooks["response"].count(client._check_answer) == 1
    hub.checksum = "../../../../../PWNED"
    with pytest.raises(ModelNotFoundError, match="names no checksum but"):
        Source(REPOSITORY).find("config.json")


def test_a_client_that_cannot_be_held_to_it_downloads_nothing(hub, tmp_path, monkeypatch):
    monkeypatch.delattr("huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY")
    for ask in (find_model, lambda name: Source(name).find("config.json")):
        with refused(UnsupportedError, r"huggingface-hub is \d.*install an older one, such as", folder=tmp_path):
            ask(REPOSITORY)
    assert not hub.asked


def test_h07_the_page_of_a_hotels_network_is_no_model(hub, tmp_path):
    hub.is_portal = True
    with pytest.raises(ModelNotFoundError, match=REPOSITORY):
        find_model(REPOSITORY)
    assert not blobs(tmp_path)


@pytest.mark.parametrize(
    "revision",
    ["../../x", "/etc", "a/../b", "", "a b", "a\0b", "-x", "x" * 500, 5, b"main", ["main"], "a//b", "\ud800"],
)
def test_a_revision_that_is_none_is_refused(hub, revision, tmp_path):
    for ask in (find_model, BarkProcessor.from_pretrained, snapshots.fetch):
        with refused(InputError, "revision is .*expected a branch, a tag or a commit", folder=tmp_path):
            ask(REPOSITORY, revision=revision)
    assert not hub.asked


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", COMMIT, "release-2+fix"])
def test_a_revision_that_can_be_one_is_taken(revision):
    source.check_revision(revision)


def test_a_repository_that_is_not_there_is_not_found(hub):
    with pytest.raises(ModelNotFoundError, match="someone/else"):
        find_model("someone/else")


def test_without_a_network_the_error_tells_what_to_do(hub, monkeypatch):
    def look_up(*arguments):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    with refused(ModelNotFoundError, "cannot be reached", "With a connection to the Hub"):
        find_model(REPOSITORY)
