"""Every table of the first version, and the guard on jobs.

The trigger `jobs_guard` is the last line behind models/transitions.py: whoever writes to the table, a job follows the
state machine, an ended job never changes, and the fencing token `attempt` only grows, by claims.
The trigger `jobs_notify` tells listeners of the channel `job_changed` the id of each job that changed, at commit.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

CLOCK = sa.DateTime(timezone=True)

GUARD = """
CREATE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'canceled', 'expired') THEN
        IF NEW IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'job % ended as %: it cannot change any more', OLD.id, OLD.status
                USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_ended';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.id, NEW.tenant_id) IS DISTINCT FROM (OLD.id, OLD.tenant_id) THEN
        RAISE EXCEPTION 'job %: its id and tenant cannot change', OLD.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_identity';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status || '>' || NEW.status) NOT IN (
        'queued>running', 'queued>canceled', 'queued>expired',
        'running>queued', 'running>succeeded', 'running>failed', 'running>canceled'
    ) THEN
        RAISE EXCEPTION 'job %: % -> % is no transition', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_transition';
    END IF;
    IF NEW.attempt < OLD.attempt THEN
        RAISE EXCEPTION 'job %: attempt fell from % to %', OLD.id, OLD.attempt, NEW.attempt
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_attempt';
    END IF;
    IF (OLD.status = 'queued' AND NEW.status = 'running') <> (NEW.attempt = OLD.attempt + 1)
        OR NEW.attempt > OLD.attempt + 1
    THEN
        RAISE EXCEPTION 'job %: attempt went from % to % on % -> %: a claim adds one, nothing else changes it',
            OLD.id, OLD.attempt, NEW.attempt, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_attempt';
    END IF;
    IF OLD.status = 'running' AND NEW.status = 'running' AND NEW.lease_owner <> OLD.lease_owner THEN
        RAISE EXCEPTION 'job %: its lease went from % to % without a claim', OLD.id, OLD.lease_owner, NEW.lease_owner
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_lease';
    END IF;
    IF NEW.crash_count < OLD.crash_count OR NEW.error_retries < OLD.error_retries THEN
        RAISE EXCEPTION 'job %: crash_count and error_retries never fall', OLD.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_guard_counts';
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$
"""

NOTIFY = """
CREATE FUNCTION jobs_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('job_changed', NEW.id);
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
    )
    op.create_table(
        "worker_nodes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("ranks", sa.Integer(), nullable=False),
        sa.Column("devices", postgresql.JSONB(), nullable=False, comment="name, memory_total_bytes, memory_used_bytes"),
        sa.Column("current_job_id", sa.Text(), nullable=True),
        sa.Column("group_restarts", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("last_seen_at", CLOCK, nullable=False),
        sa.Column("last_progress_at", CLOCK, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_worker_nodes"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", CLOCK, nullable=True),
        sa.Column("revoked_at", CLOCK, nullable=True),
        sa.Column("last_used_at", CLOCK, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_api_keys_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"])
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_batches_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_tenant_id", "batches", ["tenant_id"])
    op.create_table(
        "idempotent_answers",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False, comment="of method, path and body"),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_idempotent_answers_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_idempotent_answers"),
    )
    op.create_index("ix_idempotent_answers_created_at", "idempotent_answers", ["created_at"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="as announced by the client"),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_uploads_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.UniqueConstraint("object_key", name="uq_uploads_object_key"),
    )
    op.create_index("ix_uploads_tenant_id", "uploads", ["tenant_id"])
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False, comment="whsec_ + base64; needed in clear to sign"),
        sa.Column(
            "previous_secret", sa.Text(), nullable=True, comment="signs too until it expires, so receivers can rotate"
        ),
        sa.Column("previous_secret_expires_at", CLOCK, nullable=True),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False, comment="empty: every type"),
        sa.Column("disabled_at", CLOCK, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("deleted_at", CLOCK, nullable=True, comment="hidden; its history stays, and ended jobs name it"),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_endpoints_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_index("ix_webhook_endpoints_tenant_id", "webhook_endpoints", ["tenant_id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("retry_of", sa.Text(), nullable=True, comment="the ended job this one repeats"),
        sa.Column("audio_source", sa.Text(), nullable=False),
        sa.Column("image_source", sa.Text(), nullable=True),
        sa.Column("video_source", sa.Text(), nullable=True),
        sa.Column("reference_time_s", sa.Double(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("fps", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("denoising_steps", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.Double(), nullable=True),
        sa.Column("length_policy", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column(
            "webhook_endpoint_id", sa.Text(), nullable=True, comment="null: every enabled endpoint of the tenant"
        ),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("run_after", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("deadline_at", CLOCK, nullable=True),
        sa.Column("dispatched_at", CLOCK, nullable=True, comment="when its message was last published"),
        sa.Column(
            "attempt", sa.Integer(), nullable=False, comment="the fencing token: it never resets and never decreases"
        ),
        sa.Column("crash_count", sa.Integer(), nullable=False, comment="lost leases and dead groups; three are poison"),
        sa.Column("error_retries", sa.Integer(), nullable=False, comment="attempts that ended with a retryable error"),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", CLOCK, nullable=True),
        sa.Column("cancel_requested_at", CLOCK, nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("blocks_done", sa.Integer(), nullable=False),
        sa.Column("blocks_total", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("result_key", sa.Text(), nullable=True),
        sa.Column("poster_key", sa.Text(), nullable=True),
        sa.Column("preview_key", sa.Text(), nullable=True),
        sa.Column("output", postgresql.JSONB(), nullable=True, comment="models.output.OutputReport, as measured"),
        sa.Column("gpu_seconds", sa.Double(), nullable=True),
        sa.Column("ms_per_block", sa.Double(), nullable=True),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("started_at", CLOCK, nullable=True),
        sa.Column("finished_at", CLOCK, nullable=True),
        sa.CheckConstraint(
            "num_nulls(lease_owner, lease_expires_at) = CASE WHEN status = 'running' THEN 0 ELSE 2 END",
            name=op.f("ck_jobs_lease"),
        ),
        sa.CheckConstraint("status <> 'queued' OR cancel_requested_at IS NULL", name=op.f("ck_jobs_cancel")),
        sa.CheckConstraint("(status IN ('queued','running')) = (finished_at IS NULL)", name=op.f("ck_jobs_finished")),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_jobs_error")),
        sa.CheckConstraint(
            "status <> 'succeeded' OR (result_key IS NOT NULL AND output IS NOT NULL)", name=op.f("ck_jobs_output")
        ),
        sa.CheckConstraint(
            "status IN ('queued','running','succeeded','failed','canceled','expired')", name=op.f("ck_jobs_status")
        ),
        sa.CheckConstraint("(image_source IS NULL) <> (video_source IS NULL)", name=op.f("ck_jobs_one_picture")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id"),
        sa.ForeignKeyConstraint(["retry_of"], ["jobs.id"], name="fk_jobs_retry_of"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_jobs_tenant_id"),
        sa.ForeignKeyConstraint(["webhook_endpoint_id"], ["webhook_endpoints.id"], name="fk_jobs_webhook_endpoint_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_batch_id_id", "jobs", ["batch_id", "id"], postgresql_where=sa.text("batch_id IS NOT NULL"))
    op.create_index(
        "ix_jobs_deadlines",
        "jobs",
        ["deadline_at"],
        postgresql_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_leases", "jobs", ["lease_expires_at"], postgresql_where=sa.text("status = 'running'"))
    op.create_index(
        "ix_jobs_queued", "jobs", ["preset", "priority", "tenant_id", "id"], postgresql_where=sa.text("status = 'queued'")
    )
    op.create_index("ix_jobs_tenant_id_id", "jobs", ["tenant_id", "id"])
    op.create_index("ix_jobs_tenant_id_status_id", "jobs", ["tenant_id", "status", "id"])
    op.create_index(
        "uq_jobs_batch_id_custom_id",
        "jobs",
        ["batch_id", "custom_id"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL AND custom_id IS NOT NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", CLOCK, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_attempts"),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="the exact bytes that are signed and sent"),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_webhook_events_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_events_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_events"),
        sa.UniqueConstraint("job_id", "type", name="uq_webhook_events_job_id_type"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, comment="all of them, over every replay"),
        sa.Column("schedule_step", sa.Integer(), nullable=False, comment="tries since it was created or replayed"),
        sa.Column("next_try_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("dispatched_at", CLOCK, nullable=True, comment="when its message was last published"),
        sa.Column("locked_until", CLOCK, nullable=True, comment="one sender has it until then"),
        sa.Column("created_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", CLOCK, nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name="fk_webhook_deliveries_endpoint_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], ["webhook_events.id"], name="fk_webhook_deliveries_event_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_deliveries_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("event_id", "endpoint_id", name="uq_webhook_deliveries_event_id_endpoint_id"),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["endpoint_id", "next_try_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_webhook_deliveries_endpoint_id_id", "webhook_deliveries", ["endpoint_id", "id"])
    op.create_index(
        "ix_webhook_deliveries_locked",
        "webhook_deliveries",
        ["endpoint_id"],
        postgresql_where=sa.text("locked_until IS NOT NULL"),
    )
    op.create_index("ix_webhook_deliveries_tenant_id_id", "webhook_deliveries", ["tenant_id", "id"])
    op.create_table(
        "webhook_tries",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", CLOCK, server_default=sa.func.now(), nullable=False),
        sa.Column("duration_ms", sa.Double(), nullable=False),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["webhook_deliveries.id"], name="fk_webhook_tries_delivery_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_tries"),
    )
    op.create_index("ix_webhook_tries_started_at", "webhook_tries", ["started_at"])

    op.execute(GUARD)
    op.execute("CREATE TRIGGER jobs_guard BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_guard()")
    op.execute(NOTIFY)
    op.execute("CREATE TRIGGER jobs_notify AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_notify()")


def downgrade() -> None:
    op.drop_table("webhook_tries")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_events")
    op.drop_table("attempts")
    op.drop_table("jobs")
    op.drop_table("webhook_endpoints")
    op.drop_table("uploads")
    op.drop_table("idempotent_answers")
    op.drop_table("batches")
    op.drop_table("api_keys")
    op.drop_table("worker_nodes")
    op.drop_table("tenants")
    op.execute("DROP FUNCTION jobs_guard()")
    op.execute("DROP FUNCTION jobs_notify()")
