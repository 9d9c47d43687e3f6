-- coherd's functions for applications and DBAs: read your writes, manual invalidation, status.
--
-- Plain SQL and PL/pgSQL, no extension; Postgres 14 to 19, managed services included. Run it in the database that coherd
-- follows, as the owner of the database or as any role that may create a schema. You may run it again at any time.
--
-- Every role may use token(), wait() and the view status. invalidate(), touch(), flush() and emit() are for the schema's
-- owner, the role that coherd runs as, and the members of coherd_operator. This file creates coherd_operator if its role
-- may create roles: GRANT coherd_operator TO ann. A later run of this file keeps what you grant and revoke beyond that.
--
-- The functions run as their caller, and Postgres itself lets every role send the messages that they send. So every role
-- that may log in can make caches colder, within the rules (manual.keys in the configuration). If that is too much, a
-- superuser revokes it from PUBLIC. The function has another form on 17 and later, so this names each form by its arguments:
--     DO $$ DECLARE f regprocedure; BEGIN
--         FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
--             EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
--             EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO coherd, coherd_operator', f);
--         END LOOP;
--     END $$;

-- All or nothing, even if psql continues after an error.
BEGIN;

-- With another search path, a name below could mean an object that somebody created in a schema of this database. The end
-- of this file restores the session's path.
DO $$ BEGIN PERFORM pg_catalog.set_config('coherd.search_path', pg_catalog.current_setting('search_path'), false); END $$;
SET search_path = pg_catalog, pg_temp;

CREATE SCHEMA IF NOT EXISTS coherd;
-- The owner of the schema can replace functions that superusers call.
DO $$
DECLARE
    owner name;
BEGIN
    SELECT r.rolname INTO owner FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
    WHERE n.nspname = 'coherd' AND r.rolname <> current_user AND NOT r.rolsuper;
    IF FOUND THEN
        RAISE EXCEPTION 'the schema coherd belongs to role %, who could replace the functions in it', owner
            USING ERRCODE = '42501', HINT = pg_catalog.format('Run this as %1$I. Or, where %1$I is not to be trusted: '
                'DROP SCHEMA coherd CASCADE; and run this again.', owner);
    END IF;
    -- CREATE OR REPLACE keeps the owner of a function.
    SELECT r.rolname INTO owner
    FROM (SELECT proowner AS role FROM pg_catalog.pg_proc WHERE pronamespace = 'coherd'::pg_catalog.regnamespace
        UNION ALL
        SELECT relowner FROM pg_catalog.pg_class WHERE relnamespace = 'coherd'::pg_catalog.regnamespace) made
    JOIN pg_catalog.pg_roles r ON r.oid = made.role WHERE r.rolname <> current_user AND NOT r.rolsuper;
    IF FOUND THEN
        RAISE EXCEPTION 'a function or a view in the schema coherd belongs to role %, who could replace it', owner
            USING ERRCODE = '42501', HINT = 'DROP SCHEMA coherd CASCADE; and run this again.';
    END IF;
END $$;

-- ---------------------------------------------------------------- read your writes

CREATE OR REPLACE FUNCTION coherd.token() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    at pg_lsn;
BEGIN
    IF pg_is_in_recovery() THEN
        at := pg_last_wal_replay_lsn();
        IF at IS NULL THEN
            RAISE EXCEPTION 'coherd.token(): this standby has replayed nothing yet' USING ERRCODE = '55000';
        END IF;
    ELSIF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'coherd.token(): this transaction has written and is not committed yet, so its position is unknown. '
            'This error rolls the transaction back, with the fix in it'
            USING ERRCODE = '25001', HINT = 'Call it after COMMIT, in a transaction of its own: not in a file that psql -1 runs, '
                'and not after the fix in the same psql -c.';
    ELSE
        -- Not the flush position: a commit with synchronous_commit = off is visible before it is flushed. At the start of a
        -- page the insert position is after the page's header (24 bytes; 40 on the first page of a segment), where no
        -- record ends. Nothing would confirm that position before the next record is written.
        at := pg_current_wal_insert_lsn();
        IF mod(at - '0/0'::pg_lsn, current_setting('wal_block_size')::numeric) = 24 THEN
            at := at - 24::numeric;
        ELSIF mod(at - '0/0'::pg_lsn, pg_size_bytes(current_setting('wal_segment_size'))) = 40 THEN
            at := at - 40::numeric;
        END IF;
    END IF;
    RETURN (at - '0/0'::pg_lsn)::bigint;
END
$$;
COMMENT ON FUNCTION coherd.token() IS
    'A position in the log, as a decimal. Every commit that the caller can see is at or before it. Call it after COMMIT.';

-- 1668245605 is "cohe". The daemon holds this lock, with the process id of its walsender, for as long as everything up to
-- the slot's position is settled. Every role may take such a lock, so it counts only if its holder logged in as the same
-- role as the walsender. usesysid shows that role, even after SET ROLE, and every role can see it.
-- Up to version 7 these had another name. They are renamed here, so that grants and views that depend on them stay.
DO $$ BEGIN
    IF pg_catalog.to_regprocedure('coherd.vouched(int)') IS NOT NULL THEN
        ALTER FUNCTION coherd.vouched(int) RENAME TO attested;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute
               WHERE attrelid = pg_catalog.to_regclass('coherd.status') AND attname = 'vouched') THEN
        ALTER VIEW coherd.status RENAME COLUMN vouched TO attested;
    END IF;
END $$;
CREATE OR REPLACE FUNCTION coherd.attested(walsender int) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- Otherwise a transaction keeps seeing the sessions as they were when it first looked.
    SELECT pg_stat_clear_snapshot();
    SELECT EXISTS (
        SELECT FROM pg_locks l
        JOIN pg_stat_activity holder ON holder.pid = l.pid
        JOIN pg_stat_activity stream ON stream.usesysid = holder.usesysid
        WHERE l.locktype = 'advisory' AND l.classid = 1668245605 AND l.objid = walsender::bigint::oid AND l.objsubid = 2
            AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND stream.pid = walsender)
$$;
COMMENT ON FUNCTION coherd.attested(int) IS
    'Used by wait(): whether a daemon attests the stream of this walsender. Every role that can log in as the daemon''s '
    'role, and every superuser, can attest it too.';

CREATE OR REPLACE FUNCTION coherd.wait(
    lsn pg_lsn DEFAULT NULL, timeout interval DEFAULT '5s', slot name DEFAULT 'coherd')
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    goal pg_lsn := lsn;
    deadline timestamptz := clock_timestamp() + coalesce(timeout, '5s');
    pause double precision := 0.001;
    standby boolean := pg_is_in_recovery();
    told boolean := standby;
    tried boolean := false;
    seen record;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'coherd.wait(): this transaction has written, and no cache sees its changes before it commits. '
            'This error rolls the transaction back, with the fix in it'
            USING ERRCODE = '25001', HINT = 'Call it after COMMIT, in a transaction of its own: not in a file that psql -1 runs, '
                'and not after the fix in the same psql -c.';
    END IF;
    IF goal IS NULL THEN
        goal := '0/0'::pg_lsn + coherd.token();
    ELSIF goal - '0/0'::pg_lsn < pg_size_bytes(current_setting('wal_segment_size')) THEN
        -- A server's log begins with its second segment.
        RAISE EXCEPTION 'coherd.wait(): % is not a position in this server''s log', goal
            USING ERRCODE = '22023', HINT = 'The first argument is a token of coherd.token(). Seconds are timeout => ''5s''.';
    ELSIF NOT standby AND goal > pg_current_wal_insert_lsn() THEN
        -- A standby may still receive it.
        RAISE EXCEPTION 'coherd.wait(): % is beyond the end of this server''s log, %', goal, pg_current_wal_insert_lsn()
            USING ERRCODE = '22023', HINT = 'The token is from another server, or its commit was lost in a failover, a crash '
                'or a restore: read the row again. Seconds are timeout => ''5s''.';
    END IF;
    LOOP
        SELECT confirmed_flush_lsn, database, active_pid INTO seen FROM pg_replication_slots WHERE slot_name = slot;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'coherd.wait(): there is no replication slot "%" on this server', slot
                USING ERRCODE = '42704', HINT = 'The slot is on the server that coherd follows. If it has another name, '
                    'add slot => ''name''. "coherd setup" creates it.';
        ELSIF seen.database IS DISTINCT FROM current_database() THEN
            RAISE EXCEPTION 'coherd.wait(): the replication slot "%" follows %, not this database', slot,
                coalesce('the database "' || seen.database || '"', 'the whole server')
                USING ERRCODE = '55000', HINT = 'Call it in the database that coherd follows.';
        END IF;
        -- The slot may have gone on without a cache that was down for too long, or may be new. So its position, read first,
        -- counts only while the process that streams from it attests it.
        IF seen.confirmed_flush_lsn >= goal AND coherd.attested(seen.active_pid) THEN
            RETURN true;
        ELSIF clock_timestamp() >= deadline THEN
            RETURN false;
        ELSIF NOT told AND pause > 0.0014 THEN
            told := coherd.said_to_wait(goal, tried);
            tried := true;
        END IF;
        PERFORM pg_sleep(least(pause, extract(epoch FROM deadline - clock_timestamp())::double precision));
        pause := least(pause * 1.2, 0.020);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coherd.wait(pg_lsn, interval, name) IS
    'True when the caches are settled past the position (default: the current one); false after the timeout, or when no '
    'daemon is running.';

-- The daemon writes a cache's record at once if somebody waits, and otherwise now and then. A message in the log tells it
-- that somebody waits. It cannot read log that is not flushed, and up to 16 no function flushes the log. So the waiting
-- session holds a lock until the end of its transaction, and a daemon that finds the lock held commits something. A role
-- that may not send messages waits without one.
CREATE OR REPLACE FUNCTION coherd.said_to_wait(goal pg_lsn, tried boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_flushed boolean := pg_current_wal_flush_lsn() >= goal;
BEGIN
    BEGIN
        IF tried THEN
            NULL; -- The message is in the log already.
        ELSIF is_flushed OR current_setting('server_version_num')::int < 170000 THEN
            PERFORM pg_logical_emit_message(false, 'coherd.wait', '');
        ELSE
            EXECUTE 'SELECT pg_logical_emit_message(false, ''coherd.wait'', '''', true)';
            is_flushed := true;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END;
    -- 0 is no walsender's process id. This never waits for the lock, which others may hold for any time. A daemon that tests
    -- the lock holds it for a moment; so a caller that does not get it tries again.
    RETURN is_flushed OR pg_try_advisory_xact_lock_shared(1668245605, 0);
END
$$;
COMMENT ON FUNCTION coherd.said_to_wait(pg_lsn, boolean) IS
    'Used by wait(): tells the daemon that a session waits; false if that must be tried again';

CREATE OR REPLACE FUNCTION coherd.wait(token bigint, timeout interval DEFAULT '5s', slot name DEFAULT 'coherd')
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT coherd.wait('0/0'::pg_lsn + CASE WHEN token < 0 THEN 0 ELSE token END, timeout, slot) $$;
COMMENT ON FUNCTION coherd.wait(bigint, interval, name) IS
    'True when the caches are settled past a token of coherd.token(); false after the timeout.';

-- Postgres resolves literals and untyped parameters of drivers to this form.
CREATE OR REPLACE FUNCTION coherd.wait(token text, timeout interval DEFAULT '5s', slot name DEFAULT 'coherd')
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF token !~ '^[[:space:]]*([0-9]{1,20}|[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})[[:space:]]*$' THEN
        RAISE EXCEPTION 'coherd.wait(): the first argument is not a position in a log'
            USING ERRCODE = '22023', HINT = 'Give a token of coherd.token(), in either form: 16/B374D848 or decimal. '
                'Seconds are timeout => ''5s''.';
    END IF;
    RETURN coherd.wait(
        CASE WHEN token LIKE '%/%' THEN btrim(token)::pg_lsn ELSE '0/0'::pg_lsn + token::numeric END, timeout, slot);
END
$$;
COMMENT ON FUNCTION coherd.wait(text, interval, name) IS
    'True when the caches are settled past a position in either form, 16/B374D848 or decimal; false after the timeout.';

-- ---------------------------------------------------------------- manual invalidation

-- Messages are transactional: a rollback discards them, and they are in order with the data. Their content is UTF-8 in
-- every database encoding, because the stream does not convert it.
CREATE OR REPLACE FUNCTION coherd.emit(content json) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_logical_emit_message(true, 'coherd', convert_to(content::text, 'UTF8')) $$;
COMMENT ON FUNCTION coherd.emit(json) IS 'Used by invalidate(), touch() and flush()';

CREATE OR REPLACE FUNCTION coherd.invalidate(VARIADIC keys text[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given text[] := array_remove(keys, NULL);
    chunk text[] := '{}';
    bytes bigint := 0;
    key text;
BEGIN
    IF array_to_string(given, '') ~ '[*[]' THEN
        RAISE NOTICE 'coherd.invalidate(): keys are taken literally, and one of them contains * or ['
            USING HINT = 'coherd.flush(''public.users'') invalidates every key of a table''s rules.';
    END IF;
    -- The daemon reads no message above 1 MiB, and JSON may need six bytes for one.
    FOREACH key IN ARRAY coalesce(given, '{}') LOOP
        IF octet_length(key) > 131072 THEN
            RAISE EXCEPTION 'coherd.invalidate(): a key has % bytes; the limit is 131072', octet_length(key)
                USING ERRCODE = '54000', HINT = 'Nothing was invalidated. Delete it in the cache itself.';
        ELSIF cardinality(chunk) = 1000 OR bytes + octet_length(key) > 131072 THEN
            PERFORM coherd.emit(json_build_object('v', 1, 'do', 'invalidate', 'keys', to_json(chunk)));
            chunk := '{}';
            bytes := 0;
        END IF;
        chunk := chunk || key;
        bytes := bytes + octet_length(key);
    END LOOP;
    IF cardinality(chunk) > 0 THEN
        PERFORM coherd.emit(json_build_object('v', 1, 'do', 'invalidate', 'keys', to_json(chunk)));
    END IF;
END
$$;
COMMENT ON FUNCTION coherd.invalidate(text[]) IS
    'Invalidates cache keys when the transaction commits: those that a rule covers, or any (manual.keys in coherd''s '
    'configuration). They are taken literally. NULL is ignored.';

CREATE OR REPLACE FUNCTION coherd.published_columns(tbl regclass, publication name) RETURNS name[]
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version int := current_setting('server_version_num')::int;
    columns name[];
BEGIN
    -- The view has column lists from 15 on. Before 18 generated columns are not sent, even if the view has them.
    EXECUTE 'SELECT array_agg(a.attname ORDER BY a.attnum)
             FROM pg_publication_tables p
             JOIN pg_namespace n ON n.nspname = p.schemaname
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE p.pubname = $1 AND c.oid = $2'
        || CASE WHEN version >= 150000 THEN ' AND a.attname = ANY (p.attnames)' ELSE '' END
        || CASE WHEN version < 180000 THEN ' AND a.attgenerated = ''''' ELSE '' END
    INTO columns USING publication, tbl;
    RETURN columns;
END
$$;
COMMENT ON FUNCTION coherd.published_columns(regclass, name) IS 'Used by touch()';

CREATE OR REPLACE FUNCTION coherd.printed(value anyelement) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO'
SET IntervalStyle = 'postgres'
SET TimeZone = 'UTC'
SET bytea_output = 'hex'
SET extra_float_digits = 3
AS $$
BEGIN
    RETURN format('%s', value);
END
$$;
COMMENT ON FUNCTION coherd.printed(anyelement) IS
    'Used by touch(): a value as the replication stream prints it, independent of the session''s settings';

-- This function sets no search_path: the predicate is the caller's and needs the caller's names and settings. So every other
-- name here has its schema, operators and types included. Otherwise an object that somebody created in a schema of the
-- caller's search path would run with the caller's rights.
CREATE OR REPLACE FUNCTION coherd.touch(tbl regclass, predicate text, publication name DEFAULT 'coherd')
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $$
DECLARE
    root pg_catalog.regclass := coalesce(pg_catalog.pg_partition_root(tbl), tbl);
    columns pg_catalog.name[];
    header pg_catalog.record;
    selected pg_catalog.text;
    cells pg_catalog.text[];
    one pg_catalog.json;
    size bigint;
    chunk pg_catalog.json[] := '{}';
    bytes bigint := 0;
    -- The daemon reads no message above 1 MiB, in UTF-8.
    most bigint := CASE WHEN pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.=) 'UTF8'
        THEN 1000000 ELSE 300000 END;
    flushed boolean := false;
    touched bigint := 0;
BEGIN
    IF tbl IS NULL OR predicate IS NULL THEN
        RAISE EXCEPTION 'coherd.touch(): the table or the predicate is NULL'
            USING ERRCODE = '22004', HINT = 'Give both; the predicate of every row is ''true''.';
    END IF;
    columns := coherd.published_columns(root, publication);
    IF columns IS NULL THEN
        RAISE EXCEPTION 'coherd.touch(): % is not in the publication "%"', root, publication
            USING ERRCODE = '42704', HINT = 'No rule can apply to it. "coherd setup" adds the tables of all rules. '
                'If the publication has another name, add publication => ''name''.';
    END IF;
    IF pg_catalog.row_security_active(tbl) THEN
        RAISE WARNING 'coherd.touch(): row-level security hides rows of % from role "%"; their keys stay cached', tbl,
            current_user
            USING HINT = 'Call it as the table''s owner or as a role with BYPASSRLS, or call coherd.flush().';
    END IF;
    -- Types whose text depends on no setting are printed in place; each value of another type costs a call.
    SELECT n.nspname, c.relname, c.relkind INTO STRICT header
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) root;
    SELECT pg_catalog.string_agg(pg_catalog.format(
               CASE WHEN t.typname OPERATOR(pg_catalog.=) ANY ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid}'::pg_catalog.name[])
                         AND t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
                    THEN 'CASE WHEN %1$I IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$I) END'
                    ELSE 'CASE WHEN %1$I IS DISTINCT FROM NULL THEN coherd.printed(%1$I) END' END, a.attname),
               ', ' ORDER BY named.at)
    INTO selected
    FROM pg_catalog.unnest(columns) WITH ORDINALITY named (attname, at)
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) tbl AND a.attname OPERATOR(pg_catalog.=) named.attname
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid;
    FOR cells IN EXECUTE pg_catalog.format('SELECT ARRAY[%s]::pg_catalog.text[] FROM %s WHERE (%s)', selected, tbl, predicate)
    LOOP
        touched := touched OPERATOR(pg_catalog.+) 1;
        one := pg_catalog.to_json(cells);
        size := pg_catalog.octet_length(one::pg_catalog.text);
        IF size OPERATOR(pg_catalog.>) most THEN
            -- The row fits in no message, so flush all keys of the table instead.
            IF NOT flushed THEN
                PERFORM coherd.flush(root);
                flushed := true;
            END IF;
            CONTINUE;
        ELSIF pg_catalog.cardinality(chunk) OPERATOR(pg_catalog.=) 1000
            OR bytes OPERATOR(pg_catalog.+) size OPERATOR(pg_catalog.>) most
        THEN
            PERFORM coherd.emit(pg_catalog.json_build_object('v', 1, 'do', 'touch', 'schema', header.nspname,
                'table', header.relname, 'columns', columns, 'rows', chunk));
            chunk := '{}';
            bytes := 0;
        END IF;
        chunk := chunk OPERATOR(pg_catalog.||) one;
        -- Plus the comma.
        bytes := bytes OPERATOR(pg_catalog.+) size OPERATOR(pg_catalog.+) 1;
    END LOOP;
    IF pg_catalog.cardinality(chunk) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM coherd.emit(pg_catalog.json_build_object('v', 1, 'do', 'touch', 'schema', header.nspname,
            'table', header.relname, 'columns', columns, 'rows', chunk));
    END IF;
    RETURN touched;
END
$$;
COMMENT ON FUNCTION coherd.touch(regclass, text, name) IS
    'Invalidates, when the transaction commits, the keys of the rows that match the predicate, without writing a row. '
    'The predicate is SQL and runs as the caller, with the caller''s row security; the caller needs SELECT on the published '
    'columns. Never build it from untrusted input. Returns the number of rows.';

CREATE OR REPLACE FUNCTION coherd.flush(tbl regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    root regclass := coalesce(pg_partition_root(tbl), tbl);
    header record;
BEGIN
    SELECT n.nspname, c.relname INTO header
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = root;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'coherd.flush(): there is no such table' USING ERRCODE = '42P01',
            HINT = 'Name it as SQL does: coherd.flush(''public.users'').';
    END IF;
    PERFORM coherd.emit(
        json_build_object('v', 1, 'do', 'flush', 'schema', header.nspname, 'table', header.relname));
END
$$;
COMMENT ON FUNCTION coherd.flush(regclass) IS
    'Flushes, when the transaction commits, the whole scope of every rule of the table';

-- ---------------------------------------------------------------- status

CREATE OR REPLACE VIEW coherd.status AS
SELECT s.slot_name AS slot,
       s.database,
       s.active,
       s.active_pid,
       s.confirmed_flush_lsn AS settled,
       greatest(pg_wal_lsn_diff(here.at, s.confirmed_flush_lsn), 0)::bigint AS lag_bytes,
       greatest(pg_wal_lsn_diff(here.at, s.restart_lsn), 0)::bigint AS retained_bytes,
       s.safe_wal_size,
       s.wal_status,
       CASE WHEN s.database = pg_catalog.current_database() THEN coherd.attested(s.active_pid) END AS attested
FROM pg_catalog.pg_replication_slots s
CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_flush_lsn() END AS at) here
WHERE s.plugin = 'pgoutput';
COMMENT ON VIEW coherd.status IS
    'Slots that coherd may use: who reads them, how far behind they are, and how much log they hold back. The caches are '
    'settled up to "settled" only where "attested" is true. It is null for slots of other databases, which cannot be seen here.';

-- ---------------------------------------------------------------- who may do what

-- By default PUBLIC may execute a new function. Up to version 5 this was so for all functions here. This revokes it once; a
-- later run finds an access list and leaves it alone.
DO $$
DECLARE
    version int := coalesce(pg_catalog.substring(
        pg_catalog.obj_description('coherd'::pg_catalog.regnamespace, 'pg_namespace'), 'version ([0-9]+)')::int, 0);
    f pg_catalog.regprocedure;
    role name;
BEGIN
    IF version < 6 THEN
        GRANT USAGE ON SCHEMA coherd TO PUBLIC;
        GRANT EXECUTE ON FUNCTION coherd.token(), coherd.attested(int), coherd.said_to_wait(pg_lsn, boolean),
            coherd.wait(pg_lsn, interval, name), coherd.wait(bigint, interval, name), coherd.wait(text, interval, name)
            TO PUBLIC;
        GRANT SELECT ON coherd.status TO PUBLIC;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd_operator')
        AND (SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        BEGIN
            CREATE ROLE coherd_operator NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's run created it in the meantime
        END;
    END IF;
    FOR f IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'coherd'::pg_catalog.regnamespace
            AND p.proname IN ('invalidate', 'touch', 'flush', 'emit') AND (version < 6 OR p.proacl IS NULL)
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        FOR role IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('coherd', 'coherd_operator') LOOP
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', f, role);
        END LOOP;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd_operator') THEN
        RAISE NOTICE 'the role coherd_operator does not exist, and % may not create it', current_user
            USING HINT = 'Run as a role with CREATEROLE: CREATE ROLE coherd_operator NOLOGIN. Then run, as the owner of the '
                'schema coherd: GRANT EXECUTE ON FUNCTION coherd.invalidate(text[]), coherd.touch(regclass, text, name), '
                'coherd.flush(regclass), coherd.emit(json) TO coherd_operator.';
    END IF;
END
$$;

-- This comes last, because a run that stops before must not count.
COMMENT ON SCHEMA coherd IS 'Cache coherence: read your writes, manual invalidation, status (version 9)';

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('coherd.search_path'), false); END $$;

COMMIT;
