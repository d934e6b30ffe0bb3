from tests.support.caller import Caller, fetch
from tests.support.product import Product
from tests.support.upstream import tokens_only, unauthorized, reply, raw, hang


async def test_a_request_reaches_fumage_with_the_token_and_its_answer_comes_back() -> None:
    async with Product() as product:
        answer = await fetch(product.port, "GET", "/Patient/1")
        assert answer.status == 200
        assert answer.body == b'{"resourceType":"Patient"}'
        (seen,) = product.fumage.seen
        assert seen["Authorization"] == "Bearer token-1"


async def test_401_is_replayed_once() -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized()]
        answer = await fetch(product.port, "POST", "/Patient", body=b"x" * 10)
        assert answer.status == 200
        assert [s["Authorization"] for s in product.fumage.seen] == ["Bearer token-1", "Bearer token-2"]
        assert [s.body for s in product.fumage.seen] == [b"x" * 10] * 2


async def test_big_chunked_body() -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized()]
        answer = await fetch(product.port, "POST", "/Patient", body=b"x" * 1000_000, chunked=True)
        assert answer.status == 200
        assert [len(s.body) for s in product.fumage.seen] == [1000_000] * 2


async def test_keepalive() -> None:
    async with Product() as product:
        async with await Caller.connect(product.port) as c:
            for i in range(5):
                a = await c.request("GET", "/x")
                assert a.status == 200
        assert product.fumage.connections == 1
