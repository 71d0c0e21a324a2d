#!/bin/sh
# Creates Rollbook's roles on a Postgres server, without superuser rights: the owner, which runs `rollbook migrate`, and
# the worker, which runs `rollbook work`. Run it as a superuser. A second run does no harm, and sets the passwords again.
#
#   POSTGRES_DB              the database; created if it does not exist. An existing one keeps its owner and rights
#   ROLLBOOK_OWNER_PASSWORD, ROLLBOOK_WORKER_PASSWORD
#   ROLLBOOK_OWNER, ROLLBOOK_WORKER, ROLLBOOK_SCHEMA     names; by default rollbook, clerk_worker, clerk
#   ROLLBOOK_OWN_DATABASE    yes: only Rollbook uses the database. It gets the owner, no other role may connect, and the
#                            superuser postgres loses its password (docker-compose.yml sets this)
#
# docker-compose.yml runs it on a new volume. On an old one, once:
#
#   docker compose exec postgres env PGUSER=rollbook sh /docker-entrypoint-initdb.d/roles.sh
set -eu

: "${POSTGRES_DB:=rollbook}" "${ROLLBOOK_OWNER:=rollbook}" "${ROLLBOOK_WORKER:=clerk_worker}"
: "${ROLLBOOK_SCHEMA:=clerk}" "${ROLLBOOK_OWN_DATABASE:=no}" "${PGUSER:=${POSTGRES_USER:-postgres}}"
: "${ROLLBOOK_OWNER_PASSWORD:?set it}" "${ROLLBOOK_WORKER_PASSWORD:?set it}"
export PGUSER

sql() { psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 "$@"; }

# The passwords go through the environment: every user of the machine sees arguments.
export ROLLBOOK_OWNER_PASSWORD ROLLBOOK_WORKER_PASSWORD
names="--set=owner=$ROLLBOOK_OWNER --set=worker=$ROLLBOOK_WORKER --set=schema=$ROLLBOOK_SCHEMA --set=database=$POSTGRES_DB --set=own=$ROLLBOOK_OWN_DATABASE"

# shellcheck disable=SC2086 # these are words: names of roles, of a schema, of a database
sql $names --dbname=postgres <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY[:'owner', :'worker']) name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
\set owner_password `printf %s "$ROLLBOOK_OWNER_PASSWORD"`
\set worker_password `printf %s "$ROLLBOOK_WORKER_PASSWORD"`
ALTER ROLE :"owner" PASSWORD :'owner_password';
ALTER ROLE :"worker" PASSWORD :'worker_password';
-- A database of the application's own keeps its owner and its rights. Compose's image makes an empty one for Rollbook alone.
SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') OR :'own' = 'yes' AS is_own \gset
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
\if :is_own
ALTER DATABASE :"database" OWNER TO :"owner";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
\endif
GRANT CONNECT ON DATABASE :"database" TO :"owner", :"worker";
-- Compose's superuser needs no password: it is reached by the socket of the container.
SELECT format('ALTER ROLE %I PASSWORD NULL', current_user)
WHERE :'own' = 'yes' AND current_user = 'postgres' AND current_user NOT IN (:'owner', :'worker') \gexec
SQL

# shellcheck disable=SC2086
sql $names --dbname="$POSTGRES_DB" <<'SQL'
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS :"schema" AUTHORIZATION :"owner";
GRANT USAGE ON SCHEMA :"schema" TO :"worker";
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA :"schema" TO :"worker";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"worker";
SQL
