"""A request to drain a node, which the node finds in its own row. An older node does not look, and is drained by SIGTERM."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "worker_nodes",
        sa.Column(
            "drain_requested_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="cleared when a node of this name starts",
        ),
    )


def downgrade() -> None:
    op.drop_column("worker_nodes", "drain_requested_at")
