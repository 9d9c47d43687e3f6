-- coherd's functions for applications and DBAs: read your writes, invalidation by hand, status.
--
-- Plain SQL and PL/pgSQL, no extension; Postgres 14 to 18, also managed ones. Run it in the database that coherd
-- follows, as the owner of the database or any role that may create a schema; as often as you like.
--
-- Everybody may use everything here: a message can only make caches colder. Where that is too much, take the right
-- away; a later run of this file respects it. The functions run as their caller, and Postgres lets everybody send such
-- messages, so the lock on the door is the last line, which takes a superuser:
--     REVOKE EXECUTE ON FUNCTION coherd.invalidate(text[]), coherd.touch(regclass, text, name),
--         coherd.flush(regclass), coherd.emit(json) FROM PUBLIC;
--     REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text),
--         pg_logical_emit_message(boolean, text, bytea) FROM PUBLIC;

-- Under another search path, names here could mean what somebody has made in a schema of this database. The one of the
-- session comes back at the end.
DO $$ BEGIN PERFORM pg_catalog.set_config('coherd.search_path', pg_catalog.current_setting('search_path'), false); END $$;
SET search_path = pg_catalog, pg_temp;

CREATE SCHEMA IF NOT EXISTS coherd;
COMMENT ON SCHEMA coherd IS 'Cache coherence: read your writes, invalidation by hand, status (version 5)';
GRANT USAGE ON SCHEMA coherd TO PUBLIC;

-- ---------------------------------------------------------------- read your writes

CREATE OR REPLACE FUNCTION coherd.token() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    at pg_lsn;
    past_page numeric;
BEGIN
    IF pg_is_in_recovery() THEN
        at := pg_last_wal_replay_lsn();
        IF at IS NULL THEN
            RAISE EXCEPTION 'coherd.token(): this standby has replayed nothing yet' USING ERRCODE = '55000';
        END IF;
    ELSIF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'coherd.token(): this transaction has written and is not committed, so its position is not known'
            USING ERRCODE = '25001', HINT = 'Call it after COMMIT, in a transaction of its own.';
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        -- The commit may not be flushed yet. At the start of a page the insert position stands behind the page header,
        -- where no record ends: a position that nothing confirms before the next record is written.
        at := pg_current_wal_insert_lsn();
        past_page := mod(at - '0/0'::pg_lsn, current_setting('wal_block_size')::numeric);
        IF past_page IN (24, 40) THEN
            at := at - past_page;
        END IF;
    ELSE
        at := pg_current_wal_flush_lsn();
    END IF;
    RETURN (at - '0/0'::pg_lsn)::bigint;
END
$$;
COMMENT ON FUNCTION coherd.token() IS
    'A position in the log, as a decimal, that the caller''s last commit is not past. Take it after COMMIT.';

-- 1668245605 is "cohe": the daemon holds this lock, with the process id of its walsender, for as long as everything up
-- to the slot's position is settled.
CREATE OR REPLACE FUNCTION coherd.vouched(walsender int) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 1668245605 AND objid = walsender::bigint::oid AND objsubid = 2 AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
$$;
COMMENT ON FUNCTION coherd.vouched(int) IS
    'Inner part of wait(): whether a daemon vouches for the stream of this walsender';

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
    told boolean := pg_is_in_recovery();
    seen record;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'coherd.wait(): this transaction has written, and its changes reach no cache before it commits'
            USING ERRCODE = '25001', HINT = 'Call it after COMMIT, in a transaction of its own.';
    END IF;
    IF goal IS NULL THEN
        goal := '0/0'::pg_lsn + coherd.token();
    END IF;
    LOOP
        SELECT confirmed_flush_lsn, database, active_pid INTO seen FROM pg_replication_slots WHERE slot_name = slot;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'coherd.wait(): there is no replication slot "%" on this server', slot
                USING ERRCODE = '42704', HINT = 'The slot is on the server that coherd follows. Name it with '
                    'slot => ''name'' if it is called otherwise; "coherd setup" creates it.';
        ELSIF seen.database IS DISTINCT FROM current_database() THEN
            RAISE EXCEPTION 'coherd.wait(): the replication slot "%" follows %, not this database', slot,
                coalesce('the database "' || seen.database || '"', 'the whole server')
                USING ERRCODE = '55000', HINT = 'Call it in the database that coherd follows.';
        END IF;
        -- The slot may have gone on without a cache that was away for too long, or may be new. So its position, read
        -- before, counts only while the process that streams from it vouches for it.
        IF seen.confirmed_flush_lsn >= goal AND coherd.vouched(seen.active_pid) THEN
            RETURN true;
        ELSIF clock_timestamp() >= deadline THEN
            RETURN false;
        ELSIF NOT told AND pause > 0.0014 THEN
            -- A cache's record moves at once where somebody waits, and otherwise now and then. The daemon hears of it
            -- with the next flush of the log, for which nobody waits here; who may not send it does without.
            told := true;
            BEGIN
                PERFORM pg_logical_emit_message(false, 'coherd.wait', '');
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END IF;
        PERFORM pg_sleep(least(pause, extract(epoch FROM deadline - clock_timestamp())::double precision));
        pause := least(pause * 1.2, 0.020);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coherd.wait(pg_lsn, interval, name) IS
    'True once the caches are settled past the position (default: the present one); false after the timeout, also where '
    'no daemon is at work.';

CREATE OR REPLACE FUNCTION coherd.wait(token bigint, timeout interval DEFAULT '5s', slot name DEFAULT 'coherd')
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT coherd.wait('0/0'::pg_lsn + token, timeout, slot) $$;
COMMENT ON FUNCTION coherd.wait(bigint, interval, name) IS
    'True once the caches are settled past a token of coherd.token(); false after the timeout.';

-- Literals and untyped parameters of drivers are read as this one.
CREATE OR REPLACE FUNCTION coherd.wait(token text, timeout interval DEFAULT '5s', slot name DEFAULT 'coherd')
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coherd.wait(
        CASE WHEN token LIKE '%/%' THEN token::pg_lsn ELSE '0/0'::pg_lsn + token::bigint END, timeout, slot)
$$;
COMMENT ON FUNCTION coherd.wait(text, interval, name) IS
    'True once the caches are settled past a position in either form, 16/B374D848 or decimal; false after the timeout.';

-- ---------------------------------------------------------------- invalidation by hand

-- Messages are transactional: a rollback undoes them, and they are ordered with the data. Their content is UTF-8
-- whatever the encoding of the database, because the stream sends them as they are.
CREATE OR REPLACE FUNCTION coherd.emit(content json) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_logical_emit_message(true, 'coherd', convert_to(content::text, 'UTF8')) $$;
COMMENT ON FUNCTION coherd.emit(json) IS 'Inner part of invalidate(), touch() and flush()';

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
    -- The daemon reads no message of more than 1 MiB, and JSON may take six bytes for one.
    FOREACH key IN ARRAY coalesce(given, '{}') LOOP
        IF octet_length(key) > 131072 THEN
            RAISE EXCEPTION 'coherd.invalidate(): a key has % bytes, and at most 131072 are possible', octet_length(key)
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
    'Invalidates cache keys when the transaction commits. A NULL is no key.';

CREATE OR REPLACE FUNCTION coherd.published_columns(tbl regclass, publication name) RETURNS name[]
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version int := current_setting('server_version_num')::int;
    columns name[];
BEGIN
    -- The view has column lists from 15 on. Generated columns are not sent before 18, whatever it says.
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
COMMENT ON FUNCTION coherd.published_columns(regclass, name) IS 'Inner part of touch()';

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
    'Inner part of touch(): a value as the replication stream prints it, whatever the session''s settings';

-- No search_path of its own: the predicate is the caller's, and so are the names and settings it is read with. So
-- everything else here says which schema it means, operators and types too: what somebody has made in a schema of the
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
    -- The daemon reads no message of more than 1 MiB, in UTF-8.
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
            USING ERRCODE = '42704', HINT = 'No rule can apply to it. "coherd setup" adds the tables of all rules; '
                'another publication is named with publication => ''name''.';
    END IF;
    IF pg_catalog.row_security_active(tbl) THEN
        RAISE WARNING 'coherd.touch(): row-level security hides rows of % from role "%"; their keys stay cached', tbl,
            current_user
            USING HINT = 'Call it as the table''s owner or as a role with BYPASSRLS, or call coherd.flush().';
    END IF;
    -- Types whose text no setting changes are printed in place; the others cost a call each.
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
    FOR cells IN EXECUTE pg_catalog.format('SELECT ARRAY[%s]::pg_catalog.text[] FROM %s %s WHERE (%s)', selected,
        (SELECT CASE WHEN relkind OPERATOR(pg_catalog.=) 'p' THEN '' ELSE 'ONLY' END FROM pg_catalog.pg_class
         WHERE oid OPERATOR(pg_catalog.=) tbl), tbl,
        predicate)
    LOOP
        touched := touched OPERATOR(pg_catalog.+) 1;
        one := pg_catalog.to_json(cells);
        size := pg_catalog.octet_length(one::pg_catalog.text);
        IF size OPERATOR(pg_catalog.>) most THEN
            -- What fits no message: all keys of the table stand in for the row's.
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
        -- The comma too.
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
    'Invalidates, when the transaction commits, the keys of the rows for which the predicate holds, without writing a row. '
    'The predicate is SQL, run as the caller, who needs SELECT on the published columns and sees what row security '
    'shows: never build it from foreign input. Gives the number of rows.';

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
       CASE WHEN s.database = pg_catalog.current_database() THEN coherd.vouched(s.active_pid) END AS vouched
FROM pg_catalog.pg_replication_slots s
CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_flush_lsn() END AS at) here
WHERE s.plugin = 'pgoutput';
COMMENT ON VIEW coherd.status IS
    'Slots that coherd may use: who reads them, how far behind, and how much of the log they hold back. The caches are '
    'settled up to "settled" only where "vouched" is true; it is null for slots of other databases, where it is not seen.';

GRANT EXECUTE ON FUNCTION coherd.token(), coherd.vouched(int), coherd.wait(pg_lsn, interval, name), coherd.wait(bigint, interval, name),
    coherd.wait(text, interval, name) TO PUBLIC;
GRANT SELECT ON coherd.status TO PUBLIC;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('coherd.search_path'), false); END $$;
