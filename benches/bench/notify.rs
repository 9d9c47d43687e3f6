//! The usual way without the log: a trigger that notifies a listener, and a listener that deletes the key at once. What is
//! written while nobody listens is lost, and each commit takes a lock that all databases share.
//!
//! The bench executes itself: `bench notify POSTGRES DATABASE SLOT PUBLICATION REDIS`, as it does for the floor; it uses
//! neither slot nor publication.

use crate::floor::Cache;
use crate::session::Session;
use crate::support::postgres::Client;
use crate::support::wait::until;

/// The table whose trigger notifies, like `items`.
pub(crate) const SETUP: &str = "
    CREATE TABLE notified (LIKE items INCLUDING ALL) WITH (fillfactor = 50);
    INSERT INTO notified SELECT * FROM items;
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('gone', 'item:' || NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER tell AFTER UPDATE ON notified FOR EACH ROW EXECUTE FUNCTION tell();";

/// Listens for ever. A notification is a process id, a channel and the key.
pub(crate) fn run(args: &[String]) -> ! {
    let [postgres, database, _slot, _publication, redis] = args else { panic!("notify: five arguments") };
    let (mut session, mut cache) = (Session::connect(postgres, database), Cache::connect(redis));
    session.run("LISTEN gone");
    loop {
        while let Some((tag, body)) = session.inbox.take() {
            if tag == b'A' {
                let mut texts = body[4..].split(|byte| *byte == 0);
                cache.unlink(b"", texts.nth(1).expect("a payload"));
            }
        }
        cache.send();
        cache.confirmed();
        assert_ne!(session.inbox.fill(&mut session.socket).expect("Postgres lives"), 0, "Postgres ended the session");
    }
}

/// Waits until it listens.
pub(crate) fn listens(sql: &mut Client) {
    let ask = "SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN gone' AND state = 'idle'";
    until("somebody listens", || (!sql.rows(ask).is_empty()).then_some(()));
}
