//! The registry of findings: a stable one-word name for each kind, and what it means.

use std::fmt;

/// A kind of finding. [`CODES`] lists all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    name: &'static str,
    meaning: &'static str,
}

impl Code {
    /// Its name: lower-case letters and dashes. Programs may rely on it.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Its meaning, in one line.
    pub const fn meaning(self) -> &'static str {
        self.meaning
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

macro_rules! codes {
    ($($constant:ident $name:literal $meaning:literal;)*) => {
        impl Code {
            $(#[doc = $meaning] pub const $constant: Code = Code { name: $name, meaning: $meaning };)*
        }

        /// Every kind of finding.
        pub const CODES: &[Code] = &[$(Code::$constant),*];
    };
}

// Connections to the database.
codes! {
    SOURCE_DSN "source-dsn" "a connection string cannot be read";
    SOURCE_UNREACHABLE "source-unreachable" "the database did not answer, so coherd checked nothing about it";
    SOURCE_REFUSED "source-refused" "the database refuses the role, the password or the connection";
    SOURCE_UNREADABLE "source-unreadable" "coherd could not read the catalogue";
    REPLICATION_REFUSED "replication-refused" "the server accepts SQL connections, but not the connection that follows the log";
    POOLER "pooler" "something other than Postgres, such as pgbouncer, answers at the address";
    OTHER_SERVER "other-server" "two connections to one address reached two different servers";
    CLOCK "clock" "the clocks of this machine and of the database differ";

    SERVER_VERSION "server-version" "the server's version is too old for coherd";
    STANDBY_VERSION "standby-version" "the source is a standby of a version that can decode only on the primary";
    WAL_LEVEL "wal-level" "wal_level is not logical";
    SLOTS_FULL "slots-full" "no replication slot is free";
    SENDERS_FULL "senders-full" "no WAL sender is free";
    SENDER_TIMEOUT "sender-timeout" "the server would keep the slot of a vanished daemon in use";
    SYNCHRONOUS_COMMIT "synchronous-commit" "synchronous_commit is off, so commits reach the log late";
    SYNCHRONOUS_STANDBY "synchronous-standby" "writers would wait for coherd as if it were a standby";
    ENCODING "encoding" "the database does not know the encoding of its text";
    WAL_UNBOUNDED "wal-unbounded" "nothing limits how much log the slot holds back";
    WAL_KEEP_SIZE "wal-keep-size" "the server invalidates the slot before coherd's own budget is used up";
    IDLE_SLOT_TIMEOUT "idle-slot-timeout" "the server invalidates a slot that nobody reads for some time";
    STANDBY_SLOTS "standby-slots" "coherd may get ahead of the standby that is to take over";

    ROLE_REPLICATION "role-replication" "the role may not follow the log";
    FUNCTIONS_MISSING "functions-missing" "the schema coherd does not exist";
    FUNCTIONS_OLD "functions-old" "the functions in the schema coherd are from another version";
    FUNCTIONS_PRIVILEGE "functions-privilege" "the role may not call the functions in the schema coherd";
    OPERATOR_MISSING "operator-missing" "the role whose members may invalidate manually does not exist";
    MESSAGES_PUBLIC "messages-public" "every role may send the messages that invalidate manually";

    SLOT_MISSING "slot-missing" "the slot does not exist yet";
    SLOT_PHYSICAL "slot-physical" "the slot of that name is a physical slot, for a standby";
    SLOT_DATABASE "slot-database" "the slot of that name belongs to another database";
    SLOT_PLUGIN "slot-plugin" "the slot of that name uses another output plugin";
    SLOT_TWO_PHASE "slot-two-phase" "the slot sends prepared transactions without their rows";
    SLOT_UNFINISHED "slot-unfinished" "the server is still creating the slot, and perhaps nobody waits for it";
    SLOT_LOST "slot-lost" "the log that the slot needs is gone";
    SLOT_AT_RISK "slot-at-risk" "the server is about to invalidate the slot";
    SLOT_FAILOVER "slot-failover" "a failover would lose the slot";
    SLOT_BEFORE_PUBLICATION "slot-before-publication" "the slot is older than its publication, which breaks the stream";

    PUBLICATION_MISSING "publication-missing" "the publication does not exist";
    PUBLICATION_OPERATIONS "publication-operations" "the publication leaves out some kinds of changes";
    PUBLICATION_ROOT "publication-root" "changes of partitions arrive under names that no rule matches";
    PUBLICATION_GENERATED "publication-generated" "the publication leaves out a generated column that a key needs";

    TABLE_MISSING "table-missing" "a rule's table does not exist";
    TABLE_PARTITION "table-partition" "a rule names a partition, but its changes arrive under the name of its root";
    TABLE_KIND "table-kind" "a rule names a view, a foreign table or another relation that has no changes in the log";
    TABLE_UNLOGGED "table-unlogged" "a rule's table is unlogged, so it is not in the log";
    TABLE_TEMPORARY "table-temporary" "a rule's table is temporary, so it is not in the log";
    TABLE_UNPUBLISHED "table-unpublished" "a rule's table is not in the publication";
    TABLE_EMPTY_TREE "table-empty-tree" "a rule's table has no partitions, so it can have no rows and no keys";
    COLUMN_MISSING "column-missing" "a rule names a column that does not exist";
    COLUMN_GENERATED "column-generated" "a rule names a column that is never in the stream";
    COLUMN_UNPUBLISHED "column-unpublished" "the publication's column list leaves out a column that a rule needs";
    COLUMN_LIST "column-list" "a table has a column list although source.publish is rows; this blocks migrations";
    COLUMN_SURPLUS "column-surplus" "a table publishes columns that nothing needs, although source.publish is keys";
    TABLE_SURPLUS "table-surplus" "a table is published that no rule names; this blocks migrations";
    ROW_FILTER "row-filter" "the publication filters rows";
    IDENTITY_MISSING "identity-missing" "a table has no replica identity, so UPDATE and DELETE fail once it is published";
    IDENTITY_OLD_ROWS "identity-old-rows" "Postgres does not log old values that a key needs";
    IDENTITY_COMPARISON "identity-comparison" "Postgres does not log old values that when_changed compares";
    IDENTITY_CONDITION "identity-condition" "Postgres does not log old values that a condition (where) reads";
    IDENTITY_GENERATED "identity-generated" "a generated column is not published although the replica identity is FULL, so writes fail";
    IDENTITY_VIRTUAL "identity-virtual" "a table with a virtual generated column has replica identity FULL, so writes fail";
    IDENTITY_INDEX "identity-index" "the replica identity is an index, which DROP INDEX would remove";
    PUBLISHED_UNWRITABLE "published-unwritable" "writes fail on a published table that no rule names";
    LIST_FULL "list-full" "a table has a column list although its replica identity is FULL, so writes fail";
    LIST_IDENTITY "list-identity" "a column list leaves out part of the replica identity, so writes fail";
    TABLE_HYPERTABLE "table-hypertable" "the rows of a hypertable are in chunks of TimescaleDB, which coherd does not follow";
    LEAF_UNLOGGED "leaf-unlogged" "a partition is foreign or unlogged";
    LEAF_IDENTITY "leaf-identity" "a partition logs less of its old rows than its root";
    LEAF_FUTURE "leaf-future" "new partitions will log less of their old rows than their root";
    TOAST "toast" "a key's value may be large, and an UPDATE that leaves it unchanged does not send it";

    SCOPE_WIDE "scope-wide" "a flush of a rule covers nearly every possible key";
    SCOPE_RECORD "scope-record" "a flush of a rule covers the records of other coherds";
    SCOPE_FOREIGN "scope-foreign" "a flush of a rule covers keys of another table's rule";
    KEY_CONFLICT "key-conflict" "two rules treat the same key differently";
    KEY_RECORD "key-record" "a rule's key can be the name of the record";
    TARGET_UNUSED "target-unused" "no rule uses a target";

    REPLICA_UNREACHABLE "replica-unreachable" "a listed replica did not answer";
    REPLICA_REFUSED "replica-refused" "a listed replica refuses the role, the password or the connection";
    REPLICA_FOREIGN "replica-foreign" "a listed replica holds another database system";
    REPLICA_PRIMARY "replica-primary" "a listed replica accepts writes, so it is not a replica";
    REPLICA_PAUSED "replica-paused" "a listed replica has stopped replaying";
    REPLICA_BEHIND "replica-behind" "a listed replica is behind";

    TARGET_UNREACHABLE "target-unreachable" "a cache did not answer, so coherd checked nothing about it";
    TARGET_REFUSED "target-refused" "a cache refuses the user, the password or the connection";
    TARGET_VERSION "target-version" "a cache's version is too old for coherd";
    TARGET_CLUSTER "target-cluster" "a cache is a node of a cluster";
    TARGET_READ_ONLY "target-read-only" "a cache is a replica, which accepts no writes";
    TARGET_FULL "target-full" "a cache has no memory left, so readers cannot fill it";
    TARGET_NOT_READY "target-not-ready" "a cache accepts no writes at the moment";
    TARGET_COMMAND "target-command" "a cache does not know a command that coherd needs";
    TARGET_PERSISTENCE "target-persistence" "a restart of a cache brings back old values for a moment";
    TARGET_REPLICAS "target-replicas" "a failover of a cache brings back old values for a moment";
    EVICTION_NONE "eviction-none" "a full cache refuses the values that readers want to store";
    EVICTION_RECORD "eviction-record" "a full cache may evict the record, which costs a flush";
    EVICTION_LEASES "eviction-leases" "a full cache evicts leases first, so readers can no longer fill it";
    RECORD_UNREADABLE "record-unreadable" "the record's key holds something else";
    RECORD_FOREIGN "record-foreign" "the record belongs to another database, which may have its own coherd";
    LIBRARY_MISSING "library-missing" "the functions for readers are not in the cache";
    LIBRARY_OLD "library-old" "the functions for readers in the cache are older than coherd's";
    LIBRARY_FOREIGN "library-foreign" "the functions for readers in the cache are not coherd's";
    LIBRARY_UNSUPPORTED "library-unsupported" "the cache has no functions, so readers use scripts";
    ACL_UNLINK "acl-unlink" "the cache's user may not UNLINK";
    ACL_HSET "acl-hset" "the cache's user may not HSET";
    ACL_HGET "acl-hget" "the cache's user may not HGET";
    ACL_HGETALL "acl-hgetall" "the cache's user may not HGETALL";
    ACL_DBSIZE "acl-dbsize" "the cache's user may not DBSIZE";
    ACL_SCAN "acl-scan" "the cache's user may not SCAN";
    ACL_EVAL "acl-eval" "the cache's user may not EVAL";
    ACL_EVALSHA "acl-evalsha" "the cache's user may not EVALSHA";
    ACL_TIME "acl-time" "the cache's user may not TIME";
    ACL_GET "acl-get" "the cache's user may not GET";
    ACL_SET "acl-set" "the cache's user may not SET";
    ACL_PUBLISH "acl-publish" "the cache's user may not PUBLISH";
    ACL_FUNCTION_LIST "acl-function-list" "the cache's user may not FUNCTION LIST";
    ACL_FUNCTION_LOAD "acl-function-load" "the cache's user may not FUNCTION LOAD";
    ACL_KEYS "acl-keys" "the cache's user may not access the keys of a rule, or the record";
    ACL_CHANNEL "acl-channel" "the cache's user may not publish on the channel";
    ACL_INFO "acl-info" "the cache's user may not INFO, so coherd did not check version, memory and replicas";
    ACL_MULTI "acl-multi" "the cache's user may not MULTI and DISCARD, so coherd did not try PUBLISH";

    SETUP_REFUSED "setup-refused" "the database refused a statement of coherd setup";
    SETUP_STANDBY "setup-standby" "coherd setup was run on a standby, where it can create nothing";
    SETUP_RECORD "setup-record" "coherd setup could not write a target's first record, so the first run flushes the target";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_word_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for code in CODES {
            assert!(code.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{code}");
            assert!(seen.insert(code.name), "{code} stands twice");
            assert!(!code.meaning.ends_with('.') && code.meaning.len() < 100, "{code}");
        }
    }
}
