"""The benchmarks of a host run and count what they measure; their figures are nobody's business here."""

from __future__ import annotations

from hack.benchmarks import idle, replicas, rules
from hack.benchmarks.figures import Report, table
from hack.benchmarks.host import place_of
from tests.support.lab import Host


def test_replicas_and_idling_are_measured(host: Host) -> None:
    place, report = place_of(host), Report("small")
    replicas.warm_up(place)
    replicas.many(place, report, rounds=2, replicas=2)
    replicas.one(place, report, rounds=1)
    place.create("one", 1)
    idle.measure(place, report, seconds=1)
    place.delete("one")

    names = " ".join(figure.name for figure in report.figures)
    assert all(which in names for which in ("A1", "A2", "E1", "E2", "E3", "E4"))
    assert "A1 time to 2 replicas / raw" in table([report])


def test_a_changed_backend_costs_the_same_among_few_services_and_many() -> None:
    few, many = (rules.measure(services, changes=4, connects=20) for services in (5, 50))

    for found in (few, many):
        assert (found.script_lines, found.entries) == (2, 0), "a chain is emptied and filled"
        assert found.told == few.told
        assert found.script_bytes < 500
        assert len(found.direct_us) == len(found.vip_us) == 20
