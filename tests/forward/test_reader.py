"""The reader takes a short way for fields that it has read before; it must lead to the same place."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.forward.reader import Limits, RequestReader
from proxy.rules.errors import ProxyError

FIELDS = b"Host: localhost\r\nAccept: */*\r\nX-A: 1\r\n\r\n"
METHODS = [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"POST", b"PUT", b"TRACE", b"CONNECT", b"get", b"FOO", b""]
TARGETS = [b"/Patient/1", b"/a?b#c", b"*", b"http://localhost/x", b"x", b"/a b", b"/\xff", b"/a\tb", b"/\x7f"]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b""]
ENDS = [b"\r\n", b"\n", b"\r", b"\r\nX: y\r\n", b"\r\n\r\n", b"\r\n x\r\n"]


def outcome(reader: RequestReader, data: bytes) -> object:
    """All that a reader made of the bytes, by the short way if it takes it."""
    try:
        rest = b"" if reader.again(data) else reader.feed(data)
    except ProxyError as error:
        return type(error), str(error)
    request = reader.request
    if request is None:
        return rest, None
    read = request.method, request.authority, request.target, request.http11, request.fields, request.noted
    return rest, read, reader.keep_alive, reader.expects_continue, reader.body is None


def fresh() -> RequestReader:
    return RequestReader(Limits(4096, 0), lambda: None)


def primed() -> RequestReader:
    reader = fresh()
    assert reader.feed(b"GET / HTTP/1.1\r\n" + FIELDS) == b""
    reader.begin()
    return reader


@given(
    line=st.one_of(
        st.builds(
            lambda method, target, version, end: b" ".join((method, target, version)) + end,
            st.sampled_from(METHODS),
            st.one_of(st.sampled_from(TARGETS), st.binary(max_size=20).map(lambda path: b"/" + path)),
            st.sampled_from(VERSIONS),
            st.sampled_from(ENDS),
        ),
        st.binary(min_size=1, max_size=40),
    ),
    after=st.sampled_from([b"", b"GET / HTTP/1.1\r\n" + FIELDS, b"\r\n", b"x"]),
)
@example(line=b"GET /Patient HTTP/1.1\r\n", after=b"")
@example(line=b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n", after=b"")
@example(line=b"GET /a HTTP/1.1\r\n" + FIELDS + b"GET /b HTTP/1.1\r\n", after=b"")
def test_fields_that_were_read_before_change_nothing_in_what_a_request_is_read_as(
    line: bytes, after: bytes
) -> None:
    data = line + FIELDS + after
    assert fresh().again(data) is None
    assert outcome(primed(), data) == outcome(fresh(), data)


def test_the_short_way_is_taken_by_the_usual_request() -> None:
    assert primed().again(b"GET /Patient/2?a=b HTTP/1.1\r\n" + FIELDS) is not None


@pytest.mark.parametrize(
    "fields",
    [b"Content-Length: 1\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n"],
    ids=lambda fields: fields.strip().decode(),
)
def test_fields_that_speak_of_one_message_are_read_each_time(fields: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n"
    reader = fresh()
    reader.feed(data)
    assert reader._before is None
