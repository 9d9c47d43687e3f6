-- Undoes coherd.sql, role.sql and "coherd setup" in this database. Stop the daemon first. If the slot or the publication is
-- not named "coherd", use "coherd teardown", or change the names below. You may run this file again at any time. It keeps
-- what coherd did not create and what another coherd may still use, and says so in a notice.

-- All or nothing, even if psql continues after an error. Only the slot, once dropped, does not come back.
BEGIN;

-- With another search path, a name below could mean an object that somebody created in a schema of this database. The end
-- of this file restores the session's path.
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
    WHERE slot_name = 'coherd' AND database = pg_catalog.current_database() AND plugin = 'pgoutput' AND NOT two_phase;
END
$$;

DO $$
DECLARE
    others text := (
        SELECT pg_catalog.string_agg(slot_name, ', ' ORDER BY slot_name) FROM pg_catalog.pg_replication_slots
        WHERE database = pg_catalog.current_database() AND plugin = 'pgoutput' AND NOT temporary AND slot_name <> 'coherd');
    made_for text := (
        SELECT pg_catalog.obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication WHERE pubname = 'coherd');
    views text;
    routines text;
BEGIN
    IF made_for = 'Made by coherd setup for slot coherd' OR made_for IS NULL AND others IS NULL THEN
        DROP PUBLICATION IF EXISTS coherd;
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'coherd') THEN
        RAISE NOTICE 'the publication "coherd" stays: coherd setup did not make it for the slot "coherd"';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'coherd') THEN
        RETURN;
    END IF;
    IF NOT coalesce((SELECT pg_catalog.starts_with(pg_catalog.obj_description(oid, 'pg_namespace'), 'Cache coherence')
                     FROM pg_catalog.pg_namespace WHERE nspname = 'coherd'), false) THEN
        RAISE NOTICE 'the schema "coherd" stays: coherd did not make it';
        RETURN;
    END IF;
    IF others IS NOT NULL THEN
        RAISE NOTICE 'the schema "coherd" stays: the coherds of other slots in this database may use it (%)', others;
        RETURN;
    END IF;
    -- Without CASCADE, which would also drop what others have built on the schema.
    SELECT pg_catalog.string_agg(pg_catalog.format('coherd.%I', c.relname), ', ') INTO views
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'coherd' AND c.relkind = 'v';
    SELECT pg_catalog.string_agg(pg_catalog.format('coherd.%I(%s)', p.proname,
        pg_catalog.pg_get_function_identity_arguments(p.oid)), ', ') INTO routines
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'coherd';
    IF views IS NOT NULL THEN
        EXECUTE 'DROP VIEW ' || views;
    END IF;
    IF routines IS NOT NULL THEN
        EXECUTE 'DROP ROUTINE ' || routines;
    END IF;
    DROP SCHEMA coherd;
END
$$;

-- A role stays if another database or another slot still needs it.
DO $$
DECLARE
    role name;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE plugin = 'pgoutput' AND NOT temporary) THEN
        RAISE NOTICE 'the roles "coherd" and "coherd_operator" stay: the coherds of other slots may use them';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd') THEN
        EXECUTE pg_catalog.format('REVOKE CONNECT ON DATABASE %I FROM coherd', pg_catalog.current_database());
    END IF;
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

COMMIT;
