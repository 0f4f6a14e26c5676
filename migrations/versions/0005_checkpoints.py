"""Where a job's last checkpoint is.

An older worker, still running while this is migrated, records none and goes on from none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("checkpoint_key", sa.Text(), nullable=True, comment="the object that names what is kept of a render"),
    )


def downgrade() -> None:
    op.drop_column("jobs", "checkpoint_key")
