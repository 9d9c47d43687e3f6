-- Undoes coherd.sql, role.sql and "coherd setup" in this database. Stop the daemon first. Where the slot or the
-- publication is not called "coherd", use "coherd teardown", or change the names below. As often as you like.

-- Under another search path, names here could mean what somebody has made in a schema of this database. The one of the
-- session comes back at the end.
DO $$ BEGIN PERFORM pg_catalog.set_config('coherd.search_path', pg_catalog.current_setting('search_path'), false); END $$;
SET search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    reader int;
BEGIN
    SELECT active_pid INTO reader FROM pg_catalog.pg_replication_slots
    WHERE slot_name = 'coherd' AND database = pg_catalog.current_database();
    IF reader IS NOT NULL THEN
        RAISE EXCEPTION 'the replication slot "coherd" is in use by process %', reader
            USING ERRCODE = '55006', HINT = 'Stop the daemon first, then run this again.';
    END IF;
    PERFORM pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots
    WHERE slot_name = 'coherd' AND database = pg_catalog.current_database();
END
$$;

DROP PUBLICATION IF EXISTS coherd;
DROP SCHEMA IF EXISTS coherd CASCADE;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        EXECUTE pg_catalog.format('REVOKE CONNECT ON DATABASE %I FROM coherd', pg_catalog.current_database());
    END IF;
END
$$;

-- A role stays where another database still needs it.
DO $$
DECLARE
    role name;
BEGIN
    FOREACH role IN ARRAY ARRAY['coherd', 'coherd_operator']::name[] LOOP
        BEGIN
            EXECUTE pg_catalog.format('DROP ROLE IF EXISTS %I', role);
        EXCEPTION
            WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
                RAISE NOTICE 'the role "%" stays: %', role, SQLERRM;
        END;
    END LOOP;
END
$$;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('coherd.search_path'), false); END $$;
