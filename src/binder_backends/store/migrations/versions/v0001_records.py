"""Builds, logs, templates, deployments and API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LIVE = sa.text("status IN ('pending', 'running')")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("revoked", sa.Float(53)),
    )
    op.create_table(
        "builds",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("started", sa.Float(53), nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("build_name", sa.Text, nullable=False),
        sa.Column("image", sa.Text, nullable=False),
        sa.Column("repo_url", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("content_provider", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("ended", sa.Float(53), index=True),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease", sa.Float(53), nullable=False),
    )
    op.create_index(
        "one_live_build",
        "builds",
        ["name"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_index("builds_by_name", "builds", ["name", "number"])
    op.create_table(
        "logs",
        sa.Column(
            "build_id",
            sa.String(64),
            sa.ForeignKey("builds.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "templates",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("image", sa.Text, nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("repo_url", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("registered", sa.Float(53), nullable=False),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("template", sa.Text, nullable=False, index=True),
        sa.Column("image", sa.Text, nullable=False),
        sa.Column("repo_url", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("started", sa.Float(53), nullable=False),
        sa.Column("idle_timeout", sa.Float(53)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("ended", sa.Float(53), index=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    """Drop all tables."""
    for table in ("deployments", "templates", "logs", "builds", "keys"):
        op.drop_table(table)
