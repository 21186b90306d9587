"""The domain's tables, beside the ledger in the same Postgres: what the handlers write, in the transaction that completes their job.

Money is in minor units of CURRENCY. The counters carry their own arithmetic as constraints: a statement that would lose a unit fails.

Whose a row is, says `tenant_id`: by default the tenant that the transaction is bound to, and row-level security shows a handler no others
(decision 0011). Unique constraints lead with it wherever a value is not random, or one tenant could learn what another has.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

CURRENCY = "EUR"

metadata = MetaData(schema="orders")


def _tenant_id() -> Column[int]:
    return Column("tenant_id", Integer, nullable=False, server_default=text("nullif(current_setting('haulier.tenant', true), '')::integer"))


#: `stock` is what there was to sell; it only changes when goods arrive, and then `available` with it.
products = Table(
    "products",
    metadata,
    _tenant_id(),
    Column("tenant", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("stock", BigInteger, nullable=False),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
    Column("sold", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("tenant_id", "sku", name="a_sku_is_one_product_of_its_tenant"),
    CheckConstraint("price between 1 and 1000000000000", name="a_price_is_positive_and_cannot_overflow_a_cart"),
    CheckConstraint("available >= 0 and reserved >= 0 and sold >= 0", name="stock_is_never_oversold"),
    CheckConstraint("available + reserved + sold = stock", name="stock_is_available_or_reserved_or_sold"),
)

#: `value` is a percentage or an amount, by `kind`. No `max_uses`: no cap.
discounts = Table(
    "discounts",
    metadata,
    _tenant_id(),
    Column("tenant", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("minimum_total", BigInteger, nullable=False, server_default="0"),
    Column("max_uses", Integer),
    Column("uses", Integer, nullable=False, server_default="0"),
    Column("valid_from", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column("valid_until", DateTime(timezone=True), nullable=False, server_default=text("'infinity'")),
    PrimaryKeyConstraint("tenant_id", "code", name="a_code_is_one_discount_of_its_tenant"),
    CheckConstraint("kind in ('percent', 'fixed')", name="a_discount_is_a_percentage_or_an_amount"),
    CheckConstraint("value > 0 and (kind = 'fixed' or value <= 100)", name="a_discount_takes_off_something_and_at_most_all"),
    CheckConstraint("uses >= 0 and uses <= coalesce(max_uses, uses)", name="a_discount_is_used_no_oftener_than_its_cap"),
)

#: An order has the id of the job that placed it. reserved → paid → shipped → confirmed, or reserved → cancelled.
orders = Table(
    "orders",
    metadata,
    _tenant_id(),
    Column("id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("customer", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("subtotal", BigInteger, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("discount_code", Text),
    Column("address", JSONB, nullable=False),
    Column("placed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("id", name="an_order_is_placed_once"),
    ForeignKeyConstraint(
        ["tenant_id", "discount_code"], ["orders.discounts.tenant_id", "orders.discounts.code"], name="a_discount_given_exists"
    ),
    CheckConstraint("state in ('reserved', 'paid', 'shipped', 'confirmed', 'cancelled')", name="an_order_is_in_a_known_state"),
    CheckConstraint("discount >= 0 and total >= 0 and total = subtotal - discount", name="a_total_is_what_the_discount_leaves"),
)

order_lines = Table(
    "order_lines",
    metadata,
    _tenant_id(),
    Column("order_id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("price", BigInteger, nullable=False),
    PrimaryKeyConstraint("order_id", "sku", name="a_sku_is_one_line_of_its_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_line_belongs_to_an_order"),
    ForeignKeyConstraint(["tenant_id", "sku"], ["orders.products.tenant_id", "orders.products.sku"], name="a_line_names_a_product"),
    CheckConstraint("quantity > 0", name="a_line_orders_something"),
    Index("order_lines_by_product", "tenant_id", "sku"),
)

payments = Table(
    "payments",
    metadata,
    _tenant_id(),
    Column("order_id", Uuid, nullable=False),
    Column("charge_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("captured_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("order_id", name="an_order_is_paid_once"),
    UniqueConstraint("tenant_id", "charge_id", name="a_charge_pays_one_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_payment_is_for_an_order"),
    CheckConstraint("amount > 0", name="a_payment_moves_money"),
)

shipments = Table(
    "shipments",
    metadata,
    _tenant_id(),
    Column("order_id", Uuid, nullable=False),
    Column("shipment_id", Text, nullable=False),
    Column("tracking", Text, nullable=False),
    Column("shipped_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("order_id", name="an_order_is_shipped_once"),
    UniqueConstraint("tenant_id", "shipment_id", name="a_shipment_carries_one_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_shipment_is_of_an_order"),
)


def create_tables(connection: Connection) -> None:
    """Create what is missing, in the caller's transaction, on a migrated ledger. Safe to run twice, and from two places at once."""
    # `create schema if not exists` is not safe against itself: two at once and one of them fails on the catalogue's unique index.
    connection.execute(text("select pg_advisory_xact_lock(hashtext('orders.create_tables'))"))
    connection.execute(text("create schema if not exists orders"))
    if connection.scalar(text(WITHOUT_TENANT_ID)):
        connection.execute(text(ADD_TENANT_ID))
    metadata.create_all(connection)
    for name in connection.scalars(text(UNGUARDED)).all():
        connection.execute(text("call haulier.guard(cast(:name as regclass))"), {"name": name})
        connection.execute(text(f"grant select, insert, update, delete on {name} to haulier_handler"))
    connection.execute(text("grant usage on schema orders to haulier_handler"))


UNGUARDED = """
select c.oid::regclass::text from pg_class c where c.relnamespace = 'orders'::regnamespace and c.relkind = 'r' and not c.relrowsecurity
"""

WITHOUT_TENANT_ID = """
select to_regclass('orders.products') is not null
   and not exists (select from pg_attribute where attrelid = to_regclass('orders.products') and attname = 'tenant_id')
"""

#: For tables that were made before they had it.
ADD_TENANT_ID = """
do $$
declare
    relation text;
begin
    alter table orders.orders drop constraint a_discount_given_exists;
    alter table orders.order_lines drop constraint a_line_names_a_product;
    foreach relation in array array['products', 'discounts', 'orders', 'order_lines', 'payments', 'shipments'] loop
        execute format('alter table orders.%I add column tenant_id integer', relation);
        if relation in ('payments', 'shipments') then
            execute format('update orders.%I x set tenant_id = o.tenant_id from orders.orders o where o.id = x.order_id', relation);
        else
            execute format('update orders.%I x set tenant_id = t.id from haulier.tenants t where t.slug = x.tenant', relation);
        end if;
        execute format('alter table orders.%I alter column tenant_id set not null, alter column tenant_id'
                       ' set default nullif(current_setting(''haulier.tenant'', true), '''')::integer', relation);
    end loop;
    alter table orders.products drop constraint a_sku_is_one_product_of_its_tenant,
        add constraint a_sku_is_one_product_of_its_tenant primary key (tenant_id, sku);
    alter table orders.discounts drop constraint a_code_is_one_discount_of_its_tenant,
        add constraint a_code_is_one_discount_of_its_tenant primary key (tenant_id, code);
    alter table orders.orders add constraint a_discount_given_exists
        foreign key (tenant_id, discount_code) references orders.discounts (tenant_id, code);
    alter table orders.order_lines add constraint a_line_names_a_product
        foreign key (tenant_id, sku) references orders.products (tenant_id, sku);
    alter table orders.payments drop constraint a_charge_pays_one_order,
        add constraint a_charge_pays_one_order unique (tenant_id, charge_id);
    alter table orders.shipments drop constraint a_shipment_carries_one_order,
        add constraint a_shipment_carries_one_order unique (tenant_id, shipment_id);
    drop index orders.order_lines_by_product;
    create index order_lines_by_product on orders.order_lines (tenant_id, sku);
end
$$
"""


def bind(connection: Connection, tenant: str) -> None:
    """For whoever writes here outside of a job (who stocks a shop): what this transaction writes is this tenant's. A job's is bound already.

    Raises LookupError when there is no such tenant.
    """
    bound = "select set_config('haulier.tenant', id::text, true) from haulier.tenants where slug = :tenant"
    if connection.scalar(text(bound), {"tenant": tenant}) is None:
        raise LookupError(f"there is no tenant {tenant!r}")
