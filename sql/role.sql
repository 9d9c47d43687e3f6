-- The role that coherd runs as, with only the rights it needs: it may log in, follow the log and create its slot. It can
-- read no table, because the stream does not need SELECT. Run this file in the database that coherd follows, as a superuser
-- or the managed service's administrator. You may run it again at any time. Then give the role a password
-- (psql: \password coherd) and admit it in pg_hba.conf, with an ordinary entry for the database (not "replication"). The
-- stream uses that entry too.
--
-- "coherd setup" also creates the publication and the schema coherd. Run it as the owner of the tables:
--     coherd setup --dsn postgresql://owner@host/app

-- With another search path, a name below could mean an object that somebody created in a schema of this database. The end
-- of this file restores the session's path.
DO $$ BEGIN PERFORM pg_catalog.set_config('coherd.search_path', pg_catalog.current_setting('search_path'), false); END $$;
SET search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        CREATE ROLE coherd LOGIN;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication') THEN
        -- On Amazon RDS no role can have the attribute REPLICATION; this role replaces it.
        GRANT rds_replication TO coherd;
    ELSIF NOT (SELECT rolreplication AND rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        ALTER ROLE coherd LOGIN REPLICATION;
    END IF;
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO coherd', pg_catalog.current_database());
    -- For "coherd invalidate", "flush" and "wait". PUBLIC may not execute the functions that invalidate.
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'coherd') THEN
        GRANT USAGE ON SCHEMA coherd TO coherd;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coherd TO coherd;
        GRANT SELECT ON coherd.status TO coherd;
    END IF;
END
$$;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('coherd.search_path'), false); END $$;
