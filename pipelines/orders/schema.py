"""The domain's tables, beside the ledger in the same Postgres: what the handlers write, in the transaction that completes their job.

Money is in minor units of CURRENCY. The counters carry their own arithmetic as constraints: a statement that would lose a unit fails.
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

#: `stock` is what there was to sell; it only changes when goods arrive, and then `available` with it.
products = Table(
    "products",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("stock", BigInteger, nullable=False),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
    Column("sold", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("tenant", "sku", name="a_sku_is_one_product_of_its_tenant"),
    CheckConstraint("price between 1 and 1000000000000", name="a_price_is_positive_and_cannot_overflow_a_cart"),
    CheckConstraint("available >= 0 and reserved >= 0 and sold >= 0", name="stock_is_never_oversold"),
    CheckConstraint("available + reserved + sold = stock", name="stock_is_available_or_reserved_or_sold"),
)

#: `value` is a percentage or an amount, by `kind`. No `max_uses`: no cap.
discounts = Table(
    "discounts",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("minimum_total", BigInteger, nullable=False, server_default="0"),
    Column("max_uses", Integer),
    Column("uses", Integer, nullable=False, server_default="0"),
    Column("valid_from", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column("valid_until", DateTime(timezone=True), nullable=False, server_default=text("'infinity'")),
    PrimaryKeyConstraint("tenant", "code", name="a_code_is_one_discount_of_its_tenant"),
    CheckConstraint("kind in ('percent', 'fixed')", name="a_discount_is_a_percentage_or_an_amount"),
    CheckConstraint("value > 0 and (kind = 'fixed' or value <= 100)", name="a_discount_takes_off_something_and_at_most_all"),
    CheckConstraint("uses >= 0 and uses <= coalesce(max_uses, uses)", name="a_discount_is_used_no_oftener_than_its_cap"),
)

#: An order has the id of the job that placed it. reserved → paid → shipped → confirmed, or reserved → cancelled.
orders = Table(
    "orders",
    metadata,
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
    ForeignKeyConstraint(["tenant", "discount_code"], ["orders.discounts.tenant", "orders.discounts.code"], name="a_discount_given_exists"),
    CheckConstraint("state in ('reserved', 'paid', 'shipped', 'confirmed', 'cancelled')", name="an_order_is_in_a_known_state"),
    CheckConstraint("discount >= 0 and total >= 0 and total = subtotal - discount", name="a_total_is_what_the_discount_leaves"),
)

order_lines = Table(
    "order_lines",
    metadata,
    Column("order_id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("price", BigInteger, nullable=False),
    PrimaryKeyConstraint("order_id", "sku", name="a_sku_is_one_line_of_its_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_line_belongs_to_an_order"),
    ForeignKeyConstraint(["tenant", "sku"], ["orders.products.tenant", "orders.products.sku"], name="a_line_names_a_product"),
    CheckConstraint("quantity > 0", name="a_line_orders_something"),
    Index("order_lines_by_product", "tenant", "sku"),
)

payments = Table(
    "payments",
    metadata,
    Column("order_id", Uuid, nullable=False),
    Column("charge_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("captured_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("order_id", name="an_order_is_paid_once"),
    UniqueConstraint("charge_id", name="a_charge_pays_one_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_payment_is_for_an_order"),
    CheckConstraint("amount > 0", name="a_payment_moves_money"),
)

shipments = Table(
    "shipments",
    metadata,
    Column("order_id", Uuid, nullable=False),
    Column("shipment_id", Text, nullable=False),
    Column("tracking", Text, nullable=False),
    Column("shipped_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("order_id", name="an_order_is_shipped_once"),
    UniqueConstraint("shipment_id", name="a_shipment_carries_one_order"),
    ForeignKeyConstraint(["order_id"], ["orders.orders.id"], name="a_shipment_is_of_an_order"),
)


def create_tables(connection: Connection) -> None:
    """Create what is missing, in the caller's transaction. Safe to run twice, and from two places at once."""
    # `create schema if not exists` is not safe against itself: two at once and one of them fails on the catalogue's unique index.
    connection.execute(text("select pg_advisory_xact_lock(hashtext('orders.create_tables'))"))
    connection.execute(text("create schema if not exists orders"))
    metadata.create_all(connection)
    connection.execute(text("grant usage on schema orders to haulier_handler"))
    connection.execute(text("grant select, insert, update, delete on all tables in schema orders to haulier_handler"))
