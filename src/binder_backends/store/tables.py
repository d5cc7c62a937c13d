"""The tables, as the code sees them; `migrations` makes them so."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

LIVE: Final = text("status IN ('pending', 'running')")

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("revoked", Float(53)),
)

builds = Table(
    "builds",
    metadata,
    # Rises with each build: of two that began in the same instant one is the newer.
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("started", Float(53), nullable=False),
    Column("provider", Text, nullable=False),
    Column("build_name", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("repo_url", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("content_provider", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("ended", Float(53), index=True),
    Column("run", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease", Float(53), nullable=False),
    # Of several builds of a name at most one is live, whichever servers are asked at once.
    Index("one_live_build", "name", unique=True, sqlite_where=LIVE, postgresql_where=LIVE),
    Index("builds_by_name", "name", "number"),
)

logs = Table(
    "logs",
    metadata,
    Column("build_id", String(64), ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

templates = Table(
    "templates",
    metadata,
    Column("name", Text, primary_key=True),
    Column("image", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("repo_url", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("registered", Float(53), nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("template", Text, nullable=False, index=True),
    Column("image", Text, nullable=False),
    Column("repo_url", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("started", Float(53), nullable=False),
    Column("idle_timeout", Float(53)),
    Column("status", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("ended", Float(53), index=True),
    Column("owner", Text, nullable=False),
    Column("lease", Float(53), nullable=False),
)
