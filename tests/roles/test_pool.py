"""A pooled connection keeps nothing of a tenant (trap 15): not after a commit, an error, a cancelled statement, or a lost connection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ledger.connection import Database, Deadlines
from ledger.roles import Role
from tests.intake.proxy import Proxy
from tests.roles.conftest import Two

pytestmark = pytest.mark.every_postgres

SEEN = "select array_agg(distinct tenant_id) from haulier.jobs"


@pytest.fixture
def database(two: Two) -> Iterator[Database]:
    """Its pool holds two connections: no overflow."""
    database = Database(two.log_in("serve"), Role.INTAKE, size=1, deadlines=Deadlines(call=5, statement=5))
    yield database
    database.close()


def test_a_thousand_alternating_tenants_on_two_connections(two: Two, database: Database):
    def look(turn: int) -> set[int]:
        tenant = (two.mine, two.other)[turn % 2]
        try:
            with database.transaction(Role.CLIENT, tenant) as tx:
                row = tx.execute(SEEN).fetchone()
                assert row == ([tenant],)
                match turn % 7:
                    case 1:
                        raise KeyError(turn)
                    case 2:
                        tx.execute("select 1 / 0")
                    case 3:
                        tx.execute("set local statement_timeout = 10")  # not so short that the rollback is cancelled as well
                        tx.execute("select pg_sleep(1)")
                    case _:
                        pass
        except (KeyError, psycopg.errors.DivisionByZero, psycopg.errors.QueryCanceled):
            pass
        with database.transaction(Role.CLIENT, None) as tx:  # the same connections, bound to nobody
            assert tx.execute("select nullif(current_setting('haulier.tenant', true), '')").fetchone() == (None,)
            assert tx.execute(SEEN).fetchone() == (None,)
            return {tx.info.backend_pid}

    with ThreadPoolExecutor(2) as hands:
        backends = set[int]().union(*hands.map(look, range(1000)))

    assert len(backends) <= 2


def test_a_connection_that_is_lost_in_the_middle_is_replaced(two: Two, database: Database):
    with pytest.raises(psycopg.OperationalError), database.transaction(Role.CLIENT, two.mine) as tx:
        two.tx.execute("select pg_terminate_backend(%s)", (tx.info.backend_pid,))
        tx.execute("select 1")

    with database.transaction(Role.CLIENT, two.other) as tx:
        assert tx.execute(SEEN).fetchone() == ([two.other],)


def test_an_error_that_is_hidden_commits_nothing(two: Two, database: Database):
    with pytest.raises(RuntimeError, match="hidden"), database.transaction(Role.CLIENT, two.mine) as tx:
        tx.execute("update haulier.jobs set reason = 'half' where tenant_id = %s", (two.mine,))
        try:
            tx.execute("select 1 / 0")
        except psycopg.errors.DivisionByZero:
            pass

    assert two.tx.execute("select count(*) from haulier.jobs where reason is not null").fetchone() == (0,)


def test_what_raises_is_rolled_back_and_what_returns_is_committed(two: Two, database: Database):
    with pytest.raises(KeyError), database.transaction(Role.CLIENT, two.mine) as tx:
        tx.execute("update haulier.jobs set reason = 'no'")
        raise KeyError
    with database.transaction(Role.CLIENT, two.mine) as tx, tx.transaction():
        tx.execute("update haulier.jobs set reason = 'yes'")

    rows = two.tx.execute("select tenant_id, reason, count(*) from haulier.jobs group by 1, 2 order by 1").fetchall()
    assert rows == [(two.mine, "yes", 2), (two.other, None, 2)]


def test_a_first_connection_that_is_lost_as_it_is_made_is_an_outage_like_any_other(two: Two):
    """SQLAlchemy asks it for the server's version, and would raise an exception of its own, which nobody rides out: a job that ran
    alone in its process was then blamed for a crash.
    """
    proxy = Proxy(two.log_in("work"))
    proxy.lose(b"pg_catalog.version()")
    database = Database(proxy.url, Role.WORKER, size=1)

    with pytest.raises(psycopg.OperationalError), database.plumbing():
        pass
    with database.plumbing() as tx:
        assert tx.execute("select 1").fetchone() == (1,)

    assert proxy.losses == 1
    database.close()
    proxy.close()
