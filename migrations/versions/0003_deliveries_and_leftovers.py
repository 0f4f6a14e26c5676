"""What keeps slow receivers apart from the others, and what the collector of leftovers has to remember.

An older API or sender, still running while this is migrated, writes none of the new columns: the database fills them in.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CLOCK = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "webhook_endpoints",
        sa.Column(
            "slow_tries",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="tries in a row that took long, whatever came of them",
        ),
    )
    op.add_column(
        "uploads", sa.Column("used_at", CLOCK, nullable=True, comment="when the collector saw that a job names it")
    )
    op.add_column(
        "uploads",
        sa.Column("discarded_at", CLOCK, nullable=True, comment="no job may name it any more; it is about to be deleted"),
    )
    op.create_index(
        "ix_uploads_unused", "uploads", ["created_at"], postgresql_where=sa.text("used_at IS NULL")
    )
    op.create_table(
        "collected",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False, comment="all that were ever deleted"),
        sa.Column("last_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name="pk_collected"),
    )


def downgrade() -> None:
    op.drop_table("collected")
    op.drop_index("ix_uploads_unused", table_name="uploads")
    op.drop_column("uploads", "discarded_at")
    op.drop_column("uploads", "used_at")
    op.drop_column("webhook_endpoints", "slow_tries")
