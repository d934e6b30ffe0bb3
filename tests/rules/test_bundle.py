"""Only URLs that a caller follows change, to the byte, however the answer arrives."""

import importlib
import json
import pkgutil
import random
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.bundle import BodyLinks, looks_like_json
from proxy.rules.links import Base, Links

FUMAGE = Base(b"https", b"fumage-acme.canvasmedical.com", None, b"")
PREFIXED = Base(b"https", b"fumage-acme.canvasmedical.com", None, b"/fhir/R4")
LOOPBACK = Base(b"http", b"localhost", 8080, b"")
BASES = [FUMAGE, PREFIXED, LOOPBACK]
HERE = b"127.0.0.1:3447"
AT = "https://fumage-acme.canvasmedical.com"
OURS = "http://127.0.0.1:3447"


def rewritten(links: BodyLinks, pieces: Iterable[bytes], caller: bytes = HERE) -> bytes:
    rewriter = links.rewriter(caller)
    return b"".join([rewriter.feed(piece) for piece in pieces] + [rewriter.end()])


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def only_url(document: str, *, links: BodyLinks | None = None, caller: bytes = HERE) -> str:
    links = links or BodyLinks(FUMAGE, attachments=True)
    return rewritten(links, [document.encode()], caller).decode()


# --- what is one of ours ---


@pytest.mark.parametrize(
    "document",
    [
        pytest.param('{"resourceType":"Bundle","link":[{"relation":"next","url":"%s"}]}', id="paging"),
        pytest.param('{"link":[{"relation":"self","url":"x"},{"url":"%s"}]}', id="a later link"),
        pytest.param(
            '{"link" :\n[ { "url"\t: "%s" } ], "resourceType": "Bundle"}', id="white space and order"
        ),
        pytest.param(
            '{"link":[{"extension":[{"url":"e","valueX":{"y":[{}]}}],"url":"%s"}]}', id="after nested"
        ),
        pytest.param('{"entry":[{"resource":{"link":[{"url":"%s"}]}}]}', id="a Bundle in a Bundle"),
        pytest.param(
            '{"link":[{"relation":"a\\"]},{\\\\","url":"%s"}]}', id="a text that looks like structure"
        ),
        pytest.param('\n {"link":[{"url":"%s"}]}', id="after white space"),
    ],
)
def test_bundle_links_point_at_the_caller(document: str) -> None:
    for links in (BodyLinks(FUMAGE), BodyLinks(FUMAGE, attachments=True)):
        assert only_url(document % (AT + "/P?a=1"), links=links) == document % (OURS + "/P?a=1")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param('{"content":[{"attachment":{"contentType":"a/b","url":"%s"}}]}', id="DocumentReference"),
        pytest.param('{"photo":[{"url":"x"},{"title":"t","url":"%s"}]}', id="Patient.photo"),
        pytest.param('{"presentedForm":[{"size":1e3,"url":"%s"}]}', id="DiagnosticReport"),
        pytest.param('{"extension":[{"url":"x","valueAttachment":{"url":"%s"}}]}', id="in an Extension"),
    ],
)
def test_attachments_change_only_if_asked_for(document: str) -> None:
    document = document % (AT + "/DocumentReference/1/files/content")
    assert only_url(document) == document.replace(AT, OURS)
    assert only_url(document, links=BodyLinks(FUMAGE)) == document


@pytest.mark.parametrize(
    "document",
    [
        '{"entry":[{"fullUrl":"%s"}]}',
        '{"subject":{"reference":"%s"}}',
        '{"identifier":[{"system":"%s"}]}',
        '{"resourceType":"Questionnaire","url":"%s"}',
        '{"extension":[{"url":"%s"}]}',
        '{"photo":[{"extension":[{"url":"%s"}]}]}',
        '{"photo":[{"_url":{"extension":[{"url":"%s"}]}}]}',
        '{"relatedArtifact":[{"type":"citation","url":"%s"}]}',
        '{"implementation":{"url":"%s"}}',
        '{"link":["url","%s"]}',
        '{"link":{"a":[[{"url":"%s"}]]}}',
        '{"photo":[{"title":"\\"url\\":\\"%s"}]}',
        '{"photo":[{"a\\"url":"%s"}]}',
        '{"photo":[{"URL":"%s"}]}',
        '{"link":[{"\\u0075rl":"%s"}]}',
        '{"link":[{"ur\\u006c":"%s"}]}',
        '{"\\u006cink":[{"url":"%s"}]}',
        '[{"url":"%s"}]',
        '"photo":[{"url":"%s"}]',
        '\ufeff{"photo":[{"url":"%s"}]}',
        '<p>{"photo":[{"url":"%s"}]}',
    ],
)
def test_everything_else_stays(document: str) -> None:
    document = document % (AT + "/Patient/1")
    assert only_url(document) == document


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        (FUMAGE, AT, OURS),
        (FUMAGE, AT + "?_getpages=1", OURS + "?_getpages=1"),
        (FUMAGE, AT.replace("https", "http") + ":80/P", OURS + "/P"),
        (FUMAGE, AT + ":443/P", OURS + "/P"),
        (FUMAGE, AT.upper() + "/P", None),
        (FUMAGE, AT.replace("https", "HTTPS") + "/P", None),
        (FUMAGE, AT.removeprefix("https:") + "/P", OURS + "/P"),
        (FUMAGE, AT + ":80/P", None),
        (FUMAGE, AT + ".evil.org/P", None),
        (FUMAGE, AT + "@evil.org/P", None),
        (FUMAGE, AT + '\\"/P', None),
        (FUMAGE, AT + "/P?next=" + AT + "/Q", OURS + "/P?next=" + AT + "/Q"),
        (FUMAGE, "/P?_count=10", None),
        (FUMAGE, AT.replace("/", "\\/") + "\\/P\\u0026", OURS + "\\/P\\u0026"),
        (FUMAGE, AT + "\\u002fP", OURS + "\\u002fP"),
        (FUMAGE, AT + "\\u003FP", OURS + "\\u003FP"),
        (FUMAGE, AT + "\\u0023P", OURS + "\\u0023P"),
        (FUMAGE, AT + "\\u002eorg/P", None),
        (FUMAGE, AT + "\\u0040evil.org/P", None),
        (FUMAGE, "\\u0068ttps://fumage-acme.canvasmedical.com/P", None),
        (FUMAGE, "https://fumage\\u002Dacme.canvasmedical.com/P", None),
        (FUMAGE, "https:/\\u002ffumage-acme.canvasmedical.com/P", None),
        (PREFIXED, AT + "/fhir/R4/P", OURS + "/P"),
        (PREFIXED, AT + "\\/fhir\\/R4\\/P", OURS + "\\/P"),
        (PREFIXED, AT + "\\/fhir\\u002fR4\\/P", None),
        (PREFIXED, AT + "/fhir/R4", OURS),
        (PREFIXED, AT + "/fhir/R44/P", None),
        (PREFIXED, AT + "/P", None),
        (PREFIXED, "/fhir/R4/P?a", "/P?a"),
        (PREFIXED, "/fhir/R4?page=2", "/?page=2"),
        (PREFIXED, "/fhir/R4//P", "/.//P"),
        (PREFIXED, "/fhir/R4\\/\\u002fP", "/.\\/\\u002fP"),
        (PREFIXED, "/P?a", None),
        (LOOPBACK, "http://localhost:8080/P", OURS + "/P"),
        (LOOPBACK, "http://LOCALHOST:8080/P", None),
        (LOOPBACK, "http://localhost/P", None),
    ],
)
def test_the_base_is_recognised_as_serialisers_write_it(base: Base, url: str, expected: str | None) -> None:
    document = '{"link":[{"url":"%s"}]}'
    links = BodyLinks(base)
    assert only_url(document % url, links=links) == document % (url if expected is None else expected)


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        (FUMAGE, "/P?_count=10", OURS + "/P?_count=10"),
        (FUMAGE, "\\/P", OURS + "\\/P"),
        (FUMAGE, "//elsewhere.org/P", "//elsewhere.org/P"),
        (FUMAGE, "/\\u002Felsewhere.org/P", "/\\u002Felsewhere.org/P"),
        (FUMAGE, "\\u002fP", "\\u002fP"),
        (FUMAGE, "P?_count=10", "P?_count=10"),
        (FUMAGE, AT + "/P", OURS + "/P"),
        (PREFIXED, "/fhir/R4/P", OURS + "/P"),
        (PREFIXED, "/P", OURS + "/P"),
    ],
)
def test_relative_paging_links_become_absolute_by_wish(base: Base, url: str, expected: str) -> None:
    document = '{"link":[{"url":"%s"}]}'
    assert only_url(document % url, links=BodyLinks(base, absolute=True)) == document % expected


def test_a_caller_without_an_authority_gets_paths() -> None:
    for absolute in (False, True):
        links = BodyLinks(FUMAGE, absolute=absolute)
        for url, expected in ((AT + "/P", "/P"), (AT + "?a", "/?a"), (AT, "/"), ("/P", "/P")):
            document = '{"link":[{"url":"%s"}]}'
            assert only_url(document % url, links=links, caller=b"") == document % expected


def test_a_hosts_quote_does_not_end_the_string() -> None:
    document = '{"link":[{"url":"%s"}]}'
    out = only_url(document % AT, caller=b'a","x":"\xff')
    assert json.loads(out) == {"link": [{"url": 'http://a","x":"\xff'}]}


def test_the_owners_are_the_attachments_of_r4() -> None:
    from fhirclient.models import attachment, fhirabstractbase  # type: ignore[import-untyped]

    owners = BodyLinks(FUMAGE, attachments=True).owners - {b"link"}
    typed: dict[str, set[type]] = {}
    for model in _models(fhirabstractbase.FHIRAbstractBase):
        for _, name, kind, *_ in model().elementProperties():
            if issubclass(kind, fhirabstractbase.FHIRAbstractBase) and "url" in vars(kind()):
                typed.setdefault(name, set()).add(kind)
    assert owners == {name.encode() for name, kinds in typed.items() if attachment.Attachment in kinds}
    assert all(kinds == {attachment.Attachment} for name, kinds in typed.items() if name.encode() in owners)
    # The second tells where a test script is documented, which is not below the base.
    assert {kind.__name__ for kind in typed["link"]} == {"BundleLink", "TestScriptMetadataLink"}


def _models(root: type) -> list[type]:
    import fhirclient.models  # type: ignore[import-untyped]

    for module in pkgutil.iter_modules(fhirclient.models.__path__, "fhirclient.models."):
        importlib.import_module(module.name)
    found = [root]
    for one in found:
        found += one.__subclasses__()
    return [one for one in set(found) if one.__module__.startswith("fhirclient.models.")]


# --- documents that nobody thought of, against an oracle that knows where each string lies ---


@dataclass
class Written:
    """A JSON text and what it has to become, written in one go, with random blanks and escapes."""

    base: Base
    attachments: bool
    absolute: bool
    dice: random.Random
    plainly: bool = False  # no blanks, and nothing escaped that need not be
    source: list[bytes] = field(default_factory=list)
    wanted: list[bytes] = field(default_factory=list)

    def put(self, text: bytes) -> None:
        self.source.append(text)
        self.wanted.append(text)

    def blank(self) -> None:
        if self.plainly:
            return
        self.put(self.dice.choice([b"", b"", b"", b" ", b"\n  ", b"\t\r\n"]))

    def value(self, value: object, owner: str = "") -> None:
        self.blank()
        if isinstance(value, tuple):  # an object, as pairs
            self.members(value, owner)
        elif isinstance(value, list):
            self.put(b"[")
            for at, item in enumerate(value):
                self.put(b"," if at else b"")
                self.value(item, "" if isinstance(item, list) else owner)
            self.put(b"]")
        elif isinstance(value, str):
            self.put(b'"' + b"".join(self.spelled(value)) + b'"')
        else:
            self.put(str(value).encode())
        self.blank()

    def members(self, pairs: tuple[tuple[str, object], ...], owner: str) -> None:
        self.put(b"{")
        for at, (key, value) in enumerate(pairs):
            self.put(b"," if at else b"")
            self.blank()
            spelled = b"".join(self.spelled(key))
            self.put(b'"' + spelled + b'"')
            self.blank()
            self.put(b":")
            if spelled == b"url" and isinstance(value, str) and self.owns(owner):
                self.url(value)
            else:
                self.value(value, key if spelled == key.encode() else "")
        self.put(b"}")

    def owns(self, owner: str) -> bool:
        return owner == "link" or (self.attachments and owner in ("photo", "attachment", "valueAttachment"))

    def url(self, value: str) -> None:
        spelled = self.spelled(value)
        self.blank()
        self.source.append(b'"' + b"".join(spelled) + b'"')
        located, absolute = Links(self.base).location(value.encode(), HERE).decode(), False
        inserted = "/." if located.startswith("/.//") else ""
        if self.absolute and value.startswith("/") and not value.startswith("//"):
            located, absolute, inserted = OURS + located.removeprefix(inserted), True, OURS
        elif located.startswith(OURS) and not value.startswith(OURS):
            inserted = OURS
        added = inserted if located != value else ""
        old = len(value) - (len(located) - len(added))  # characters that are replaced
        if not self.plain(value, spelled, old):
            added, old = (OURS, 0) if absolute else ("", 0)
        if absolute and spelled[0] not in (b"/", b"\\/"):
            added, old = "", 0
        self.wanted.append(b'"' + added.encode() + b"".join(spelled[old:]) + b'"')

    def plain(self, value: str, spelled: list[bytes], length: int) -> bool:
        """Whether the beginning is written as serialisers write it."""
        authority = value[: max(0, length - len(self.base.path))]
        return authority == authority.lower() and all(
            written in (one.encode(), b"\\/" if one == "/" else b"")
            for one, written in zip(value[:length], spelled, strict=False)
        )

    def spelled(self, text: str) -> list[bytes]:
        often = 0.0 if self.plainly else self.dice.choice([0.0, 0.0, 0.0, 0.0, 0.1, 1.0])
        return [self.character(one, self.dice.random() < often) for one in text]

    def character(self, one: str, escaped: bool) -> bytes:
        if escaped and one == "/" and self.dice.random() < 0.7:
            return b"\\/"
        if one in '"\\' and not escaped:
            return b"\\" + one.encode()
        if escaped or one < " ":
            return b"\\u" + self.dice.choice([b"%04x", b"%04X"]) % ord(one)
        return one.encode()


NAMES = ["url", "url", "link", "link", "photo", "attachment", "valueAttachment", "extension", "x", "é", ""]
KEYS = st.sampled_from([*NAMES, '"url', "url\\", '"url":"https://fumage-acme.canvasmedical.com'])
STARTS = ["", "/", "//", "https://", "http://", "HTTPS://", "/fhir/R4", "/fhir/R4/", "x", "\\", '"', "é"]
HOSTS = [
    "",
    "fumage-acme.canvasmedical.com",
    "FUMAGE-acme.canvasmedical.COM",
    "localhost:8080",
    "127.0.0.1:3447",
]
RESTS = [
    "",
    ":443",
    ":80",
    "/fhir/R4",
    "/fhir/R4/P?a=1",
    "/P",
    "?p",
    "#f",
    ".org",
    '/"url":"',
    "/P\\",
    "/é",
    "R4",
]
URLS = st.builds("{}{}{}".format, *map(st.sampled_from, (STARTS, HOSTS, RESTS)))
# What becomes a path that was none, or none that was one: see the tables above.
ODD = ("/fhir/R4", "/fhir/R4?p", "/fhir/R4#f")
LIKELY = st.sampled_from(
    [AT, AT + ":443/P", AT + "/fhir/R4/P?a", "http://localhost:8080/P", "/P", "/fhir/R4/P"]
)
VALUES = st.one_of(LIKELY, URLS).filter(lambda value: value not in ODD)
SCALARS = st.one_of(VALUES, st.text('ab"\\{}[]:,/é\n', max_size=8), st.sampled_from([1, -2.5e-7, "true"]))


def objects(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Objects as pairs, many of them with a URL."""
    pairs = st.lists(st.tuples(KEYS, values), max_size=3)
    with_url = st.builds(lambda before, url, after: [*before, ("url", url), *after], pairs, VALUES, pairs)
    return st.one_of(pairs, with_url, with_url).map(tuple)


def trees(depth: int) -> st.SearchStrategy[object]:
    if depth == 0:
        return SCALARS
    below = trees(depth - 1)
    return st.one_of(
        SCALARS, st.lists(objects(below), max_size=3), st.lists(below, max_size=2), objects(below)
    )


DOCUMENTS = objects(trees(3))
CUTS = st.lists(st.integers(0, 1500), max_size=6)


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS, st.sampled_from(BASES), st.booleans(), st.booleans(), st.integers(), CUTS)
def test_any_document_in_any_pieces_becomes_what_the_oracle_says(
    document: object, base: Base, attachments: bool, absolute: bool, seed: int, cuts: list[int]
) -> None:
    written = Written(base, attachments, absolute, random.Random(seed))
    written.value(document)
    source, wanted = b"".join(written.source), b"".join(written.wanted)
    json.loads(source)
    links = BodyLinks(base, attachments=attachments, absolute=absolute)
    assert rewritten(links, [source]) == wanted
    assert rewritten(links, cut(source, cuts)) == wanted
    assert rewritten(links, parts_of(source, 1)) == wanted


@settings(max_examples=200, deadline=None)
@given(
    st.lists(objects(trees(2)), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=8, max_size=30),
    st.sampled_from(BASES),
    st.booleans(),
    st.integers(),
    CUTS,
)
def test_places_that_are_alike_become_what_the_oracle_says_each_time(
    kinds: list[object], order: list[int], base: Base, absolute: bool, seed: int, cuts: list[int]
) -> None:
    written = Written(base, True, absolute, random.Random(seed), plainly=seed % 2 == 0)
    written.value((("entry", [kinds[at % len(kinds)] for at in order]),))
    source, wanted = b"".join(written.source), b"".join(written.wanted)
    links = BodyLinks(base, attachments=True, absolute=absolute)
    assert rewritten(links, [source]) == wanted
    assert rewritten(links, cut(source, cuts)) == wanted


@pytest.mark.parametrize("base", BASES, ids=["fumage", "prefixed", "loopback"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_cut_anywhere_changes_nothing(base: Base, absolute: bool) -> None:
    urls = [
        AT + "/fhir/R4/P",
        "/fhir/R4/P",
        "/fhir",
        "/",
        "http:\\/\\/localhost:8080\\/P",
        AT + ":44",
        AT + ":443",
    ]
    resource = '{"link":[{"url":"%s"}],"photo":[{"b\\"":[],"\\u0075rl" : "%s"}]}'
    source = "".join(resource % (url, url) for url in urls).encode() + b'"url":  ' * 100
    links = BodyLinks(base, attachments=True, absolute=absolute)
    whole = rewritten(links, [source])
    assert whole != source
    for place in range(len(source)):
        assert rewritten(links, cut(source, [place])) == whole


FRAGMENTS = [
    b'{"link":[{',
    b'"url":"',
    b"https://",
    b"fumage-acme.canvasmedical.com",
    b"/fhir/R4",
    b"/P",
    b'"',
    b"\\",
]
FRAGMENTS += [
    b"\\u0075rl",
    b"\\u00",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b" ",
    b"\xff",
    b'"photo":{',
    b"u",
    b"00",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4)), max_size=40),
    st.sampled_from(BASES),
    st.booleans(),
)
def test_bytes_that_are_no_json_pass_without_a_word_in_any_pieces(
    parts: list[bytes], base: Base, absolute: bool
) -> None:
    data = b'{"link":[{' + b"".join(parts)
    links = BodyLinks(base, attachments=True, absolute=absolute)
    assert (
        rewritten(links, parts_of(data, 1)) == rewritten(links, parts_of(data, 7)) == rewritten(links, [data])
    )


def parts_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.binary())
def test_what_holds_no_link_is_byte_identical(data: bytes) -> None:
    assert rewritten(BodyLinks(FUMAGE, attachments=True, absolute=True), parts_of(data, 3)) == data


def test_an_answer_that_breaks_off_loses_nothing() -> None:
    document = b'{"link":[{"relation":"next","url":"https://fumage-acme.canvasmedical.com/P"}]}'
    host_ends = document.index(b"/P")
    for length in range(host_ends + 1):
        assert rewritten(BodyLinks(FUMAGE), [document[:length]]) == document[:length]


# --- size and time ---


def test_a_long_string_streams_through_in_bounded_memory() -> None:
    links = BodyLinks(FUMAGE, attachments=True)
    rewriter = links.rewriter(HERE)
    block = b"JVBERi0x" * 8192
    rewriter.feed(b'{"content":[{"attachment":{"url":"%b/1","data":"' % AT.encode() + block)
    tracemalloc.start()
    try:
        for _ in range(800):  # 50 MB
            assert rewriter.feed(block) == block
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    tail = b'"}},{"attachment":{"url":"%b/2"}}]}' % AT.encode()
    assert rewriter.feed(tail) + rewriter.end() == tail.replace(AT.encode(), OURS.encode())


def test_an_owner_too_far_back_is_no_owner() -> None:
    document = '{"photo":[{"data":"%s","url":"%s/P"}]}'
    assert only_url(document % ("x" * 15_000, AT)) == document % ("x" * 15_000, OURS)
    assert only_url(document % ("x" * 17_000, AT)) == document % ("x" * 17_000, AT)


def test_an_owner_is_found_behind_many_small_pieces() -> None:
    document = b'{"x":"%b","photo":[{"data":"%b","url":"%b/P"}]}' % (
        b"x" * 55_000,
        b"x" * 15_000,
        AT.encode(),
    )
    pieces = parts_of(document, 1000)
    assert rewritten(BodyLinks(FUMAGE, attachments=True), pieces) == document.replace(
        AT.encode(), OURS.encode()
    )


@pytest.mark.parametrize("edge", [160, 1024, 16 * 1024])
def test_a_name_that_only_ends_like_an_owner_is_none(edge: int) -> None:
    document = '{"a\\"photo":{"t":"%s","url":"%s/P"}}'
    for length in range(edge - 40, edge + 1):
        assert only_url(document % ("x" * length, AT)) == document % ("x" * length, AT)


@pytest.mark.parametrize("filler", [b"]", b"}", b"[", b'"', b'\\"', b"\\\\", b'"url":"', b"}],[{"])
def test_no_document_takes_quadratic_time(filler: bytes) -> None:
    member = b'"url":"%b/P",' % AT.encode()
    data = b'{"photo":[' + (filler * (20_000 // len(filler)) + member * 4) * 8
    links = BodyLinks(FUMAGE, attachments=True)
    start = time.process_time()
    rewritten(links, parts_of(data, 64 * 1024))
    assert time.process_time() - start < 2


# --- content types ---


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/fhir+json", True),
        (b"application/fhir+json; charset=utf-8", True),
        (b"Application/JSON ;charset=UTF-8", True),
        (b"application/json+fhir", False),
        (b"application/fhir+ndjson", False),
        (b"application/pdf", False),
        (b"text/html; x=application/json", False),
        (b"", False),
    ],
)
def test_json_is_told_by_its_content_type(content_type: bytes, expected: bool) -> None:
    assert looks_like_json(content_type) is expected
