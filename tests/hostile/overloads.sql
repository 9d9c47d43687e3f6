-- Makes, in schema public, something of every name that is given, which tells the server's log who ran it. The names are
-- words and runs of operator characters of our sources: a new statement is covered as it comes.
-- Run by the owner of the database, with search_path = pg_catalog.

CREATE TABLE public.made (kind text, name text);

CREATE FUNCTION public.rob(what text) RETURNS text LANGUAGE plpgsql AS $rob$
BEGIN
    RAISE LOG 'ROBBED %: by %, as %, in %', what, pg_catalog.current_setting('application_name'), current_user,
        pg_catalog.current_database();
    RETURN NULL;
END
$rob$;

DO $$
DECLARE
    words text[] := $WORDS$;
    pair_types text[] := '{int2,int4,int8,numeric,text,name,oid,bool,json,json[],regclass,text[],name[],regtype}';
    it record;
    more text;
    gives text;
    statements text[];
BEGIN
    -- Functions, with the very arguments of each that there is, and for VARIADIC "any" some that suit everything.
    FOR it IN SELECT p.*, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u (t, n) ORDER BY n) AS takes
              FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (words)
    LOOP
        gives := CASE WHEN it.proretset THEN 'SETOF ' ELSE '' END || format_type(it.prorettype, NULL);
        statements := '{}';
        IF it.prokind = 'a' THEN
            more := replace(array_to_string(it.takes, ', '), '"any"', 'anyelement');
            statements := ARRAY[
                format('CREATE FUNCTION public.rob_%s(%s) RETURNS text LANGUAGE plpgsql AS %L', it.oid,
                    concat_ws(', ', 'text', nullif(more, '')), format('BEGIN RETURN public.rob(%L); END', 'aggregate ' || it.proname)),
                format('CREATE AGGREGATE public.%I(%s) (SFUNC = public.rob_%s, STYPE = text)', it.proname,
                    coalesce(nullif(more, ''), '*'), it.oid)];
        ELSE
            FOREACH more IN ARRAY CASE WHEN it.takes[cardinality(it.takes)] = '"any"'
                THEN ARRAY['anyelement', 'anyelement, anyelement', 'int2vector, smallint', 'name', 'oid, xid', 'text, text, text, json']
                ELSE ARRAY[it.takes[cardinality(it.takes)]] END
            LOOP
                statements := statements || format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', it.proname,
                    concat_ws(', ', nullif(array_to_string(it.takes[:cardinality(it.takes) - 1], ', '), ''), more), gives,
                    format('BEGIN PERFORM public.rob(%L); RETURN %s; END', 'function ' || it.proname,
                        CASE WHEN it.proretset OR gives = 'void' THEN '' ELSE 'NULL' END));
            END LOOP;
        END IF;
        BEGIN
            FOREACH more IN ARRAY statements LOOP EXECUTE more; END LOOP;
            INSERT INTO public.made VALUES ('function', it.proname);
        EXCEPTION WHEN OTHERS THEN
            NULL; -- PL/pgSQL does not take every pseudo-type.
        END;
    END LOOP;
    -- Operators, likewise; and for pairs of types for which there is none, so that it is the best match.
    FOR it IN
        SELECT o.oprname, format_type(nullif(o.oprleft, 0), NULL) AS l, format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS gives
        FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = ANY (words || '{~~,!~~}'::text[])
        UNION
        SELECT o.oprname, l, r, CASE WHEN o.oprname ~ '[=<>~]' THEN 'boolean' ELSE l END
        FROM (SELECT DISTINCT oprname FROM pg_operator WHERE oprname = ANY ('{=,<>,<,>,<=,>=,+,-,*,/,%,||}'::text[]) AND oprname = ANY (words)) o,
            unnest(pair_types) l, unnest(pair_types) r
        WHERE NOT EXISTS (SELECT FROM pg_operator x WHERE x.oprname = o.oprname AND x.oprleft = l::regtype AND x.oprright = r::regtype)
    LOOP
        more := 'public.rob_' || md5(concat_ws(' ', it.oprname, it.l, it.r));
        BEGIN
            EXECUTE format('CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS %L', more, concat_ws(', ', it.l, it.r), it.gives,
                format('BEGIN PERFORM public.rob(%L); RETURN NULL; END', concat_ws(' ', 'operator', it.l, it.oprname, it.r)));
            EXECUTE format('CREATE OPERATOR public.%s (%s RIGHTARG = %s, FUNCTION = %s)', it.oprname,
                coalesce('LEFTARG = ' || it.l || ',', ''), it.r, more);
            INSERT INTO public.made VALUES ('operator', it.oprname);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END LOOP;
    -- Relations and types: only where public comes before pg_catalog.
    FOR it IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname = ANY (words)
    LOOP
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO more FROM pg_attribute a
        WHERE a.attrelid = format('pg_catalog.%I', it.relname)::regclass AND a.attnum > 0 AND a.atttypid <> 'anyarray'::regtype;
        EXECUTE format('CREATE VIEW public.%I AS SELECT %s FROM pg_catalog.%I WHERE public.rob(%L) IS NULL', it.relname, more,
            it.relname, 'relation ' || it.relname);
        INSERT INTO public.made VALUES ('relation', it.relname);
    END LOOP;
    FOR it IN SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0
                  AND t.typname = ANY (words)
    LOOP
        EXECUTE format('CREATE DOMAIN public.%I AS pg_catalog.%I CHECK (public.rob(%L) IS NULL)', it.typname, it.typname, 'type ' || it.typname);
        INSERT INTO public.made VALUES ('type', it.typname);
    END LOOP;
END
$$;
