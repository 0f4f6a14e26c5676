"""How a job is rendered: how its sound is encoded, what decides its size, how the sink turns.

Jobs from before were all rendered as the defaults say. An older API, still running while this is migrated, goes on
inserting its jobs: the database fills the columns in.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BY_PICTURE = "null: the picture decides, see size_policy"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("size_policy", sa.Text(), server_default="exact", nullable=False))
    op.add_column("jobs", sa.Column("audio_mode", sa.Text(), server_default="windowed", nullable=False))
    op.add_column("jobs", sa.Column("sink_rotation", sa.Text(), server_default="exact", nullable=False))
    for side in ("width", "height"):
        op.alter_column("jobs", side, existing_type=sa.Integer(), nullable=True, comment=BY_PICTURE)
    op.create_check_constraint(op.f("ck_jobs_audio_mode"), "jobs", "audio_mode IN ('windowed','reference')")
    op.create_check_constraint(
        op.f("ck_jobs_size_policy"), "jobs", "size_policy IN ('exact','reference','reference_bars')"
    )
    op.create_check_constraint(op.f("ck_jobs_sink_rotation"), "jobs", "sink_rotation IN ('exact','reference_rounding')")
    op.create_check_constraint(
        op.f("ck_jobs_size"), "jobs", "num_nulls(width, height) = CASE WHEN size_policy = 'exact' THEN 0 ELSE 2 END"
    )


def downgrade() -> None:
    """Sizes that the picture decided become those that were measured, or the default where nothing was rendered."""
    for name in ("size", "sink_rotation", "size_policy", "audio_mode"):
        op.drop_constraint(op.f(f"ck_jobs_{name}"), "jobs", type_="check")
    op.execute("ALTER TABLE jobs DISABLE TRIGGER USER")  # ended jobs are not to be changed by anything else
    op.execute(
        "UPDATE jobs SET width = coalesce((output->>'width')::int, 480), height = coalesce((output->>'height')::int, 640)"
        " WHERE width IS NULL"
    )
    op.execute("ALTER TABLE jobs ENABLE TRIGGER USER")
    for side in ("height", "width"):
        op.alter_column("jobs", side, existing_type=sa.Integer(), nullable=False, comment=None, existing_comment=BY_PICTURE)
    for column in ("sink_rotation", "audio_mode", "size_policy"):
        op.drop_column("jobs", column)
