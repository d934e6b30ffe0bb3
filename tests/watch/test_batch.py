"""Records of requests are looked at together, and soon."""

from collections.abc import Sequence

from proxy.watch.batch import Batch
from proxy.watch.record import Record
from tests.forward.leftovers import until


def a_record() -> Record:
    return Record(100.0, b"GET", b"/Patient/1", b"a" * 32)


async def test_records_are_handed_on_together_and_soon() -> None:
    looked: list[Sequence[Record]] = []
    batch = Batch(looked.append)
    records = [a_record() for _ in range(3)]
    for record in records:
        batch(record)
    assert looked == []
    await until(lambda: looked)
    assert looked == [records]


async def test_many_are_handed_on_at_once_and_each_of_them_once() -> None:
    looked: list[Sequence[Record]] = []
    batch = Batch(looked.append)
    records = [a_record() for _ in range(100)]
    for record in records:
        batch(record)
    assert 0 < len(looked[0]) < 100
    batch.flush()
    batch.flush()
    assert [record for some in looked for record in some] == records
