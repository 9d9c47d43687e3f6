-- The role that coherd runs as, with nothing more than it needs: it may log in, follow the log and create its slot.
-- It reads no table: the stream does not ask for SELECT. Run it in the database that coherd follows, as a superuser or
-- the managed service's administrator; as often as you like. Then give the role a password (psql: \password coherd)
-- and let pg_hba.conf admit it, both to the database and, for the stream, as an ordinary (not "replication") entry.
--
-- "coherd setup" also creates a publication and the schema coherd, which takes the owner of the tables:
--     coherd setup --dsn postgresql://owner@host/app

-- Under another search path, names here could mean what somebody has made in a schema of this database. The one of the
-- session comes back at the end.
DO $$ BEGIN PERFORM pg_catalog.set_config('coherd.search_path', pg_catalog.current_setting('search_path'), false); END $$;
SET search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        CREATE ROLE coherd LOGIN;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication') THEN
        -- Amazon gives the attribute to nobody and this role in its place.
        GRANT rds_replication TO coherd;
    ELSIF NOT (SELECT rolreplication AND rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        ALTER ROLE coherd LOGIN REPLICATION;
    END IF;
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO coherd', pg_catalog.current_database());
    -- For "coherd invalidate", "flush" and "wait". PUBLIC may not call the functions that invalidate.
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'coherd') THEN
        GRANT USAGE ON SCHEMA coherd TO coherd;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coherd TO coherd;
        GRANT SELECT ON coherd.status TO coherd;
    END IF;
END
$$;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('coherd.search_path'), false); END $$;
