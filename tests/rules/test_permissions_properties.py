"""No disguise of a request slips past `allow`: properties, and servers that read paths as they like."""

import json
import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.permissions import Permissions
from tests.rules.permitting import ask, bundle, on_bundle, said, verdict

WORDS = st.lists(
    st.builds(
        "{}.{}".format,
        st.sampled_from(["*", "Patient", "Observation", "Binary", "List"]),
        st.sampled_from(["c", "r", "u", "d", "s", "rs", "cud", "$match", "$*"]),
    ),
    min_size=1,
    max_size=4,
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
PATH_PIECES = "/ Patient Observation 1 _search _history $match $everything metadata .well-known files content"
OTHER_PIECES = ".. . ? & = ; : , _include _has _list name patient * %2F %5F %25 + # \\ \t \xe9 s3cret"
PIECES = st.sampled_from([*PATH_PIECES.split(" "), *OTHER_PIECES.split(" ")])
TARGETS = st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)) | st.text(
    st.characters(max_codepoint=255), max_size=30
)


@given(WORDS, METHODS, TARGETS)
def test_whatever_is_asked_the_answer_is_yes_or_a_refusal_without_the_callers_words(words, method, target):
    message = verdict(" ".join(words), method, target)
    assert "s3cret" not in message
    assert message.isascii() or "…" in message


@given(WORDS, WORDS, METHODS, TARGETS)
def test_a_further_word_never_refuses_what_was_permitted(words, more, method, target):
    if verdict(" ".join(words), method, target) == "":
        assert verdict(" ".join(words + more), method, target) == ""


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_permitted_or_refused(body):
    permissions = Permissions.parse("Patient.rs")
    said(lambda: permissions.check_bundle(body))
    said(lambda: permissions.check_search_form(b"/Patient/_search", body))


def escape(text: str, choose: Callable[[int], int], depth: int) -> str:
    """Some of the characters percent-encoded, in either case of the digits, up to `depth` times over."""
    out = []
    for char in text:
        for _ in range(choose(depth + 1)):
            char = "".join(("%%%02x" if choose(2) else "%%%02X") % ord(each) for each in char)
        out.append(char)
    return "".join(out)


@st.composite
def disguised_paths(draw: st.DrawFn) -> str:
    """`/Observation/1`, as a lenient server might still find it."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    kind = draw(st.sampled_from(["Observation", "observation", "OBSERVATION", "Observation "]))
    kind = "".join(char.swapcase() if choose(8) == 0 else char for char in kind)
    before = draw(
        st.lists(st.sampled_from(["", ".", "Patient/..", "x/..", "Patient/1/../..", ";a=b"]), max_size=3)
    )
    after = draw(
        st.sampled_from(
            ["", "/1", "/1/", "/", "//", "/.", "/1/_history", ";a", "?name=x", "#", "\0", ".json"]
        )
    )
    separator = draw(st.sampled_from(["/", "//", "\\", "/./"]))
    path = separator.join((*before, kind))
    return (
        "/" + escape(path, choose, draw(st.integers(0, 2))) + escape(after, choose, draw(st.integers(0, 1)))
    )


@settings(max_examples=200)
@given(METHODS, disguised_paths())
def test_no_disguise_of_a_path_slips_past(method, target):
    assert verdict("Patient.cruds Patient.$*", method, target)


@st.composite
def disguised_parameters(draw: st.DrawFn) -> str:
    """A query with a parameter that is refused, as a lenient server might still find it."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    name, value = draw(
        st.sampled_from(
            [
                ("_include", "Patient:organization"),
                ("_include", "*"),
                ("_include:iterate", "Patient:organization"),
                ("_revinclude", "Observation:patient"),
                ("_has:Observation:patient:code", "x"),
                ("organization.name", "x"),
                ("organization:Organization.name", "x"),
                ("_list", "1"),
                ("_filter", "x"),
                ("_method", "DELETE"),
            ]
        )
    )
    name = "".join(char.swapcase() if choose(10) == 0 else char for char in name)
    name = (
        draw(st.sampled_from(["", "", " ", "+", "%20"]))
        + name
        + draw(st.sampled_from(["", "", "[]", "[0]", "+"]))
    )
    piece = escape(name, choose, draw(st.integers(0, 2))) + draw(st.sampled_from(["=", "=", "%3D"])) + value
    separator = draw(st.sampled_from(["&", "&", ";", "%26", "%3B", "%3b", "%2526", "&&", "?"]))
    before = draw(st.sampled_from(["name=x", "name=x", "_count=10", "name:exact=a%20b"]))
    after = draw(st.sampled_from(["", "&_id=1", ";a=b", "&name"]))
    return separator.join((before, piece)) + after


@settings(max_examples=250)
@given(disguised_parameters())
def test_no_disguise_of_a_parameter_slips_past(query):
    permissions = Permissions.parse("Patient.cruds")
    # `name%3Dvalue` alone is a parameter without a value to all but those who decode before they split.
    assert said(lambda: permissions.check(b"GET", b"/Patient?" + query.encode(), {}))
    assert said(lambda: permissions.check_search_form(b"/Patient/_search", query.encode()))
    assert on_bundle("Patient.cruds", bundle(ask("GET", "Patient?" + query)))


# How servers and what stands before them change a path before they look at it.
CLEANINGS: list[Callable[[bytes], bytes]] = [
    unquote_to_bytes,
    posixpath.normpath,
    lambda path: re.sub(rb"[/\\\\]+", b"/", path),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: re.split(rb"[#\0]", path)[0],
    lambda path: path.strip(),
    lambda path: re.sub(rb"(?<=/)\.+(?=/|$)", b"", path),
]


@settings(max_examples=500)
@given(METHODS, TARGETS | disguised_paths())
def test_a_path_that_passes_reads_the_same_however_it_is_cleaned(method, target):
    path = target.partition("?")[0].encode("latin-1") or b"/"
    if verdict("*.crud *.s *.$*", method, path.decode("latin-1")) == "":
        assert [clean(path) for clean in CLEANINGS] == [path] * len(CLEANINGS)


def readings(query: bytes) -> set[tuple[str, str]]:
    """Names and values as any server might read them: decoded up to three times, at any moment."""
    texts = [query]
    for _ in range(3):
        texts.append(unquote_to_bytes(texts[-1].replace(b"+", b" ")))
    found = set()
    for text in texts:
        for separators in (rb"[&]", rb"[&;]", rb"[&;?]"):
            for piece in re.split(separators, text):
                name, _, value = piece.partition(b"=")
                for _ in range(3):
                    found.add((name.decode("latin-1"), value.decode("latin-1")))
                    name = unquote_to_bytes(name.replace(b"+", b" "))
    return found


PARAMETERS = """
    name _id _count _lastUpdated _sort name:exact subject:Patient _include _INCLUDE _revinclude _list
    _has:Observation:patient:code organization.name organization:Organization.name _filter _method x-a
    """
QUERY_VALUES = """
    x -date 1,2 Observation:subject:Group http://x|1 * a=b a%26_list=1 a;_list=1 a%3B_list%3D1 a?_list=1
    a%2526_list=1 a%2526_list%253D1 %u0026_list=1 %zz J%C3%B6rg 'x' a%20b
    """


@st.composite
def queries(draw: st.DrawFn) -> str:
    """A query of parameters that are harmless, and of some that are not, in any spelling."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    pieces = []
    for _ in range(draw(st.integers(0, 3))):
        name = escape(draw(st.sampled_from(PARAMETERS.split())), choose, draw(st.sampled_from([0, 0, 1, 2])))
        equals = draw(st.sampled_from(["=", "=", "=", "%3D"]))
        pieces.append(name + equals + draw(st.sampled_from(QUERY_VALUES.split())))
    return draw(st.sampled_from(["&", "&", ";", "%26", "?", "&&"])).join(pieces)


@settings(max_examples=500)
@given(queries())
def test_no_reading_of_a_query_that_passes_reads_another_type(query):
    if verdict("Patient.cruds", "GET", f"/Patient?{query}") == "":
        for name, value in readings(query.encode()):
            first, _, rest = name.strip().lower().partition(":")
            assert (
                first not in ("_include", "_revinclude", "_has", "_list", "_filter", "_method") or not value
            )
            assert not value or "." not in first + rest.partition("=")[0]


@settings(max_examples=300)
@given(st.lists(queries().filter(lambda query: "&" not in query), max_size=3))
def test_a_query_passes_if_each_of_its_parameters_does(parts):
    apart = [verdict("Patient.cruds", "GET", f"/Patient?{part}") for part in parts]
    assert verdict("Patient.cruds", "GET", "/Patient?" + "&".join(parts)) == next(filter(None, apart), "")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.just(ask("GET", "Patient/1")) | st.just(ask("POST", "Patient", {"a": 1})), max_size=3),
    st.sampled_from([ask("GET", "Observation/1"), ask("DELETE", "Patient/1"), ask("POST", "")]),
    st.integers(0, 3),
    JSON_VALUES,
    st.booleans(),
)
def test_a_refused_entry_is_found_wherever_it_stands(others, refused, at, noise, ascii_only):
    entries = [{**entry, "resource": noise} for entry in others]
    entries.insert(at, {"resource": noise, **refused})
    whole = {"resourceType": "Bundle", "type": "batch", "meta": noise, "entry": entries}
    text = json.dumps(whole, ensure_ascii=ascii_only, indent=at)
    assert on_bundle("Patient.cr", text.encode("utf-8", "surrogatepass"))
